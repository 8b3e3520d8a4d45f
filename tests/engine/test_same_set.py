"""The same set, bit for bit, whatever the number of workers; and these tests can fail."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from dist_condense.engine.coordinator import ProcessGroupCoordinator
from tests.engine import cases

BROKEN = {"forgetful": cases.Forgetful, "averaging": cases.Averaging}


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """Every case in one process, and where it started."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("single")
    return {name: cases.alone(name, folder / name) for name in cases.CASES}


@pytest.fixture(scope="module", params=[1, 2, 3])
def group(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor | str]:
    """Every case, and the broken ones, in a group of processes."""
    jobs: dict[str, tuple[str, cases.Make]] = {name: (name, ProcessGroupCoordinator) for name in cases.CASES}
    if request.param > 1:
        jobs |= {f"{case}_{word}": (case, make) for case in cases.REDUCED for word, make in BROKEN.items()}
    return cases.together(request.param, jobs, tmp_path_factory.mktemp(f"group{request.param}"))


@pytest.mark.parametrize("name", cases.CASES)
def test_group_equals_single_process(name: str, single: dict[str, Tensor], group: dict[str, Tensor | str]) -> None:
    found = group[name]
    assert isinstance(found, Tensor), found
    assert torch.equal(found, single[name])


def test_broken_reductions_are_noticed(single: dict[str, Tensor], group: dict[str, Tensor | str]) -> None:
    broken = {name: found for name, found in group.items() if name not in cases.CASES}
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
