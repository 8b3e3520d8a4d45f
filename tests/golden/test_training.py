"""Training of theta equals a loop by hand in float64: SGD, augmentation, CutMix, slices; and the start of theta."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dist_condense.core import augmentation, cutmix
from dist_condense.core.augmentation import Strategy
from dist_condense.core.cutmix import CutMix
from dist_condense.engine.coordinator import LocalCoordinator, Placement
from dist_condense.engine.training import NetworkTrainer, TrainingRecipe
from dist_condense.engine.trajectory import Fresh, NetworkStart, Pool, Pretrained, Trajectory
from dist_condense.engine.update import with_draws
from dist_condense.system.storage import Folder
from tests.golden import by_hand, toys
from tests.golden.by_hand import SGD
from tests.golden.recorded import Recorded, agree
from tests.golden.toys import Given, batch, flat, network, theta_of

Plant = Callable[[pytest.MonkeyPatch], None]

DSA = Strategy(one_of=("color", "crop", "cutout", "flip", "scale", "rotate"))
IDC = Strategy(always=("flip", "color"), one_of=("crop", "scale", "rotate"))
RECIPE = TrainingRecipe(lr=0.3, momentum=0.9, weight_decay=0.05)
SIZES = (7, 7, 5, 2)
"""Sizes of the batches; the last ones are incomplete."""


def trainer(recipe: TrainingRecipe, slices: int = 1) -> NetworkTrainer:
    return NetworkTrainer(recipe, LocalCoordinator(), Placement(dtype=torch.float64), seed=5, slices=slices)


# --- batches ------------------------------------------------------------------------------------------------------

CASES = {
    "plain (DC)": (TrainingRecipe(lr=0.5), 1),
    "momentum and weight decay": (RECIPE, 1),
    "three slices": (RECIPE, 3),
    "more slices than images": (RECIPE, 6),
    "augmentation (DSA)": (TrainingRecipe(lr=0.5, strategy=DSA), 1),
    "CutMix": (replace(RECIPE, cutmix=1.0), 1),
    "augmentation and CutMix (IDC), two slices": (replace(RECIPE, strategy=IDC, cutmix=0.6), 2),
}


def compare_batches(
    case: str, plant: Plant | None = None, change: Callable[[Any], Any] = lambda recipe: recipe
) -> None:
    """Compare the engine with the loop by hand on a case; both errors are planted in the engine alone."""
    recipe, slices = CASES[case]
    batches = [batch(n, u) for u, n in enumerate(SIZES)]
    with pytest.MonkeyPatch.context() as patch:
        drawn = Recorded(patch)
        if plant:
            plant(patch)
        module, engine = network(1), trainer(change(recipe), slices)
        drawn_batches = with_draws(batches, engine.draws(3, 1))
        done = list(engine.train(module, engine.optimiser(module), drawn_batches, 3, 1))
    assert done == [1, 2, 3, 4], "updates are counted"

    start = theta_of(network(1))
    theta, optimiser = theta_of(network(1)), SGD(recipe.lr, recipe.momentum, recipe.weight_decay)
    for images, labels in batches:
        if recipe.strategy:
            images = drawn.augmentation(len(labels))(images)
        mix = drawn.cutmix(recipe.cutmix, len(labels)) if recipe.cutmix else None
        by_hand.update(theta, optimiser, images, labels, mix)
    drawn.nothing_is_left()
    agree(flat(theta_of(module)), flat(theta), flat(start), "theta")


@pytest.mark.parametrize("case", CASES)
def test_batches(case: str) -> None:
    compare_batches(case)


def test_layers_that_draw_by_themselves_are_keyed_by_slice() -> None:
    """The draws do not depend on earlier draws of torch's own generator."""

    labels = torch.tensor([0, 1, 2, 0, 1, 2])

    def weights(state: int) -> Tensor:
        network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.Linear(192, 3)).double()
        for parameter in network.parameters():
            parameter.data.fill_(0.1)
        images = torch.randn(6, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        torch.manual_seed(state)
        engine = trainer(TrainingRecipe(lr=0.3), slices=2)
        batches = with_draws([(images, labels)] * 2, engine.draws(0, 1))
        for _ in engine.train(network, engine.optimiser(network), batches, 0, 1):
            pass
        return network[2].weight.detach()

    assert torch.equal(weights(1), weights(2))


def of_one_draw(patch: pytest.MonkeyPatch) -> None:
    """Augment all images of a batch like its first one."""
    whole = augmentation.apply
    patch.setattr(augmentation, "apply", lambda images, draw: whole(images, draw.mapped(lambda x: x[:1])))


def drawn_weight(patch: pytest.MonkeyPatch) -> None:
    """Weight the loss by the square that was drawn, not by its part inside the image."""

    def mix(partner: Tensor, box: tuple[int, int, int, int], size: tuple[int, int]) -> CutMix:
        side = max(box[1] - box[0], box[3] - box[2])
        drawn = 1 - (side + 1) ** 2 / (size[0] * size[1])
        return CutMix(partner, torch.tensor(box).view(2, 2), torch.tensor(drawn, dtype=torch.float64))

    patch.setattr(cutmix, "mix", mix)


def own_label_alone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(cutmix, "mixed_loss", lambda x, own, partner, weight: F.cross_entropy(x, own, reduction="none"))


def cutmix_first(patch: pytest.MonkeyPatch) -> None:
    """Apply CutMix before the augmentation, which is delayed until the box is pasted."""
    whole, put_off = augmentation.apply, []
    paste = CutMix.images
    patch.setattr(augmentation, "apply", lambda images, draw: (put_off.append(draw), images)[1])
    patch.setattr(CutMix, "images", lambda mix, images: whole(paste(mix, images), put_off.pop()))


def mean_over_slices(patch: pytest.MonkeyPatch) -> None:
    whole = LocalCoordinator.sum
    patch.setattr(LocalCoordinator, "sum", lambda c, parts, total, terms: whole(c, parts, total, terms) / len(parts))


def sum_of_losses(patch: pytest.MonkeyPatch) -> None:
    whole = cutmix.mixed_loss
    patch.setattr(cutmix, "mixed_loss", lambda logits, *rest: whole(logits, *rest) * len(logits))


def optimiser_with(**options: Any) -> Plant:
    def plant(patch: pytest.MonkeyPatch) -> None:
        whole = torch.optim.SGD
        patch.setattr(torch.optim, "SGD", lambda parameters, lr, **rest: whole(parameters, lr, **{**rest, **options}))

    return plant


def not_the_last_batch(patch: pytest.MonkeyPatch) -> None:
    whole = NetworkTrainer.train

    def train(self: NetworkTrainer, module: Any, optimiser: Any, batches: Any, *key: int, first: int = 0) -> Any:
        kept = [x for x in batches if len(x.labels) == SIZES[0]]
        yield from whole(self, module, optimiser, kept, *key, first=first)
        yield from range(len(kept) + 1, len(SIZES) + 1)

    patch.setattr(NetworkTrainer, "train", train)


PLANTS: dict[str, tuple[str, Plant]] = {
    "no momentum": ("momentum and weight decay", optimiser_with(momentum=0)),
    "no weight decay": ("momentum and weight decay", optimiser_with(weight_decay=0)),
    "Nesterov's momentum": ("momentum and weight decay", optimiser_with(nesterov=True)),
    "dampening": ("momentum and weight decay", optimiser_with(dampening=0.1)),
    "momentum where there is none": ("plain (DC)", optimiser_with(momentum=0.5)),
    "summed losses": ("plain (DC)", sum_of_losses),
    "last batch dropped": ("plain (DC)", not_the_last_batch),
    "mean over slices": ("three slices", mean_over_slices),
    "one draw for the batch": ("augmentation (DSA)", of_one_draw),
    "no augmentation": ("augmentation (DSA)", lambda p: p.setattr(augmentation, "apply", lambda images, draw: images)),
    "weight of the drawn box": ("CutMix", drawn_weight),
    "own label alone": ("CutMix", own_label_alone),
    "CutMix first": ("augmentation and CutMix (IDC), two slices", cutmix_first),
}
CHANGES: dict[str, tuple[str, dict[str, Any]]] = {
    "other lr": ("plain (DC)", {"lr": 0.5001}),
    "CutMix left out": ("CutMix", {"cutmix": 0.0}),
    "CutMix where there is none": ("momentum and weight decay", {"cutmix": 0.5}),
    "augmentation where there is none": ("plain (DC)", {"strategy": DSA}),
    "augmentation left out": ("augmentation (DSA)", {"strategy": Strategy()}),
}


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_error_is_noticed(name: str) -> None:
    case, plant = PLANTS[name]
    with pytest.raises(AssertionError):
        compare_batches(case, plant)


@pytest.mark.parametrize("name", CHANGES)
def test_another_recipe_is_noticed(name: str) -> None:
    case, changed = CHANGES[name]
    with pytest.raises(AssertionError):
        compare_batches(case, change=lambda recipe: replace(recipe, **changed))


# --- the start of theta, and its training ---------------------------------------------------------------------------

K, T, EPOCHS, MEMBERS = 4, 3, 2, 2
STARTS: dict[str, Callable[[Path], NetworkStart]] = {
    "fresh": lambda folder: Fresh(),
    "pretrained": lambda folder: Pretrained(EPOCHS, Given()),
    "pool": lambda folder: Pool(MEMBERS, EPOCHS, Given(), Folder(folder), networks=K),
}


@dataclass
class Networks:
    """theta of all matching steps by the engine, and the weights that it drew."""

    seen: list[Tensor]
    built: list[list[Tensor]]


def engine_networks(kind: str, folder: Path, plant: Plant | None) -> tuple[Networks, Recorded]:
    result, started = Networks([], []), False

    def build(seed: int) -> torch.nn.Module:
        made = network(seed)
        if started:
            result.built.append(theta_of(made))
        return made

    with pytest.MonkeyPatch.context() as patch:
        drawn = Recorded(patch)
        if plant:
            plant(patch)
        trajectory = Trajectory(build, trainer(RECIPE), Given(), STARTS[kind](folder), seed=5, matching_steps=T)
        started = True
        for step in range(K * T):
            trajectory.reach(*divmod(step, T))
            result.seen.append(flat(theta_of(trajectory.network)))
    return result, drawn


def compare_networks(kind: str, folder: Path, plant: Plant | None = None) -> None:
    """Compare theta of every matching step; it is trained between them, not after the last."""
    result, drawn = engine_networks(kind, folder, plant)
    built, seen, members = iter(result.built), iter(result.seen), {}

    def fresh_optimiser() -> SGD:
        return SGD(RECIPE.lr, RECIPE.momentum, RECIPE.weight_decay)

    def fresh_network() -> list[Tensor]:
        made = next(built, None)
        assert made is not None, "the engine drew fewer networks"
        return [p.clone() for p in made]

    def pretrain(theta: list[Tensor], optimiser: SGD, *key: int) -> None:
        for images, labels in toys.passes(2, *key):
            by_hand.update(theta, optimiser, images, labels)

    for k in range(4):
        optimiser = fresh_optimiser()
        if kind == "pool":
            member = drawn.next("pool") % 2
            if member not in members:
                members[member] = fresh_network()
                pretrain(members[member], fresh_optimiser(), -1, member)
            theta = [p.clone() for p in members[member]]
        else:
            theta = fresh_network()
        if kind == "pretrained":
            pretrain(theta, optimiser, k)
        for t in range(3):
            if t > 0:
                for images, labels in toys.segment(k, t - 1):
                    by_hand.update(theta, optimiser, images, labels)
            agree(next(seen), flat(theta), torch.zeros(()), f"theta of k {k}, t {t}", tolerance=1e-12)
    assert next(built, None) is None, "the engine drew more networks"
    if kind == "pool":
        assert len(members) == 2, "members are not drawn twice here, so choose another seed"


@pytest.mark.parametrize("kind", STARTS)
def test_networks(kind: str, tmp_path: Path) -> None:
    compare_networks(kind, tmp_path)


def momentum_is_lost(patch: pytest.MonkeyPatch) -> None:
    """Reset the momentum after the pre-training."""
    whole = Pretrained.__call__

    def call(start: Pretrained, trajectory: Trajectory, k: int) -> None:
        whole(start, trajectory, k)
        trajectory.forget_momentum()

    patch.setattr(Pretrained, "__call__", call)


def momentum_is_kept(patch: pytest.MonkeyPatch) -> None:
    """Continue a network of the pool with the momentum of its training, or of the previous network."""
    whole = Pool.__call__

    def call(start: Pool, trajectory: Trajectory, k: int) -> None:
        calls, forget = iter([Trajectory.forget_momentum]), lambda t: None  # the first is of the weights drawn anew
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(Trajectory, "forget_momentum", lambda t: next(calls, forget)(t))
            whole(start, trajectory, k)

    patch.setattr(Pool, "__call__", call)


def one_optimiser_for_all(patch: pytest.MonkeyPatch) -> None:
    kept: dict[int, Any] = {}
    whole = NetworkTrainer.optimiser
    patch.setattr(NetworkTrainer, "optimiser", lambda t, n: kept.setdefault(id(n), whole(t, n)))


def weights_stay(patch: pytest.MonkeyPatch) -> None:
    """Continue the next network with the last one's weights."""
    patch.setattr(torch.nn.Sequential, "load_state_dict", lambda self, state: None)


def trained_before_the_first_step(patch: pytest.MonkeyPatch) -> None:
    whole = Fresh.__call__

    def call(start: Fresh, trajectory: Trajectory, k: int) -> None:
        whole(start, trajectory, k)
        trajectory.train(partial(Given().segment, k, 0), k, 0)

    patch.setattr(Fresh, "__call__", call)


def members_move(patch: pytest.MonkeyPatch) -> None:
    """Store other weights in the pool than were trained."""
    whole = Pool._kept

    def kept(pool: Pool, *rest: Any) -> Any:
        result = whole(pool, *rest)
        return result and {name: x * 0.999 for name, x in result.items()}

    patch.setattr(Pool, "_kept", kept)


START_PLANTS: dict[str, tuple[str, Plant]] = {
    "momentum of the pre-training is lost": ("pretrained", momentum_is_lost),
    "momentum from the pool": ("pool", momentum_is_kept),
    "momentum of the network before": ("fresh", one_optimiser_for_all),
    "the previous network continues": ("fresh", weights_stay),
    "trained before the first step": ("fresh", trained_before_the_first_step),
    "other weights in the pool": ("pool", members_move),
}


@pytest.mark.parametrize("name", START_PLANTS)
def test_an_error_planted_in_the_start_is_noticed(name: str, tmp_path: Path) -> None:
    kind, plant = START_PLANTS[name]
    with pytest.raises(AssertionError):
        compare_networks(kind, tmp_path, plant)


@pytest.mark.parametrize("kind", ["pretrained", "pool"])
def test_another_number_of_epochs_is_noticed(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both starts pass on their number of epochs."""
    monkeypatch.setitem(STARTS, "pretrained", lambda folder: Pretrained(EPOCHS - 1, Given()))
    monkeypatch.setitem(STARTS, "pool", lambda folder: Pool(MEMBERS, EPOCHS - 1, Given(), Folder(folder), networks=K))
    with pytest.raises(AssertionError):
        compare_networks(kind, tmp_path)
