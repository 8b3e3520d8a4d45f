"""A device with too little memory gets half of the images at once, with a warning; the result is that microbatch's."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from benchmarks.cases import Settings
from dist_condense import networks
from dist_condense.core.grouping import Grouping, per_class, pooled
from dist_condense.core.program import CannotCapture
from dist_condense.core.statistic import Statistic
from dist_condense.data.image_set import ClassName
from dist_condense.engine import shard as engine_shard
from dist_condense.engine.coordinator import Coordinator, LocalCoordinator, Placement
from dist_condense.engine.errors import RunFailed
from dist_condense.engine.matching.alone import Stepped
from dist_condense.engine.matching.halving import is_out_of_memory
from dist_condense.engine.shard import ClassShard
from dist_condense.planning.images import RandomImages
from dist_condense.settings import assembly
from tests.engine.test_units import on_threads

CLASSES, REAL = 4, 9
RUN = Settings(method="dsa", classes=CLASSES, size=8, real=REAL, per_class=12, ipc=5)
config = cache(RUN.config)


def of_cuda(images: int) -> Exception:
    return torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {images} GiB.\nmore lines")


def of_cpu(images: int) -> Exception:
    return RuntimeError(f"[enforce fail] err == 0. DefaultCPUAllocator: can't allocate memory: {images}")


@dataclass(frozen=True)
class Greedy:
    """Statistic that needs more memory than there is for more than ``room`` images."""

    phi: Statistic
    room: int
    error: Callable[[int], Exception] = of_cuda
    reads_labels = batch_statistics = False

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor) -> list[Tensor]:
        self._check(images)
        return self.phi(network, images, labels)

    def value(self, network: nn.Module, images: Tensor, labels: Tensor) -> list[Tensor]:
        self._check(images)
        return self.phi.value(network, images, labels)

    def dimensions(self, network: nn.Module) -> list[int]:
        return self.phi.dimensions(network)

    def _check(self, images: Tensor) -> None:
        if len(images) > self.room:
            raise self.error(len(images))


def shard(
    groups: tuple[tuple[int, ...], ...],
    *,
    room: int = REAL,
    microbatch: int = 0,
    error: Callable[[int], Exception] = of_cuda,
    coordinator: Coordinator | None = None,
) -> ClassShard:
    names = tuple(ClassName(str(c)) for c in range(CLASSES))
    data, coordinator = (
        RandomImages(classes=names, size=RUN.size, per_class=RUN.per_class),
        coordinator or LocalCoordinator(),
    )
    labels = list(range(coordinator.rank, CLASSES, coordinator.size))
    made = assembly.shard_of(config(), data, labels, coordinator=coordinator, placement=Placement())  # type: ignore[arg-type]
    objective = made.recipe.objective
    objective = replace(objective, phi=Greedy(objective.phi, room, error), microbatch=microbatch)
    recipe = replace(made.recipe, objective=objective, grouping=Grouping(groups))
    return replace(made, recipe=recipe, start={c: made.learnt_of(c) for c in labels})


@cache
def theta() -> nn.Module:
    return networks.build("convnet", channels=3, size=RUN.size, classes=CLASSES, seed=0, width=6, depth=1).eval()


def stepped(own: ClassShard, steps: int = 2) -> dict[int, Tensor]:
    network = copy.deepcopy(theta())  # threads cannot share a module, whose parameters are replaced in a step
    with closing(own.source):
        for step in range(steps):
            own.match(network, 0, 0, step)
    return own.pixels


@pytest.mark.parametrize("groups", [per_class(CLASSES), pooled(CLASSES)], ids=["alone", "pooled"])
@pytest.mark.parametrize("error", [of_cuda, of_cpu])
def test_half_of_the_images_at_once(
    groups: tuple[tuple[int, ...], ...], error: Callable[[int], Exception], caplog: pytest.LogCaptureFixture
) -> None:
    expected = stepped(shard(groups, microbatch=REAL // 2))
    with caplog.at_level(logging.WARNING):
        found = stepped(shard(groups, room=5, error=error))
    assert all(torch.equal(found[c], expected[c]) for c in range(CLASSES))
    assert [record.getMessage().split(";")[0] for record in caplog.records] == [
        f"out of memory on cpu in a matching step with {REAL} images in the network at once"
    ]
    assert f"Set compute.microbatch={REAL // 2} in a new output" in caplog.text


@pytest.mark.parametrize("groups", [per_class(CLASSES), pooled(CLASSES)], ids=["alone", "pooled"])
def test_the_pull_back_alone_may_be_too_much(groups: tuple[tuple[int, ...], ...]) -> None:
    """A later pass finds no memory: the step of this class continues with less, the others' results are kept."""
    own = shard(groups, microbatch=REAL)
    objective, calls = own.steps.objective, []

    def inner(network: nn.Module, variable: dict[str, Tensor], *rest: object) -> dict[str, Tensor]:
        calls.append(len(variable["images"]))
        if len(calls) == 2:
            raise of_cuda(1)
        return raw(network, variable, *rest)

    raw = objective._inner
    object.__setattr__(objective, "_inner", inner)
    found, expected = stepped(own, 1), stepped(shard(groups, microbatch=REAL), 1)
    assert own.steps.objective.microbatch == REAL // 2
    assert all(torch.allclose(found[c], expected[c], rtol=1e-4, atol=1e-6) for c in range(CLASSES))
    assert torch.equal(found[0], expected[0])


def test_only_the_worker_without_memory_takes_fewer() -> None:
    expected, found = stepped(shard(pooled(CLASSES))), {}
    own: dict[int, ClassShard] = {}

    def work(coordinator: Coordinator) -> None:
        rank = coordinator.rank
        with lock:
            own[rank] = shard(pooled(CLASSES), room=(REAL, 5)[rank], coordinator=coordinator)
        found.update(stepped(own[rank]))

    lock = threading.Lock()
    theta()
    on_threads(2, work)
    assert [own[rank].steps.objective.microbatch for rank in (0, 1)] == [0, REAL // 2]
    assert all(torch.allclose(found[c], expected[c], rtol=1e-4, atol=1e-6) for c in range(CLASSES))


@pytest.mark.parametrize(("room", "images"), [(3, 4), (0, 4)])
def test_it_is_halved_once(room: int, images: int) -> None:
    advice = (
        rf"with {images} images in the network at once \(CUDA out of memory. Tried to allocate 4 GiB.\): set compute.m"
    )
    with pytest.raises(RunFailed, match=advice):
        stepped(shard(per_class(CLASSES), room=room))


def test_one_image_cannot_be_halved() -> None:
    with pytest.raises(RunFailed, match="with 1 images in the network"):
        stepped(shard(per_class(CLASSES), room=0, microbatch=1))


def record(function: Callable[[], list[Stepped]]) -> tuple[list[Stepped], Callable[[], None]]:
    """Execute the function again at each replay."""
    results = function()

    def replay() -> None:
        for kept, x in zip(pytree.tree_leaves(results), pytree.tree_leaves(function()), strict=True):
            kept.copy_(x)

    return results, replay


@pytest.mark.parametrize("groups", [per_class(CLASSES), pooled(CLASSES)], ids=["alone", "pooled"])
def test_an_update_that_is_half_done_is_not_repeated(
    groups: tuple[tuple[int, ...], ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    updates = []

    def update(*given: object, images: int, **tensors: object) -> Tensor:
        updates.append(images)
        if len(updates) == 2:
            raise of_cuda(images)
        return torch.tensor(True)

    monkeypatch.setattr(engine_shard, "update_", update)
    with pytest.raises(RunFailed, match=r"in the update of the pixels of class 1 .*set compute.microbatch below 5"):
        stepped(shard(groups, microbatch=5))
    assert updates == [5, 5]


def test_steps_in_a_graph_take_half_of_the_images() -> None:
    """Memory is exhausted before the capture, when one class after the other is computed."""
    made = shard(per_class(CLASSES), room=5)
    made.steps = replace(made.steps, captured=CLASSES, record=record)
    found, expected = stepped(made), stepped(shard(per_class(CLASSES), microbatch=REAL // 2))
    assert (made.steps.objective.microbatch, made.steps.at_once) == (REAL // 2, CLASSES)
    assert all(torch.equal(found[c], expected[c]) for c in range(CLASSES))


def test_memory_that_is_exhausted_during_a_capture_ends_the_run() -> None:
    """All classes of a graph exist together only there, and the process cannot use its GPU afterwards."""

    def fails(function: Callable[[], list[Stepped]]) -> tuple[list[Stepped], Callable[[], None]]:
        function()
        raise CannotCapture("compute.cuda_graphs: a step cannot be captured: CUDA out of memory. set fewer classes")

    made = shard(per_class(CLASSES))
    made.steps = replace(made.steps, captured=CLASSES, record=fails)
    with pytest.raises(CannotCapture, match="set fewer classes"):
        stepped(made)
    assert made.steps.objective.microbatch == 0


def test_other_errors_are_not_of_memory() -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        stepped(shard(per_class(CLASSES), room=5, error=lambda images: RuntimeError("mat1 and mat2")))
    with pytest.raises(RuntimeError) as allocated:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(allocated.value) and is_out_of_memory(MemoryError())
