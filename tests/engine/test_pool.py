"""Workers that train the networks of a pool at the same time get the networks of one process."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dist_condense.core import randomness
from dist_condense.core.augmentation import Strategy
from dist_condense.data import MemorySource
from dist_condense.data.normalise import ChannelStatistics
from dist_condense.engine import batches as engine_batches
from dist_condense.engine import trajectory as engine_trajectory
from dist_condense.engine.batches import Normalise, RealBatches
from dist_condense.engine.coordinator import Coordinator, LocalCoordinator, Placement
from dist_condense.engine.errors import RunFailed
from dist_condense.engine.finite import Finding, Quantity
from dist_condense.engine.own_passes import OwnPasses
from dist_condense.engine.training import NetworkTrainer, TrainingRecipe
from dist_condense.engine.trajectory import Pool, Trajectory, faster_at_once
from dist_condense.procedures.matching import Matching
from dist_condense.system.storage import Folder
from tests.engine.test_real_batches import draws, same
from tests.engine.test_units import Meeting, ThreadCoordinator, on_threads

COUNTS = [5, 9, 7]
SHAPE = (3, 8, 8)
K, SIZE, DRAWN, EPOCHS = 7, 4, 3, 2
OWNERS = {1: [range(3)], 2: [(0, 2), (1,)], 3: [(2,), (), (0, 1)], 5: [(), (1,), (0,), (2,), ()]}
"""Classes of each worker, by number of workers."""
UPDATES = EPOCHS * 6
"""Updates of a network: 21 images in batches of 4."""


def real_batches(owned: Sequence[int], coordinator: Coordinator) -> RealBatches:
    keyed = torch.Generator().manual_seed(7)
    images = {c: torch.randint(256, (n, *SHAPE), dtype=torch.uint8, generator=keyed) for c, n in enumerate(COUNTS)}
    return RealBatches(
        seed=3,
        counts=COUNTS,
        source=MemorySource({c: images[c] for c in owned}),
        labels=owned,
        normalised=Normalise.of(ChannelStatistics((0.5,) * 3, (0.2,) * 3), Placement()),
        coordinator=coordinator,
        placement=Placement(),
        shape=SHAPE,
        batch=4,
        amount=8,
        matching_steps=1,
    )


def build(norm: nn.Module, seed: int) -> nn.Module:
    """Build a network with a keyed generator, because all threads share torch's own."""
    keyed = torch.Generator().manual_seed(seed)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), deepcopy(norm), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    for x in network.parameters():
        nn.init.normal_(x, std=0.2, generator=keyed)
    return network


def trajectory_of(coordinator: Coordinator, owned: Sequence[int], folder: Path, slices: int) -> Trajectory:
    """Return the trajectory of a worker, whose reading thread has a group of its own."""
    recipe = TrainingRecipe(lr=0.05, momentum=0.9, strategy=Strategy(("color",), ("crop", "rotate")), cutmix=0.5)
    beside = ThreadCoordinator(coordinator.rank, coordinator.beside_meeting) if coordinator.size > 1 else coordinator
    real = real_batches(owned, beside)
    trainer = NetworkTrainer(recipe, coordinator, Placement(), seed=3, slices=slices)
    pool = Pool(SIZE, EPOCHS, real, Folder(folder), networks=K)
    norm = nn.BatchNorm2d(4) if slices == 1 else nn.GroupNorm(4, 4)  # BatchNorm couples the images of a batch
    return Trajectory(partial(build, norm), trainer, real, pool, seed=3, matching_steps=1)


def flat(network: nn.Module) -> Tensor:
    return torch.cat([x.flatten().double() for x in network.state_dict().values()])


def networks(trajectory: Trajectory, first: int = 0) -> list[Tensor]:
    """Return theta of each network from ``first`` on."""
    seen = []
    for k in range(first, K):
        trajectory.reach(k, 0)
        assert trajectory.updates == 0 and not trajectory.optimiser.state
        seen.append(flat(trajectory.network))
    return seen


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> dict[int, tuple[list[Tensor], dict[str, bytes]]]:
    """Return the networks of one process and the files of its pool, by number of slices."""
    result = {}
    for slices in (1, 2):
        folder = tmp_path_factory.mktemp(f"single{slices}")
        result[slices] = networks(trajectory_of(LocalCoordinator(), range(3), folder, slices)), files(folder)
    return result


@pytest.mark.parametrize("workers", [2, 3, 5])
@pytest.mark.parametrize("slices", [1, 2])
def test_the_networks_of_a_pool_are_those_of_one_process(
    workers: int, slices: int, single: dict[int, tuple[list[Tensor], dict[str, bytes]]], tmp_path: Path
) -> None:
    """Bit for bit, in all that is stored; every worker counts the same updates, and each network is trained once."""
    expected, stored = single[slices]
    assert len(stored) == 2 * DRAWN, "a member that no network of the run draws is not trained"
    beside, counted = Meeting(workers), [0] * workers

    def work(coordinator: Coordinator) -> None:
        coordinator.beside_meeting = beside
        trajectory = trajectory_of(coordinator, OWNERS[workers][coordinator.rank], tmp_path, slices)

        def count() -> None:
            counted[coordinator.rank] += 1
            assert len(set(coordinator.gather(trajectory.updates))) == 1

        trajectory.after_update = count
        for found, theta in zip(networks(trajectory), expected, strict=True):
            assert torch.equal(found, theta)

    on_threads(workers, work)
    assert files(tmp_path) == stored
    assert counted == [-(-DRAWN // workers) * UPDATES] * workers


def test_a_run_continues_the_first_network_and_trains_the_others_again(
    single: dict[int, tuple[list[Tensor], dict[str, bytes]]], tmp_path: Path
) -> None:
    """A checkpoint has the state of rank 0, from which any number of workers continues."""
    expected, stored = single[2]
    beside, state = Meeting(2), {}

    class Stop(Exception):
        pass

    def until(coordinator: Coordinator) -> None:
        coordinator.beside_meeting = beside
        trajectory = trajectory_of(coordinator, OWNERS[2][coordinator.rank], tmp_path, 2)

        def stop() -> None:
            if trajectory.updates == 5:
                raise Stop

        trajectory.after_update = stop
        with pytest.raises(Stop):
            trajectory.reach(0, 0)
        state[coordinator.rank] = trajectory.state_dict()

    on_threads(2, until)
    assert not files(tmp_path)

    def resume(trajectory: Trajectory) -> list[Tensor]:
        trajectory.load_state_dict(state[0])
        trajectory.updates = 5
        return networks(trajectory)

    def work(coordinator: Coordinator) -> None:
        coordinator.beside_meeting = again
        found = resume(trajectory_of(coordinator, OWNERS[3][coordinator.rank], tmp_path / "3", 2))
        assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))

    again = Meeting(3)
    on_threads(3, work)
    found = resume(trajectory_of(LocalCoordinator(), range(3), tmp_path / "1", 2))
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))
    assert files(tmp_path / "1") == files(tmp_path / "3") == stored


def test_a_network_that_is_not_finite_is_named_and_not_stored(tmp_path: Path) -> None:
    beside = Meeting(2)

    def work(coordinator: Coordinator) -> None:
        coordinator.beside_meeting = beside
        trajectory = trajectory_of(coordinator, OWNERS[2][coordinator.rank], tmp_path, 2)

        def spoil() -> None:
            training.append(trajectory.member)
            if coordinator.rank == 1:
                next(trajectory.network.parameters()).data[0] = torch.nan

        trajectory.after_update = spoil
        with pytest.raises(RunFailed, match=f"^network_{second} of the pool is not finite .* Lower training.lr"):
            trajectory.reach(0, 0)
        assert trajectory.member is None

    training: list[int | None] = []
    first, second = list(dict.fromkeys(randomness.key(3, "pool", k) % SIZE for k in range(K)))[:2]
    on_threads(2, work)
    assert set(training) == {first, second} and not files(tmp_path)


@pytest.mark.parametrize(("step", "text"), [(3, "network_5 of the pool is not"), (2, "since its start: network 3, ")])
def test_a_check_within_their_training_names_the_network(step: int, text: str) -> None:
    """What was found at an earlier step was found in the network of that step."""
    finding = Finding(step=step, quantity=Quantity.NETWORK, label=-1, rank=1, largest=0.5)
    procedure: Any = SimpleNamespace(
        shard=SimpleNamespace(first_not_finite=lambda network, done: finding),
        trajectory=SimpleNamespace(network=None, member=5),
        outline=SimpleNamespace(matching_steps=1, names=()),
    )
    problem = Matching.problem(procedure, 3)
    assert problem is not None and text in problem[1]


def test_the_trainer_of_one_worker_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise its updates would be compiled and recorded for each network."""
    beside, built = Meeting(2), []

    def work(coordinator: Coordinator) -> None:
        coordinator.beside_meeting = beside
        trajectory = trajectory_of(coordinator, OWNERS[2][coordinator.rank], tmp_path, 2)
        for members in ([0, 1], [2, 3]):
            trajectory.start._train_at_once(trajectory, members)

    monkeypatch.setattr(engine_trajectory, "replace", lambda x, **given: built.append(x) or replace(x, **given))
    on_threads(2, work)
    assert len(built) == 2 and len(files(tmp_path)) == 2 * SIZE


@pytest.mark.parametrize("block", [1, 4])
def test_each_worker_gets_its_own_batches(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_batches, "BLOCK", block)
    keys = [(-1, member) for member in (4, 2, 7)]

    def given(u: int, counts: Sequence[int], size: tuple[int, int]) -> object:
        return draws(u, counts, (2, 2))

    expected = [list(real_batches(range(3), LocalCoordinator()).passes(2, *key, draws=given)) for key in keys]

    def work(coordinator: Coordinator) -> None:
        real = real_batches(OWNERS[5][coordinator.rank], coordinator)
        found = list(OwnPasses(real, keys).batches(2, given))
        assert len(found) == UPDATES
        if coordinator.rank < len(keys):
            assert same(found, expected[coordinator.rank])
        else:
            assert all(batch.images.shape == (0, *SHAPE) for batch in found)

    on_threads(5, work)


@pytest.mark.parametrize(
    ("networks", "workers", "slices", "at_once"),
    [(1, 2, 4, False), (2, 2, 4, True), (2, 3, 4, True), (2, 64, 4, False), (4, 64, 4, True), (2, 2, 1, True)],
)
def test_networks_are_trained_at_once_where_slices_save_no_more(
    networks: int, workers: int, slices: int, at_once: bool
) -> None:
    assert faster_at_once(networks, workers, slices) is at_once
