"""The same set, bit for bit, whatever the number of workers, with the defaults; and these tests can fail."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dist_condense.engine.coordinator import ProcessGroupCoordinator
from dist_condense.result import metrics_file
from dist_condense.result.metrics_file import METRICS
from dist_condense.system.processor import on_threads
from tests.engine import cases

WAYS: dict[str, cases.Make] = {"shared": cases.shared, "everywhere": cases.everywhere}
"""Of computing the slices of a training batch; elsewhere time decides."""
BROKEN: dict[str, cases.Make] = {"forgetful": cases.Forgetful, "averaging": cases.Averaging}


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """Every case in one process that has several cores, and where it started."""
    with on_threads(cases.CORES):
        folder = tmp_path_factory.mktemp("single")
        return {name: cases.alone(name, folder / name) for name in cases.CASES}


@dataclass
class Ran:
    """Results of a group of processes by name of the output, and where these lie."""

    folder: Path
    found: dict[str, Tensor | str]


@pytest.fixture(scope="module", params=[1, 2, 3])
def group(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Every case, both ways to take the slices, and the broken ones, in a group of processes."""
    jobs: dict[str, tuple[str, cases.Make]] = {name: (name, ProcessGroupCoordinator) for name in cases.CASES}
    if request.param > 1:
        makes = BROKEN | WAYS
        jobs |= {f"{case}_{word}": (case, make) for case in cases.REDUCED for word, make in makes.items()}
    folder = tmp_path_factory.mktemp(f"group{request.param}")
    return Ran(folder, cases.together(request.param, jobs, folder))


@pytest.mark.parametrize("name", cases.CASES)
def test_group_equals_single_process(name: str, single: dict[str, Tensor], group: Ran) -> None:
    found = group.found[name]
    assert isinstance(found, Tensor), found
    assert torch.equal(found, single[name])


def test_whoever_computes_the_slices(single: dict[str, Tensor], group: Ran) -> None:
    """Less is said where every worker computes them all; the set is the same."""
    for case in cases.REDUCED if len(group.found) > len(cases.CASES) else ():
        said = {}
        for way in WAYS:
            found = group.found[f"{case}_{way}"]
            assert isinstance(found, Tensor) and torch.equal(found, single[case]), (way, found)
            said[way] = sum(x["reduced_bytes"] for x in metrics_file.read(group.folder / f"{case}_{way}" / METRICS))
        assert 0 < said["everywhere"] < said["shared"]


def test_broken_reductions_are_noticed(single: dict[str, Tensor], group: Ran) -> None:
    broken = {name: found for name, found in group.found.items() if name.rpartition("_")[2] in BROKEN}
    for name, found in broken.items():
        expected = single[name.rsplit("_", 1)[0]]
        assert isinstance(found, str) or not torch.equal(found, expected), name
        assert not isinstance(found, str) or "differs between workers" in found


@pytest.mark.parametrize("name", cases.CASES)
def test_the_set_moves(name: str, single: dict[str, Tensor], tmp_path: Path) -> None:
    run = cases.load(name, f"output={tmp_path}")
    from dist_condense.engine.coordinator import LocalCoordinator, Placement
    from dist_condense.job.worker import assemble

    start = torch.stack(list(assemble(run, LocalCoordinator(), Placement()).procedure.shard.pixels.values()))
    assert (single[name] - start).abs().max() >= 1e-2
