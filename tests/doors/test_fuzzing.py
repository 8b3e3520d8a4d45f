"""The harness notices each violation of the rule, and its mutations change a file while many stay readable."""

import json
import mmap
import os
import pickle
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.doors import fuzzing
from tests.doors.fuzzing import check_lines, door, fuzz, mutated_bytes, mutated_json, mutated_yaml, unchanged


class Refusal(ValueError):
    def __init__(self, *problems: str) -> None:
        self.problems = problems


def test_a_clear_refusal_passes() -> None:
    with door(Refusal) as answer:
        raise Refusal("a.json: size: -1 is not in the range 1 to 8")
    assert answer.lines == ["a.json: size: -1 is not in the range 1 to 8"]


def test_another_error_is_no_refusal() -> None:
    with pytest.raises(KeyError), door(Refusal):
        raise KeyError("size")


@pytest.mark.parametrize("lines", [[], [""], ["a\nb"], ["x" * 3_000], ["<C object at 0x7f>"], ["x"] * 200])
def test_unclear_lines_are_noticed(lines: list[str]) -> None:
    with pytest.raises(AssertionError):
        check_lines(lines)


def test_computation_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzzing, "SECONDS", 0.01)
    with pytest.raises(AssertionError, match=" s: "), door():
        sum(range(10_000_000))


def test_a_hang_ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fuzzing, "WAIT", 0.1)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(AssertionError, match="no answer"), door():
        (tmp_path / "pipe").read_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is reset by Linux alone")
def test_memory_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzzing, "BYTES", 50 * 2**20)
    with pytest.raises(AssertionError, match="MiB"), door():
        mmap.mmap(-1, 100 * 2**20).write(b"x" * 100 * 2**20)  # not from the memory that malloc keeps


@pytest.mark.parametrize("attack", [lambda: pickle.loads(pickle.dumps(Path)), lambda: subprocess.run(["true"])])
def test_execution_is_noticed(attack) -> None:
    with pytest.raises(AssertionError), door():
        attack()


@pytest.mark.parametrize("change", [lambda f: f.write_text("b"), Path.unlink, lambda f: (f.parent / "c").touch()])
def test_a_lost_file_is_noticed(change, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    with pytest.raises(AssertionError), unchanged(tmp_path):
        change(tmp_path / "a")


RAN: Counter[str] = Counter()
VALID = {"format": 1, "classes": [{"name": "cat", "sha256": "0" * 64, "count": 3}], "mean": [0.5], "soft": False}


@pytest.mark.parametrize(
    "strategy", [mutated_json(VALID), mutated_yaml(VALID), mutated_bytes(json.dumps(VALID).encode())]
)
def test_mutations_change_a_file(strategy) -> None:
    made: set[bytes] = set()

    @fuzz(strategy, examples=60)
    def collect(data: bytes) -> None:
        made.add(data)

    collect()
    assert len(made) > 20  # hypothesis also draws constants of the modules that are imported, so this varies


def test_mutated_documents_are_mostly_json() -> None:
    read = []

    @fuzz(mutated_json(VALID), examples=60)
    def collect(data: bytes) -> None:
        try:
            read.append(isinstance(json.loads(data), dict))
        except (ValueError, RecursionError):
            read.append(False)

    collect()
    assert sum(read) > 20


def test_a_failure_is_reported_whatever_the_time() -> None:
    @fuzz(mutated_json(VALID), examples=60, seconds=0.05)
    def fail(data: bytes) -> None:
        raise KeyError(data)

    with pytest.raises(KeyError):
        fail()


@pytest.mark.parametrize("name", ["first", "second"])
@fuzz(mutated_json(VALID), examples=200, seconds=0.3)
def test_each_case_of_a_test_has_its_own_time(name: str, tmp_path: Path, data: bytes) -> None:
    RAN[name] += 1
    time.sleep(0.02)


def test_each_case_was_tried() -> None:
    assert 20 <= RAN["first"] < 200 and 20 <= RAN["second"] < 200
