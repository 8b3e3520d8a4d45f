"""An update of theta is a function of tensors: nothing in it waits for the device, and compiled it is the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor, FakeTensorMode
from torch.utils import _pytree as pytree

from dist_condense.core import augmentation, randomness
from dist_condense.core.augmentation import Strategy
from dist_condense.data.normalise import to_values
from dist_condense.engine import slices
from dist_condense.engine.coordinator import Coordinator, LocalCoordinator, Placement
from dist_condense.engine.slices import MEASURED, WARM_UP
from dist_condense.engine.training import NetworkTrainer, TrainingRecipe
from dist_condense.engine.update import Batch, BlockDraws, with_draws
from tests.engine.test_units import on_threads

IDC = Strategy(always=("flip", "color"), one_of=("crop", "scale", "rotate"))
RECIPE = TrainingRecipe(lr=0.1, momentum=0.9, weight_decay=0.01, strategy=IDC, cutmix=1.0)
SHAPE = (6, 3, 8, 8)


def trainer(slices: int = 2, **given: Any) -> NetworkTrainer:
    place = Placement(dtype=torch.float64)
    return NetworkTrainer(RECIPE, LocalCoordinator(), place, seed=3, slices=slices, **given)


def network() -> nn.Module:
    torch.manual_seed(1)
    f = {"dtype": torch.float64}
    layers = [nn.Conv2d(3, 4, 3, padding=1, **f), nn.GroupNorm(4, 4, **f), nn.Sigmoid(), nn.AvgPool2d(2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(64, 3, **f))


def stored(u: int, count: int = 6) -> tuple[Tensor, Tensor]:
    keyed = torch.Generator().manual_seed(u)
    images = torch.randint(256, (count, *SHAPE[1:]), generator=keyed, dtype=torch.uint8)
    return images, torch.randint(3, (count,), generator=keyed)


def normalised(images: Tensor) -> Tensor:
    return (to_values(images, torch.float64) - 0.5) / 0.25


def train(engine: NetworkTrainer, batches: Sequence[Batch], first: int = 0, module: nn.Module | None = None) -> Tensor:
    """Return theta and its momentum after the batches."""
    module = module or network()
    optimiser = engine.optimiser(module)
    for _ in engine.train(module, optimiser, batches, 0, 1, first=first):
        pass
    momentum = [state["momentum_buffer"] for state in optimiser.state.values()]
    return torch.cat([x.detach().flatten() for x in (*module.parameters(), *momentum)])


def batches(engine: NetworkTrainer, sizes: Sequence[int] = (6, 6, 3)) -> list[Batch]:
    draws = engine.draws(0, 1)
    pairs = [stored(u, n) for u, n in enumerate(sizes)]
    drawn = draws(0, sizes, SHAPE[2:]).split(sizes)
    return [Batch(x, y, each, normalised) for (x, y), each in zip(pairs, drawn, strict=True)]


def fake(batch: Batch, mode: FakeTensorMode) -> Batch:
    """Return a batch whose tensors have no values that the host could read."""
    return pytree.tree_map_only(Tensor, mode.from_tensor, batch)


@pytest.mark.parametrize("slices", [1, 2, 4])
def test_nothing_waits_for_the_device(slices: int) -> None:
    """All shapes follow from the number of images: no value is read, no branch depends on one."""
    engine = trainer(slices=slices)
    [batch] = batches(engine, [6])
    with FakeTensorMode() as mode:
        theta = network()
        optimiser = engine.optimiser(theta)
        engine.update(theta, optimiser, fake(batch, mode), engine.gradient)
        assert all(isinstance(p, FakeTensor) for p in theta.parameters())


def test_the_check_above_notices_a_host_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = trainer(slices=1)
    [batch] = batches(engine, [6])
    monkeypatch.setattr(augmentation, "apply", lambda images, draw: images * float(images.max()))
    with FakeTensorMode() as mode:
        theta = network()
        optimiser = engine.optimiser(theta)
        with pytest.raises(DataDependentOutputException):
            engine.update(theta, optimiser, fake(batch, mode), engine.gradient)


def test_compiled_is_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """The forward and the loss of a slice are one graph; an incomplete batch gets graphs of its own."""
    sizes = set()

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        sizes.add(inputs[0].shape[0])
        return aot_eager(graph, inputs)

    whole, aot_eager = torch.compile, torch._dynamo.lookup_backend("aot_eager")
    monkeypatch.setattr(torch, "compile", lambda f, **given: whole(f, backend=backend, **given))
    eager, compiled = trainer(), trainer(compiled=True)
    expected = train(eager, batches(eager))
    torch.testing.assert_close(train(compiled, batches(compiled)), expected, rtol=1e-12, atol=1e-12)
    assert sizes == {3, 1, 2}, "slices of batches of 6 and of 3 images, none of any size"


def test_resumed_is_uninterrupted() -> None:
    """The draws of an update depend on its number alone, and momentum is taken over from a checkpoint."""
    expected = train(trainer(), batches(trainer()))
    module, momentum = network(), list[Tensor]()
    for first in (0, 1, 2):
        engine = trainer()
        optimiser = engine.optimiser(module)
        for parameter, stored in zip(module.parameters(), momentum, strict=bool(momentum)):
            optimiser.state[parameter]["momentum_buffer"] = stored
        for done in engine.train(module, optimiser, [batches(engine)[first]], 0, 1, first=first):
            assert done == first + 1
        momentum = [state["momentum_buffer"].clone() for state in optimiser.state.values()]
    assert torch.equal(torch.cat([x.detach().flatten() for x in (*module.parameters(), *momentum)]), expected)


def test_stored_images_are_normalised_in_the_update() -> None:
    engine = trainer()
    given = [stored(u) for u in range(2)]
    drawn = with_draws([(normalised(x), y) for x, y in given], engine.draws(0, 1))
    assert torch.equal(train(engine, list(drawn)), train(engine, batches(engine, [6, 6])))


def test_momentum_is_changed_in_place() -> None:
    """A captured update writes into the same memory at every replay, from the first step on."""
    engine, module = trainer(), network()
    optimiser, kept = engine.optimiser(module), []
    for _ in engine.train(module, optimiser, batches(engine), 0, 1):
        tensors = [*module.parameters(), *(state["momentum_buffer"] for state in optimiser.state.values())]
        kept.append([x.data_ptr() for x in tensors])
    assert kept[0] == kept[1] == kept[2]


def test_theta_that_is_not_trained_gets_no_momentum() -> None:
    engine, module = trainer(), network()
    optimiser = engine.optimiser(module)
    assert list(engine.train(module, optimiser, [], 0, 1)) == [] and not optimiser.state


def test_draws_of_many_updates_are_those_of_each() -> None:
    """In every bit: a segment may be drawn in blocks of any size."""
    draws, sizes = trainer().draws(0, 1), [6, 6, 3, 6]
    together = draws(5, sizes, SHAPE[2:]).split(sizes)
    for u, (n, found) in enumerate(zip(sizes, together, strict=True), 5):
        [alone] = draws(u, [n], SHAPE[2:]).split([n])
        pairs = zip(pytree.tree_leaves(found), pytree.tree_leaves(alone), strict=True)
        assert all(torch.equal(x, y) for x, y in pairs) and found.mix is not None


def test_no_draws_are_made_that_are_not_used() -> None:
    plain = NetworkTrainer(TrainingRecipe(lr=0.1), LocalCoordinator(), Placement(), seed=3, slices=1)
    assert plain.draws(0)(0, [6, 3], SHAPE[2:]) == BlockDraws()


class Tape:
    """Record that, like a CUDA graph, executes the function before, and again in the same memory at each replay."""

    def __init__(self) -> None:
        self.recordings, self.replays = 0, 0

    def __call__(self, function: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        self.recordings += 1

        for _ in range(3):
            static = function()

        def replay() -> None:
            self.replays += 1
            for kept, x in zip(pytree.tree_leaves(static), pytree.tree_leaves(function()), strict=True):
                kept.copy_(x)

        return static, replay


def test_replayed_is_eager() -> None:
    """An update is recorded once for each size of a batch; a new optimiser starts in the same memory, from 0."""
    tape, sizes = Tape(), [6, 6, 3, 6, 3]
    captured, module, other = trainer(capture=tape), network(), network()
    for _ in range(2):
        given = batches(captured, sizes)
        assert torch.equal(train(captured, given, module=module), train(trainer(), given, module=other))
    assert (tape.recordings, tape.replays) == (2, 9), "all but the first update of all"


def test_a_network_with_dropout_is_not_recorded() -> None:
    """A replay would draw other numbers than the ones that an update's key gives."""
    tape = Tape()
    captured, eager = trainer(capture=tape), trainer()
    modules = [nn.Sequential(nn.Dropout(0.5), network()) for _ in range(2)]
    results = [train(x, batches(eager), module=m) for x, m in zip((captured, eager), modules, strict=True)]
    assert torch.equal(*results) and tape.recordings == 0


def test_layers_that_draw_are_noticed_and_nothing_is_read_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    reads, read = [], torch.get_rng_state
    monkeypatch.setattr(torch, "get_rng_state", lambda: (reads.append(1), read())[1])
    before = read()
    with torch.random.fork_rng(devices=[]):
        needed = len(reads)  # to restore the generator
    with randomness.layers_keyed(torch.device("cpu"), 3, "test") as drawn:
        assert len(reads) == 2 * needed and not drawn()
        nn.functional.dropout(torch.ones(1), 0.5)
        assert drawn()
    assert torch.equal(read(), before)


@pytest.mark.parametrize("everywhere", [False, True])
def test_shared_and_replayed_is_one_process_and_eager(everywhere: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers decide after six updates who computes which slices; each replays what it computes."""
    monkeypatch.setattr(slices, "cheaper_everywhere", lambda timings, number: everywhere)
    sizes = [6] * (WARM_UP + MEASURED + 2)
    expected, tapes, results = train(trainer(), batches(trainer(), sizes)), [Tape(), Tape()], {}
    modules = [network(), network()]

    def work(coordinator: Coordinator) -> None:
        own = replace(trainer(), coordinator=coordinator, capture=tapes[coordinator.rank])
        own._draws[modules[coordinator.rank]] = False  # seeding of layers is not made for threads
        given = batches(own, sizes)
        results[coordinator.rank] = train(own, given, module=modules[coordinator.rank])

    on_threads(2, work)
    assert torch.equal(results[0], expected) and torch.equal(results[1], expected)
    forms = [1 + everywhere] * 2  # a slice, and a whole update
    assert [tape.recordings for tape in tapes] == forms
