"""The set is equal, bit for bit, for any number of workers, with the defaults; and these tests can fail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dist_condense.core import randomness
from dist_condense.engine.coordinator import LocalCoordinator, Placement, ProcessGroupCoordinator
from dist_condense.engine.trajectory import faster_at_once
from dist_condense.job.worker import assemble
from dist_condense.result import metrics_file
from dist_condense.settings.run_folder import RunFolder
from dist_condense.system.processor import on_threads
from tests.engine import cases

WAYS: dict[str, cases.Make] = {"shared": cases.shared, "everywhere": cases.everywhere}
"""Ways to compute the slices of a training batch; in a run the timing decides."""
BROKEN: dict[str, cases.Make] = {"forgetful": cases.Forgetful, "averaging": cases.Averaging}
WORKERS = (1, 2, 3)
SELECTIONS = ("random", "herding", "herding_by_class")
"""Cases without measures."""
Found = dict[str, Tensor | str]


@pytest.fixture(scope="module")
def single_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the runs in one process."""
    return tmp_path_factory.mktemp("single")


@pytest.fixture(scope="module")
def single(single_folder: Path) -> dict[str, Tensor]:
    """Run every case in one process with several cores, and return the sets."""
    with on_threads(cases.CORES):
        return {name: cases.alone(name, single_folder / name) for name in cases.CASES}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Return the folders of the runs of each group."""
    return {workers: tmp_path_factory.mktemp(f"group{workers}") for workers in WORKERS}


@pytest.fixture(scope="module")
def groups(folders: dict[int, Path]) -> dict[int, Found]:
    """Run every case in groups of processes, with both ways to divide the slices, and the broken cases."""
    jobs: cases.Jobs = {name: (name, ProcessGroupCoordinator) for name in cases.CASES}
    makes = BROKEN | WAYS
    more: cases.Jobs = {f"{case}_{word}": (case, make) for case in cases.REDUCED for word, make in makes.items()}
    return cases.in_groups({workers: jobs | (more if workers > 1 else {}) for workers in WORKERS}, folders)


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("name", cases.CASES)
def test_group_equals_single_process(
    name: str, workers: int, single: dict[str, Tensor], groups: dict[int, Found]
) -> None:
    result = groups[workers][name]
    assert isinstance(result, Tensor), result
    assert torch.equal(result, single[name])


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("name", [name for name in cases.CASES if name not in SELECTIONS])
def test_measures_of_a_group_equal_those_of_a_single_process(
    name: str,
    workers: int,
    single: dict[str, Tensor],
    groups: dict[int, Found],
    folders: dict[int, Path],
    single_folder: Path,
) -> None:
    expected = cases.measures(single_folder / name)
    assert all(measured["gradient norm"] > 0 for _, measured in expected)
    assert cases.measures(folders[workers] / name) == expected


@pytest.mark.parametrize("workers", WORKERS[1:])
@pytest.mark.parametrize("case", ["idc_pooled_by_kmeans", "representative"])
def test_the_groups_pretrain_the_networks_of_a_pool_at_once(case: str, workers: int) -> None:
    run = cases.load(case, "output=unused")
    schedule = run.trajectory
    drawn = {randomness.key(run.seed, "pool", k) % schedule.pool_size for k in range(schedule.networks)}
    assert faster_at_once(len(drawn), workers, 4)  # slices


@pytest.mark.parametrize("workers", WORKERS[1:])
@pytest.mark.parametrize("case", cases.REDUCED)
def test_whoever_computes_the_slices(
    case: str, workers: int, single: dict[str, Tensor], groups: dict[int, Found], folders: dict[int, Path]
) -> None:
    """The set is equal, and fewer bytes are reduced where every worker computes all slices."""
    reduced = {}
    for way in WAYS:
        result = groups[workers][f"{case}_{way}"]
        assert isinstance(result, Tensor) and torch.equal(result, single[case]), (way, result)
        entries = metrics_file.read(RunFolder(folders[workers] / f"{case}_{way}").metrics)
        reduced[way] = sum(entry["reduced_bytes"] for entry in entries)
    assert 0 < reduced["everywhere"] < reduced["shared"]


@pytest.mark.parametrize("workers", WORKERS[1:])
def test_broken_reductions_are_noticed(workers: int, single: dict[str, Tensor], groups: dict[int, Found]) -> None:
    broken = {name: result for name, result in groups[workers].items() if name.rpartition("_")[2] in BROKEN}
    assert len(broken) == len(BROKEN) * len(cases.REDUCED)
    for name, result in broken.items():
        expected = single[name.rsplit("_", 1)[0]]
        assert isinstance(result, str) or not torch.equal(result, expected), name
        assert not isinstance(result, str) or "differs between workers" in result


@pytest.mark.parametrize("case", cases.REDUCED)
def test_workers_count_what_they_reduce(case: str, groups: dict[int, Found], folders: dict[int, Path]) -> None:
    folder, workers = folders[2] / f"{case}_shared", range(2)
    entries = _lines(RunFolder(folder).metrics)
    ranks = [[line for line in _lines(folder / "logs" / f"worker_{rank}.jsonl") if "loss" in line] for rank in workers]
    for entry, *own in zip(entries, *ranks, strict=True):
        assert [(line["step"], line["loss"]) for line in own] == [(entry["step"], entry["loss"])] * 2
        assert entry["reduced_bytes"] == sum(line["reduced"] for line in own)
    assert all(entry["reduced_bytes"] > 0 for entry in entries[1:])  # the first step may be that of single classes


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize("name", cases.CASES)
def test_the_set_moves(name: str, single: dict[str, Tensor], tmp_path: Path) -> None:
    run = cases.load(name, f"output={tmp_path}")
    start = cases.learnt(assemble(run, LocalCoordinator(), Placement()).procedure.state_dict())
    assert (single[name] - start).abs().max() >= 1e-2
