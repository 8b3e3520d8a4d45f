"""A record has the types of its dataclass, or is refused in one line with the file, path, value and expectation;
no other function parses untrusted JSON or YAML."""

from __future__ import annotations

import ast
import json
import os
import pickle
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml

import dist_condense
from dist_condense.system import records
from dist_condense.system.conversion import NonNegative, Rule
from dist_condense.system.records import BYTES, DEPTH, VALUES, Unreadable, made, parsed, read

PACKAGE = Path(dist_condense.__file__).parent


@dataclass(frozen=True)
class Part:
    name: str
    number: NonNegative = 0


@dataclass(frozen=True)
class Whole:
    parts: Sequence[Part]
    factor: Annotated[int, Rule("1 or 2", (1, 2).__contains__)]
    rate: float
    done: bool
    kind: Literal["a", "b", 3]
    sizes: tuple[int, ...] | None
    by_name: Mapping[str, Part]
    more: dict[str, Any]
    words: list[str | int]
    note: str | None = None

    def __post_init__(self) -> None:
        if len(self.parts) > 3:
            raise ValueError(f"has {len(self.parts)} parts, expected at most 3")


WHOLE = Whole((Part("x", 2), Part("ü")), 2, 0.5, True, "a", (1, 2), {"p": Part("y")}, {"a": [1, None]}, ["a", 1])


def plain() -> Any:
    return json.loads(json.dumps(asdict(WHOLE)))


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "whole.json"
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(plain(), ensure_ascii=False).encode())
    assert read(Whole, file) == WHOLE
    assert isinstance(made(float, 3, ""), float) and made(Whole, {**plain(), "rate": 1}, "").rate == 1.0
    assert made(Whole, {**plain(), "new": 1}, "", ignore_unknown=True) == WHOLE


Change = Callable[[dict[str, Any]], object]
CHANGES: list[tuple[Change, str]] = [
    (lambda x: x.pop("factor"), "factor: missing"),
    (lambda x: x["parts"][1].pop("name"), "parts[1].name: missing"),
    (lambda x: x["parts"][1].update(nmae=1), "parts[1].nmae: unknown, expected one of name, number"),
    (lambda x: x.update({"a b\n": 1}), "['a b\\n']: unknown, expected one of parts,"),
    (lambda x: x.update(factor=True), "factor: found true, expected an integer"),
    (lambda x: x.update(factor=1.0), "factor: found 1.0, expected an integer"),
    (lambda x: x.update(factor=3), "factor: found 3, expected 1 or 2"),
    (lambda x: x.update(factor=10**30), "factor: found 1000000000000000000000000000000, expected an integer"),
    (lambda x: x["parts"][0].update(number=-1), "parts[0].number: found -1, expected an integer from 0"),
    (lambda x: x.update(rate=float("nan")), "rate: found nan, expected a finite number"),
    (lambda x: x.update(rate=float("inf")), "rate: found inf, expected a finite number"),
    (lambda x: x.update(rate=10**400), "rate: found 1000"),
    (lambda x: x.update(rate=None), "rate: found null, expected a finite number"),
    (lambda x: x.update(rate="1"), "rate: found '1', expected a finite number"),
    (lambda x: x.update(done=1), "done: found 1, expected true or false"),
    (lambda x: x.update(done="true"), "done: found 'true', expected true or false"),
    (lambda x: x.update(kind="c"), "kind: found 'c', expected 'a' or 'b' or 3"),
    (lambda x: x.update(kind=[]), "kind: found a list of 0, expected"),
    (lambda x: x.update(sizes=[1, None]), "sizes[1]: found null, expected an integer"),
    (lambda x: x.update(parts={"0": {}}), "parts: found an object of 1, expected a list"),
    (lambda x: x.update(by_name=[]), "by_name: found a list of 0, expected an object"),
    (lambda x: x["by_name"].update(q=[]), "by_name.q: found a list of 0, expected an object"),
    (lambda x: x["by_name"].update({"\ud800": {"name": "x"}}), "by_name['\\ud800']: found '\\ud800', expected text"),
    (lambda x: x["more"].update(a={"b": [0, float("inf")]}), "more.a.b[1]: found inf, expected a finite number"),
    (lambda x: x["more"].update(a=2**70), "more.a: found 1180591620717411303424, expected an integer"),
    (lambda x: x["more"].update(a="\udcff"), "more.a: found '\\udcff', expected text"),
    (lambda x: x["words"].append(None), "words[2]: found null, expected text"),
    (lambda x: x.update(note=["x"]), "note: found a list of 1, expected text"),
    (lambda x: x.update(note="\ud800"), "note: found '\\ud800', expected text"),
    (lambda x: x.update(kind="x" * 10**6), f"kind: found '{'x' * 79}, expected 'a'"),
    (lambda x: x.update(kind="https://user:very-secret@host/"), "kind: found 'https://***@host/', expected"),
    (lambda x: x.update(kind="\33[2J\u202e"), "kind: found '\\x1b[2J\\u202e', expected"),
    (lambda x: x.update(parts=[{"name": "x"}] * 4), "has 4 parts, expected at most 3"),
]


@pytest.mark.parametrize(("change", "line"), CHANGES, ids=[line[:40].encode("ascii", "replace") for _, line in CHANGES])
def test_what_does_not_fit_is_one_line_with_its_path(change: Change, line: str, tmp_path: Path) -> None:
    file, content = tmp_path / "whole.json", plain()
    change(content)
    file.write_text(json.dumps(content))
    with pytest.raises(Unreadable) as caught:
        read(Whole, file)
    reported = str(caught.value)
    assert reported.startswith(f"{file}: {line}") and reported.isprintable() and len(reported) < len(str(file)) + 250


def test_the_faults_of_a_record_are_reported_together_up_to_ten() -> None:
    content = plain() | {"note": 1, "other": 2}
    del content["kind"]
    with pytest.raises(Unreadable) as caught:
        made(Whole, content, "a.json")
    lines = ["kind: missing", "note: found 1, expected text", "other: unknown, expected one of"]
    assert all(
        problem.startswith(f"a.json: {line}") for problem, line in zip(caught.value.problems, lines, strict=True)
    )
    assert str(caught.value) == "a.json: kind: missing (and 2 more)"
    assert pickle.loads(pickle.dumps(caught.value)).problems == caught.value.problems
    with pytest.raises(Unreadable) as caught:
        made(list[list[int]], [["x"] * 20] * 10**5, "a.json")
    assert len(caught.value.problems) == 10


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"", "it is not JSON"),
        (b"{", "it is not JSON"),
        (b"9" * 5000, "it is not JSON"),
        (b"[] []", "it is not JSON"),
        (b"[1,\n2,\n'\xff']", "line 3: this is not UTF-8"),
        ("[]".encode("utf-16"), "line 1: this is not UTF-8"),
        (b"[" * (DEPTH + 1) + b"]" * (DEPTH + 1), f"nested more than {DEPTH} deep"),
        (b'{"a":' * 10**5, f"nested more than {DEPTH} deep"),
        (b'{"a": 1, "a": 2}', "the key 'a' occurs twice"),
        (b"[" + b"0," * VALUES + b"0]", f"more than {VALUES} values"),
        (b" " * (BYTES + 1), f"more than {BYTES} bytes"),
        (b'"' + b'\\"' * 10**6, "it is not JSON"),
    ],
    ids=range(12),
)
def test_a_text_that_is_no_bounded_json_is_one_line(data: bytes, line: str) -> None:
    before = time.process_time()
    with pytest.raises(Unreadable) as caught:
        parsed(data, "a.json")
    assert str(caught.value).startswith("a.json") and line in str(caught.value) and "\n" not in str(caught.value)
    assert time.process_time() - before < 5


def test_brackets_within_texts_do_not_count() -> None:
    assert parsed(b'["' + b"[" * 99 + b'\\"[", {"\\\\": "["}]', "x") == ["[" * 99 + '"[', {"\\": "["}]
    deep = b"[" * DEPTH + b"]" * DEPTH
    assert str(parsed(deep, "x")) == deep.decode()


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    """None of these blocks, and none is read to its end."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to("loop")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(20 * 2**30)
    for path in (*(tmp_path / name for name in ("pipe", "link", "loop", "large", "none", "\0")), tmp_path):
        with pytest.raises(Unreadable, match="cannot be read: ") as caught:
            read(Part, path)
        assert "\n" not in str(caught.value)
    (tmp_path / "record").write_text('{"name": "x"}')
    (tmp_path / "to").symlink_to("record")
    assert read(Part, tmp_path / "to") == Part("x")


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdef", "bcdefg", strict=True)
)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (BOMB, f"more than {records.YAML_VALUES} values"),
        ("a: &a [*a]", "an anchor leads to itself"),
        ("a: &a {b: *a}", "an anchor leads to itself"),
        ("a: " + "[" * 40 + "]" * 40, f"nested more than {DEPTH} deep"),
        ("a: " + "[" * 999, f"nested more than {DEPTH} deep"),
    ],
)
def test_a_yaml_document_stands_for_no_more_than_fits(text: str, line: str) -> None:
    loader = yaml.SafeLoader(text)
    with pytest.raises(yaml.MarkedYAMLError, match=line):
        records.document(loader)


def test_an_ordinary_yaml_document_is_composed() -> None:
    loader = yaml.SafeLoader("a: &a [1, 2]\nb: *a\nc: {<<: {d: *a}}")
    assert loader.construct_document(records.document(loader)) == {"a": [1, 2], "b": [1, 2], "c": {"d": [1, 2]}}
    assert records.document(yaml.SafeLoader("")) is None


def test_whatever_is_changed_at_random_is_read_or_one_line() -> None:
    """Bytes of a valid record are changed, removed and repeated, with a fixed seed."""
    draw, whole = random.Random(0), json.dumps(plain()).encode()
    for _ in range(2000):
        data = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            first, last = sorted(draw.randrange(len(data) + 1) for _ in range(2))
            piece = draw.choice([b"", bytes([draw.randrange(256)]), data[first:last], b"null", b"[", b"1e999", b"NaN"])
            data[first : draw.choice([first, first + 1, last])] = piece
        reported = "x"
        try:
            made(Whole, parsed(bytes(data), "x"), "x")
        except Unreadable as error:
            reported = str(error)
        assert reported.isprintable() and reported.startswith("x")


# --- nothing else parses ---------------------------------------------------------------------------------------------

LOADERS = {f"{c}{name}Loader" for c in ("", "C") for name in ("", "Base", "Safe", "Full", "Unsafe")}
PARSING = {
    "json": {"load", "loads", "JSONDecoder"},
    "yaml": {"scan", "parse", "compose", "compose_all", *LOADERS}
    | {f"{kind}load{all_of}" for kind in ("", "safe_", "full_", "unsafe_") for all_of in ("", "_all")},
    "OmegaConf": {"load", "create", "from_dotlist", "from_cli"},
    "tomllib": {"load", "loads"},
    "ast": {"literal_eval"},
    "csv": {"reader", "DictReader"},
}
METHODS = {"get_single_node", "get_single_data", "get_data", "json"}
OTHERS = {"orjson", "ujson", "simplejson", "ruamel", "toml", "configparser", "plistlib", "xml"}
"""Packages that parse, of which none is imported."""
EXCEPTIONS = {
    "system/records.py json.loads": "the one reader",
    "system/records.py get_single_node": "the one reader",
    "system/records.py yaml.SafeLoader": "the one reader",
    "settings/composing.py OmegaConf.create": "of texts that the one reader has read",
    "settings/yaml_files.py OmegaConf.create": "of texts that the one reader has read",
    "evaluation/rows.py csv.DictReader": "of a text that the one reader has read",
    "engine/exchange.py json.loads": "messages between the workers of one run, which have limits of their own",
    "data/preparing/prepare.py json.loads": "of what json.dumps has just made",
    "data/shards/manifest.py json.loads": "of what json.dumps has just made",
}


def parsing(source: str) -> Iterator[str]:
    """Return the functions that parse JSON or YAML in a module, by whatever name it imports them."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.attr in PARSING.get(node.value.id, ()):
                yield f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
            yield node.func.attr
        elif isinstance(node, ast.ImportFrom) and node.module in PARSING:
            yield from (f"{node.module}.{x.name}" for x in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"OmegaConf as {x.asname}" for x in node.names if x.name == "OmegaConf" and x.asname)
            yield from (name for name in [str(node.module).split(".")[0]] if name in OTHERS)
        elif isinstance(node, ast.Import):
            yield from (f"{x.name} as {x.asname}" for x in node.names if x.name in PARSING and x.asname)
            yield from (x.name for x in node.names if x.name.split(".")[0] in OTHERS)


def test_only_the_one_reader_parses_what_others_wrote() -> None:
    files = {path.relative_to(PACKAGE).as_posix(): path.read_text() for path in PACKAGE.rglob("*.py")}
    assert {f"{file} {name}" for file, source in files.items() for name in parsing(source)} == set(EXCEPTIONS)


@pytest.mark.parametrize(
    "source",
    [
        "import json\njson.load(x)",
        "from json import loads",
        "import yaml as y",
        "loader.get_single_data()",
        "yaml.load",
        "yaml.CSafeLoader(text)",
        "from omegaconf import OmegaConf\nOmegaConf.load(file)",
        "from omegaconf import OmegaConf as O",
        "requests.get(url).json()",
        "import xml.etree.ElementTree",
        "from ruamel.yaml import YAML",
        "ast.literal_eval(text)",
        "csv.reader(file)",
    ],
)
def test_whatever_parses_is_found(source: str) -> None:
    assert len(list(parsing(source))) == 1
