"""A damaged metrics.jsonl is still read, and is cut back to complete entries, each once and in order."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from dist_condense.engine.errors import RunFailed
from dist_condense.result.metrics_file import append, cut, problem, read
from dist_condense.settings.run_folder import RunFolder
from dist_condense.system.records import Unreadable


def entry(step: int) -> dict[str, float]:
    return {"step": step, "loss": 100.0 / step}


def line(step: int) -> str:
    return json.dumps(entry(step)) + "\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def test_torn_lines_are_passed_over(file: Path) -> None:
    assert read(file) == []
    first, second = line(10).strip(), line(20).strip()
    file.write_text(f'{first}\n{{"step": 1{second}\n{second}\n\0\0\n{first[:20]}')
    assert read(file) == [entry(10), entry(20)]


@pytest.mark.parametrize(
    "other",
    [
        *("[1]", "null", "3", '{"loss": 1}', '{"step": "x"}', '{"step": 1.5}', '{"step": 3, "loss": "x"}', "\udcff"),
        *('{"step": -1}', '{"step": true}', '{"step": 3, "loss": true}', f'{{"step": 3, "loss": {10**30}}}'),
    ],
)
def test_what_is_no_entry_is_named_where_it_would_be_kept(other: str, file: Path) -> None:
    text = f"{line(1)}{other}\n{line(2)}{line(3)}"
    file.write_bytes(text.encode(errors="surrogateescape"))
    assert read(file) == [entry(1), entry(2), entry(3)]
    message = problem(file, 2)
    assert message is not None and message.startswith(f"{file}, line 2: ") and "move the file away" in message
    assert problem(file, 1) is None  # the invalid line is removed


def test_another_editors_file_is_read(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf" + "".join(map(line, (1, 2, 3))).replace("\n", "\r\n").encode())
    assert problem(file, 3) is None and read(file) == [entry(1), entry(2), entry(3)]
    cut(file, 2)
    assert file.read_text() == line(1) + line(2)


def test_a_number_that_is_not_finite_is_one(file: Path) -> None:
    file.write_text('{"step": 1, "loss": NaN}\n' + line(2))
    assert problem(file, 2) is None and [x["step"] for x in read(file)] == [1, 2]


def test_a_line_without_its_end_is_dropped_and_the_next_does_not_stick_to_it(file: Path) -> None:
    file.write_text(line(1) + line(2)[:-5])
    assert problem(file, 2) is None
    cut(file, 2)
    append(file, entry(2))
    assert file.read_text() == line(1) + line(2)


def test_lines_of_two_starts_are_put_in_order(file: Path) -> None:
    file.write_text("".join(map(line, (4, 5, 1, 2, 3, 4, 6))))
    cut(file, 5)
    assert file.read_text() == "".join(map(line, (1, 2, 3, 4, 5)))


def test_a_file_that_is_right_is_left_alone(file: Path) -> None:
    cut(file, 3)
    assert not file.exists()
    file.write_text(line(1))
    before = file.stat().st_ino
    cut(file, 1)
    assert file.stat().st_ino == before


def sparse(file: Path) -> None:
    file.touch()
    os.truncate(file, 10 * 2**30)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, sparse])
def test_what_cannot_be_read_is_named(make: Callable[[Path], object], file: Path) -> None:
    make(file)
    told = rf"^{file} cannot be read: "
    assert re.search(f"{told}.*; repair it, or move the file away$", problem(file, 2) or "")
    for read_it in (lambda: read(file), lambda: cut(file, 2)):
        with pytest.raises(Unreadable, match=told):
            read_it()


def test_a_copy_leaves_the_original_alone(file: Path) -> None:
    file.write_text("".join(map(line, (1, 2, 3))))
    cut(file, 2, file.with_name("copy"))
    assert file.with_name("copy").read_text() == line(1) + line(2) and len(read(file)) == 3


def test_a_disk_that_does_not_take_a_line_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"nowhere/metrics\.jsonl cannot be written"):
        append(tmp_path / "nowhere" / RunFolder.metrics.name, entry(1))
