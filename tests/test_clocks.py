"""Only texts for a person or MLflow depend on the time of day."""

from __future__ import annotations

import ast
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dist_condense.settings.run_folder import RunFolder
from tests.engine import cases

METRICS = RunFolder.metrics.name

PACKAGE = Path(__file__).parents[1] / "dist_condense"
WALL_CLOCKS = ("time", "time_ns", "localtime", "gmtime", "ctime", "now", "utcnow", "today", "st_mtime", "st_mtime_ns")
SHOWN = {
    "job/journal.py": ["time"],  # the time axis of MLflow
    "engine/ray/failures.py": ["now"],  # of lines in restarts.log
    "result/tracking/server_run.py": ["time"],  # the same axis, where a line has none
    "result/card.py": ["now"],  # card.json's date
}


def wall_clocks(source: str) -> Iterator[str]:
    """Return the attributes that read the time of day, such as `time.time` and `datetime.now`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in WALL_CLOCKS:
            yield node.attr
        elif isinstance(node, ast.ImportFrom) and node.module == "time":
            yield from (alias.name for alias in node.names if alias.name in WALL_CLOCKS)


def test_the_time_of_day_is_asked_for_where_it_is_shown_alone() -> None:
    result = {str(file.relative_to(PACKAGE)): list(wall_clocks(file.read_text())) for file in PACKAGE.rglob("*.py")}
    assert {file: asked for file, asked in result.items() if asked} == SHOWN


def test_the_walk_finds_clocks() -> None:
    assert list(wall_clocks("from time import time, monotonic\nimport time\ntime.time_ns()\ntime.monotonic()")) == [
        "time",
        "time_ns",
    ]


def test_a_clock_that_jumps_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clock jumps of years at every call: no checkpoint is written early, no rate is negative, no bit changes."""
    expected = cases.alone("idc", tmp_path / "steady")
    calls: list[float] = []
    real = time.time

    def jumping() -> float:
        calls.append(real() + (-1) ** len(calls) * 1e8)
        return calls[-1]

    monkeypatch.setattr(time, "time", jumping)
    result = cases.alone("idc", tmp_path / "jumping")
    assert torch.equal(result, expected)
    assert len(list((tmp_path / "jumping" / "checkpoints").glob("step_*"))) == 1
    entries = [json.loads(line) for line in (tmp_path / "jumping" / METRICS).read_text().splitlines()]
    assert all(0 < entry["steps_per_second"] < 1e6 and 0 <= entry["waiting"] <= 1 for entry in entries)
