"""Files beside a set in a run's folder, changed at random: evaluation.csv, metrics.jsonl, and what the report shows."""

from __future__ import annotations

import functools
import json
import tempfile
from html.parser import HTMLParser
from pathlib import Path

from hypothesis import strategies as st

from dist_condense.evaluation.class_rows import ClassRow, ClassTable, read_classes
from dist_condense.evaluation.rows import FORMULA, Row, RowsError, append_csv, read_csv
from dist_condense.result import metrics_file
from dist_condense.result.metrics_file import STEP
from dist_condense.result.report import write_report
from tests.doors.fuzzing import door, fuzz, mutated_bytes, mutated_json, odd_scalars
from tests.doors.test_sets import valid

HEAD = b"set,protocol,architecture,seed,epochs,top1_last,top1_best\n"
CSV = HEAD + b'condensed,dc,"convnet:depth=2,width=4",0,300,52.5,53.0\nrandom,dc,mlp,1,300,40.0,\n'
CLASSES_CSV = (
    b"set,protocol,architecture,seed,epochs,label,name,images,top1\n"
    b"condensed,dc,mlp,0,300,0,cat,40,52.5\nrandom,dc,mlp,1,300,1,'=dog,0,\n"
)
FORMULAS = ("=1+1", "+1", "-1", "@x", "\t=1")
cells = st.one_of(odd_scalars.map(str), st.text(max_size=8), st.sampled_from(FORMULAS)).map(
    lambda x: x.encode("utf-8", "surrogatepass")
)


@st.composite
def csv_changed(draw: st.DrawFn, file: bytes) -> bytes:
    """Draw a changed CSV file: cells replaced by odd ones, then in some examples also bytes."""
    lines = [line.split(b",") for line in file.splitlines()]
    for _ in range(draw(st.integers(0, 2))):
        line = lines[draw(st.integers(0, 2))]
        line[draw(st.integers(0, len(line) - 1))] = draw(cells)
    data = draw(st.sampled_from([b"\n", b"\r\n"])).join(b",".join(line) for line in lines) + b"\n"
    return draw(mutated_bytes(data)) if draw(st.booleans()) else data


@fuzz(csv_changed(CSV), examples=150, seconds=2)
def test_rows(tmp_path: Path, data: bytes) -> None:
    """Rows are refused with their file, or kept by the next append."""
    path = tmp_path / "evaluation.csv"
    path.write_bytes(data)
    rows = list[Row]()
    with door(RowsError) as answer:
        rows = read_csv(path)
    if answer.lines is None:
        append_csv(path, [])
        assert read_csv(path) == rows
        assert all(0 <= row.top1_last <= 100 and not row.set.startswith(FORMULA) for row in rows)
    else:
        assert str(path) in answer.lines[0] and path.read_bytes() == data


@fuzz(csv_changed(CLASSES_CSV), examples=100, seconds=2)
def test_rows_of_classes(tmp_path: Path, data: bytes) -> None:
    """Rows are refused with their file, or kept when a network is added."""
    path = tmp_path / "evaluation_classes.csv"
    path.write_bytes(data)
    rows = list[ClassRow]()
    with door(RowsError) as answer:
        rows = read_classes(path)
    if answer.lines is None:
        added = Row(set="new", protocol="dc", architecture="mlp", seed=0, epochs=1, top1_last=1.0, top1_best=None)
        ClassTable(path, ["cat"], [2]).write(added)
        assert read_classes(path)[:-1] == rows and not any(row.name.startswith(FORMULA) for row in rows)
    else:
        assert str(path) in answer.lines[0] and path.read_bytes() == data


ENTRY = {
    "step": 1,
    "loss": 81.25,
    "network": 0,
    "matching_step": 1,
    "time": 1.0,
    "steps_per_second": 2.5,
    "waiting": 0.0,
}
LINES = [{**ENTRY, "step": step, "loss": 90.0 / step} for step in (1, 2, 3)]


@fuzz(st.lists(mutated_json(LINES[1]), max_size=2), st.booleans(), examples=150, seconds=2)
def test_metrics(tmp_path: Path, odd: list[bytes], is_first: bool) -> None:
    """Lines that are not entries are passed over, and a cut keeps the others."""
    file = tmp_path / "metrics.jsonl"
    plain = [json.dumps(line).encode() for line in LINES]
    file.write_bytes(b"\n".join([*odd, *plain] if is_first else [*plain, *odd]) + b"\n")
    with door() as answer:
        read = metrics_file.read(file)
        assert [x for x in read if x in LINES][-3:] != [] and all(x[STEP] >= 0 for x in read)
        metrics_file.cut(file, 3)
        assert [x[STEP] for x in metrics_file.read(file)] == sorted({x[STEP] for x in read if x[STEP] <= 3})
    assert answer.is_accepted


class Elements(HTMLParser):
    """Parser that collects the names of all elements and of their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names = set[str]()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names |= {tag, *(f"{tag} {name}" for name, _ in attrs)}
        assert not any(name in ("src", "href") and not str(value).startswith("data:") for name, value in attrs)


def report(folder: Path, card: bytes, metrics: bytes, environment: bytes, architecture: str) -> Elements:
    (folder / "synthetic_set").mkdir(exist_ok=True)
    (folder / "synthetic_set" / "card.json").write_bytes(card)
    (folder / "metrics.jsonl").write_bytes(metrics)
    (folder / "environment.json").write_bytes(environment)
    (folder / "config.yaml").write_bytes(environment)
    (folder / "evaluation.csv").unlink(missing_ok=True)
    row = Row(
        set=architecture, protocol="dc", architecture=architecture, seed=0, epochs=1, top1_last=1.0, top1_best=None
    )
    append_csv(folder / "evaluation.csv", [row])
    return Elements(write_report(folder).read_text(encoding="utf-8"))


ENVIRONMENT = {"python": "3.11", "packages": {"torch": "2.15"}, "cpus": 2, "devices": ["a GPU, 80 GB"], "commit": None}
MARKUP = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</pre></title></style><svg onload=alert(1)>",
    "<a href=javascript:alert(1)>x</a>",
)


@fuzz(
    st.one_of(mutated_json(valid("soft").card), st.just(json.dumps(valid("soft").card).encode())),
    mutated_json(LINES[1]),
    mutated_json(ENVIRONMENT),
    st.sampled_from(MARKUP),
    examples=30,
    seconds=4,
)
def test_a_report(tmp_path: Path, card: bytes, line: bytes, environment: bytes, name: str) -> None:
    """The page has no element and no attribute that the page of a valid run has not."""
    lines = b"\n".join([*(json.dumps(x).encode() for x in LINES), line.replace(b"\n", b" ")]) + b"\n"
    with door() as answer:
        page = report(tmp_path, card, lines, environment, name)
    assert answer.is_accepted
    assert page.names <= vocabulary()


@functools.cache
def vocabulary() -> set[str]:
    """Return the names of all elements and attributes of two pages, one with every section and one with a note."""
    card, lines = json.dumps(valid("soft").card).encode(), b"\n".join(json.dumps(x).encode() for x in LINES) + b"\n"
    with tempfile.TemporaryDirectory() as folder:
        pages = [report(Path(folder), card, lines, data, "mlp") for data in (json.dumps(ENVIRONMENT).encode(), b"[")]
    return pages[0].names | pages[1].names
