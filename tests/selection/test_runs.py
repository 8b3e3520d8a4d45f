"""Selecting as a run: killed after any unit it repeats none, on any number of workers, to the same set."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from dist_condense.data.normalise import to_values
from dist_condense.engine.class_features import IMAGES
from dist_condense.engine.coordinator import Coordinator, LocalCoordinator, ProcessGroupCoordinator
from dist_condense.engine.errors import RunFailed
from dist_condense.engine.training import NetworkTrainer
from dist_condense.job import checkpoint
from dist_condense.job.journal import Journal
from dist_condense.selection.candidates import Candidates
from dist_condense.selection.herding import herding
from dist_condense.selection.shard import SelectionShard
from dist_condense.settings import assembly
from dist_condense.system.storage import Folder
from tests.engine import cases

UNITS = 5
EVERY_UNIT = ("dataset.classes=['0','1','2','3','4']", "tracking.checkpoint_steps=1")


class Killed(BaseException):
    """Stands for a power cut; not caught."""


@dataclass
class Work:
    """Work of this process in all its starts."""

    selected: list[int] = field(default_factory=list)
    """Labels of the classes whose images were selected."""
    trained: int = 0
    """Updates of theta."""


@contextmanager
def counted() -> Iterator[Work]:
    work, select, update = Work(), SelectionShard.select, NetworkTrainer.update

    def selecting(self: SelectionShard, network: nn.Module, label: int) -> None:
        work.selected += [label] * (label in self.labels)
        select(self, network, label)

    def training(self: NetworkTrainer, *given: object) -> None:
        work.trained += 1
        update(self, *given)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SelectionShard, "select", selecting)
        patch.setattr(NetworkTrainer, "update", training)
        yield work


def killed_after_each_unit(name: str, folder: Path, coordinator: type[Coordinator]) -> Work:
    """Start again and again; every start ends when one more unit is stored."""
    whole, run = Journal.after_step, cases.load(name, f"output={folder}", *EVERY_UNIT)

    def after_step(self: Journal, done: int) -> None:
        whole(self, done)
        self.writer.wait()
        raise Killed

    with counted() as work, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "after_step", after_step)
        for _ in range(UNITS):
            with pytest.raises(Killed):
                cases.execute(run, coordinator())
        cases.execute(run, coordinator())  # complete: does nothing
    return work


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("uninterrupted")
    return {name: cases.alone(name, folder / name, *EVERY_UNIT) for name in ("random", "herding")}


UPDATES = {"random": 0, "herding": 12}
"""Updates of theta: three passes of four batches."""


@pytest.mark.parametrize("name", UPDATES)
def test_killed_after_every_unit_one_process_repeats_none(
    name: str, uninterrupted: dict[str, Tensor], tmp_path: Path
) -> None:
    work = killed_after_each_unit(name, tmp_path, LocalCoordinator)
    assert work == Work(list(range(UNITS)), UPDATES[name])
    assert torch.equal(cases.result(tmp_path), uninterrupted[name])


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return results and work by number of workers.

    All tests share the groups, which run one after the other: starting processes is the main cost.
    """
    folder = tmp_path_factory.mktemp("groups")
    mp.spawn(_enter, (folder,), nprocs=3)
    return folder


@pytest.mark.parametrize("workers", [2, 3])
def test_killed_after_every_unit_a_group_repeats_none(
    workers: int, groups: Path, uninterrupted: dict[str, Tensor]
) -> None:
    everyone: list[Work] = torch.load(groups / f"{workers}.work", weights_only=False)
    assert [work.selected for work in everyone] == [list(range(rank, UNITS, workers)) for rank in range(workers)]
    assert {work.trained for work in everyone} == {UPDATES["herding"]}
    assert torch.equal(cases.result(groups / str(workers)), uninterrupted["herding"])


def _enter(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    for workers in (3, 2):
        if rank < workers:
            (folder / str(workers)).mkdir(exist_ok=True)
            address = f"file://{folder}/{workers}.group"
            dist.init_process_group("gloo", init_method=address, rank=rank, world_size=workers)
            work = killed_after_each_unit("herding", folder / str(workers), ProcessGroupCoordinator)
            everyone: list[Work | None] = [None] * workers
            dist.all_gather_object(everyone, work)
            if rank == 0:
                torch.save(everyone, folder / f"{workers}.work")
            dist.destroy_process_group()


@pytest.mark.usefixtures("unlimited")
def test_a_network_that_is_not_finite_chooses_nothing(tmp_path: Path) -> None:
    with pytest.raises(
        RunFailed, match=r"theta is not finite after training on the whole set; lower method\.selection"
    ):
        cases.alone("herding", tmp_path, "method.selection.lr=1e30")
    assert checkpoint.newest(Folder(tmp_path / "checkpoints")) is None


def test_a_set_is_of_stored_images_at_the_stored_positions(tmp_path: Path) -> None:
    """Images are float32 in [0, 1] and exactly the data set's bytes; features of the stored network select them."""
    run = cases.load("herding", f"output={tmp_path}")
    cases.execute(run, LocalCoordinator())
    newest, dataset = checkpoint.newest(Folder(tmp_path / "checkpoints")), assembly.dataset_of(run)
    assert newest is not None
    state, real, statistics = cases.classes(newest), dataset.train(), dataset.space.statistics
    network = assembly.network_builder(run, dataset)(0).eval()
    shared = newest.read([newest.common])[newest.common]
    weights = {name: x for name, x in shared.items() if name.startswith("network.")}
    network.load_state_dict({name.removeprefix("network."): x for name, x in weights.items()})
    for c, count in enumerate(dataset.counts):
        raw = real.get(c, torch.arange(count))
        with torch.no_grad():
            features = torch.cat([network.embed(statistics.normalise(to_values(x))) for x in raw.split(IMAGES)])
        positions = herding(Candidates(c, features=features, ipc=2, seed=0))
        assert torch.equal(state[f"positions.{c}"], positions)
        assert torch.equal(state[f"pixels.{c}"], to_values(raw[positions]))
