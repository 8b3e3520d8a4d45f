"""The same set, bit for bit, whatever the number of workers; and these tests can fail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dist_condense.engine.coordinator import ProcessGroupCoordinator
from dist_condense.result.metrics_file import METRICS
from tests.engine import cases

BROKEN = {"forgetful": cases.Forgetful, "averaging": cases.Averaging}


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """Every case in one process, and where it started."""
    folder = tmp_path_factory.mktemp("single")
    return {name: cases.alone(name, folder / name) for name in cases.CASES}


WORKERS = (1, 2, 3)
Found = dict[str, Tensor | str]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Of the runs of each group."""
    return {workers: tmp_path_factory.mktemp(f"group{workers}") for workers in WORKERS}


@pytest.fixture(scope="module")
def groups(folders: dict[int, Path]) -> dict[int, Found]:
    """Every case, and the broken ones, in groups of processes."""
    jobs: cases.Jobs = {name: (name, ProcessGroupCoordinator) for name in cases.CASES}
    broken: cases.Jobs = {f"{case}_{word}": (case, make) for case in cases.REDUCED for word, make in BROKEN.items()}
    return cases.in_groups({workers: jobs | (broken if workers > 1 else {}) for workers in WORKERS}, folders)


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("name", cases.CASES)
def test_group_equals_single_process(
    name: str, workers: int, single: dict[str, Tensor], groups: dict[int, Found]
) -> None:
    found = groups[workers][name]
    assert isinstance(found, Tensor), found
    assert torch.equal(found, single[name])


@pytest.mark.parametrize("workers", WORKERS[1:])
def test_broken_reductions_are_noticed(workers: int, single: dict[str, Tensor], groups: dict[int, Found]) -> None:
    broken = {name: found for name, found in groups[workers].items() if name not in cases.CASES}
    assert len(broken) == len(BROKEN) * len(cases.REDUCED)
    for name, found in broken.items():
        expected = single[name.rsplit("_", 1)[0]]
        assert isinstance(found, str) or not torch.equal(found, expected), name
        assert not isinstance(found, str) or "differs between workers" in found


@pytest.mark.parametrize("case", cases.REDUCED)
def test_workers_count_what_they_reduce(case: str, groups: dict[int, Found], folders: dict[int, Path]) -> None:
    folder, workers = folders[2] / case, range(2)
    entries = _lines(folder / METRICS)
    ranks = [[line for line in _lines(folder / "logs" / f"worker_{rank}.jsonl") if "loss" in line] for rank in workers]
    for entry, *own in zip(entries, *ranks, strict=True):
        assert [(line["step"], line["loss"]) for line in own] == [(entry["step"], entry["loss"])] * 2
        assert entry["reduced_bytes"] == sum(line["reduced"] for line in own) > 0


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize("name", cases.CASES)
def test_the_set_moves(name: str, single: dict[str, Tensor], tmp_path: Path) -> None:
    run = cases.load(name, f"output={tmp_path}")
    from dist_condense.engine.coordinator import LocalCoordinator, Placement
    from dist_condense.job.worker import assemble

    start = torch.stack(list(assemble(run, LocalCoordinator(), Placement()).shard.pixels.values()))
    assert (single[name] - start).abs().max() >= 1e-2
