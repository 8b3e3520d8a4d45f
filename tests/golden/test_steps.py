"""Several matching steps and networks equal Algorithm 1 written out in float64: DC, DSA, DCC, DM, IDC and BatchNorm.

The engine is assembled from the shipped methods; the loop by hand has the papers' numbers in this file.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from dist_condense.core import augmentation, grouping
from dist_condense.core.image_rule import ImageRule
from dist_condense.data.normalise import ChannelStatistics
from dist_condense.data.reading.read_ahead import Ticket
from dist_condense.data.reading.source import MemorySource
from dist_condense.data.space import Space
from dist_condense.engine import batch_statistics, shard
from dist_condense.engine.coordinator import LocalCoordinator, Placement
from dist_condense.engine.shard import ClassShard
from dist_condense.engine.synthetic_batches import SyntheticBatches
from dist_condense.engine.trajectory import Trajectory
from dist_condense.match import match
from dist_condense.settings import assembly, config, images_per_class
from dist_condense.settings.config import RunConfig
from tests.golden import by_hand, toys
from tests.golden.by_hand import SGD, Averages, Theta
from tests.golden.recorded import Recorded, agree
from tests.golden.toys import CHANNELS, CLASSES, MEAN, SIZE, STD, WIDTH, Given, flat, photographs, seen, theta_of

Plant = Callable[[pytest.MonkeyPatch], None]

IPC, REAL = 2, 6
"""Synthetic images of each class, and real images of each class in a step."""
COUNTS = (20, 23, 19)
IMAGES = {c: photographs(n, 99, c) for c, n in enumerate(COUNTS)}


def dataset(size: int = SIZE, classes: int = CLASSES) -> Any:
    """Return a data set as the engine reads it."""
    names = [SimpleNamespace(name=str(c), wnid=None) for c in range(classes)]
    facts = {"channels": CHANNELS, "mean": MEAN, "std": STD, "flip": True, "counts": COUNTS}
    facts |= {"shape": (CHANNELS, size, size), "space": Space(ChannelStatistics(MEAN, STD)), "stored": torch.uint8}
    return SimpleNamespace(size=size, classes=names, **facts, train=lambda labels, how: MemorySource(IMAGES))


# --- the methods, as the papers give them -------------------------------------------------------------------------


@dataclass(frozen=True)
class Method:
    """Numbers of Algorithm 1."""

    networks: int
    steps: int
    lr: float
    """Learning rate of the pixels."""
    theta: tuple[float, float, float]
    """lr, momentum and weight decay of theta."""
    distance: Callable[[list[Tensor], list[Tensor]], Tensor] = by_hand.layerwise_cosine
    dimensions: tuple[int, ...] = (2, 4)
    """Numbers of dimensions of the parameters whose gradient is matched; none: the mean feature is matched."""
    alone: Callable[[int, int], bool] = lambda k, t: True
    """Whether every class is matched alone in step (k, t)."""
    augmented: bool = False
    batch_norm: bool = False
    idc: bool = False
    """Pixels in [0, 1], one momentum buffer for all classes, four tiles, theta trained on real images with CutMix."""
    classes: Sequence[int] = range(CLASSES)
    """Classes that the worker owns."""


DC = ["method=dc", "training=synthetic", "training.epochs=2", "training.batch=4"]
DCC = ["method=dcc", *DC[1:], "method.grouping.warmup_networks=1", "method.grouping.warmup_steps=2"]
DSAC = ["method=dsac", *DC[1:], "method.grouping.warmup_networks=1", "method.grouping.warmup_steps=1"]
DM = ["method=dm", "training=frozen", "trajectory.networks=4", "trajectory.matching_steps=1"]
IDC = ["method=idc", "training=real", "training.cutmix=0.6", "method.images.lr=20", "method.synthetic_limit=5"]
BATCH_NORM = ["network.norm=batch", "compute.slices=1"]
LARGE = 20 * IPC / 10 * (SIZE / 32) ** 2
OF_DC, OF_IDC = (0.01, 0.0, 0.0), (0.01, 0.9, 5e-4)

dc = Method(2, 3, 0.1, OF_DC)
idc = Method(2, 3, LARGE, OF_IDC, by_hand.sum_squared, (4,), augmented=True, idc=True)
CASES: dict[str, tuple[list[str], Method]] = {
    "dc": (DC, dc),
    "dsa": (["method=dsa", *DC[1:]], replace(dc, augmented=True)),
    "dcc": (DCC, replace(dc, alone=lambda k, t: k < 1 and t < 2)),
    "dcc by microbatches": ([*DCC, "compute.microbatch=4"], replace(dc, alone=lambda k, t: k < 1 and t < 2)),
    "dsac": (DSAC, replace(dc, augmented=True, alone=lambda k, t: k < 1 and t < 1)),
    "dm": (DM, Method(4, 1, 1.0, OF_DC, by_hand.sum_squared, (), augmented=True)),
    "idc": (IDC, idc),
    "idc by absolutes": (
        [*IDC, "method.distance=sum_absolute", "method.images.lr=2"],
        replace(idc, lr=LARGE / 10, distance=by_hand.sum_absolute),
    ),
    "idc, one of three classes": (IDC, replace(idc, classes=[1])),
    "batch norm": ([*DC, *BATCH_NORM], replace(dc, batch_norm=True)),
    "batch norm, dcc": (
        [*DCC, *BATCH_NORM],
        replace(dc, batch_norm=True, alone=lambda k, t: k < 1 and t < 2),
    ),
}


@functools.cache
def composed(overrides: tuple[str, ...]) -> RunConfig:
    small = ["network.depth=2", f"network.width={WIDTH}", "network.activation=sigmoid", f"ipc={IPC}"]
    steps = [f"method.real_batch={REAL}", "trajectory.networks=2", "trajectory.matching_steps=3"]
    here = ["compute.slices=2", "cluster.device=cpu", "compute.reproducible=true", "seed=3"]
    return config.load(str(config.shipped() / "digits.yaml"), [*small, *steps, *here, *overrides])


def loaded(overrides: Sequence[str], changes: dict[str, Any]) -> RunConfig:
    """Load a config, with some keys changed afterwards."""

    def with_key(part: Any, names: list[str], value: Any) -> Any:
        name, *rest = names
        return replace(part, **{name: with_key(getattr(part, name), rest, value) if rest else value})

    run = composed(tuple(overrides))
    for key, value in changes.items():
        run = with_key(run, key.split("."), value)
    return run


# --- the engine ---------------------------------------------------------------------------------------------------


@dataclass
class Run:
    """Results of the engine (the set before and after, losses and gradient norms of the steps, final theta), and its
    draws."""

    start: dict[int, Tensor]
    drawn: Recorded
    built: deque[Theta] = field(default_factory=deque)
    asked: defaultdict[int, deque[Tensor]] = field(default_factory=lambda: defaultdict(deque))
    """Positions of real images, by class."""
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    pixels: dict[int, Tensor] = field(default_factory=dict)
    theta: Theta = field(default_factory=list)

    def network(self) -> Theta:
        """Return the next network that was drawn."""
        assert self.built, "the engine drew fewer networks"
        return self.built.popleft()

    def real(self, label: int, count: int) -> Tensor:
        """Return the next minibatch of a class as a network sees it: no image twice."""
        assert self.asked[label], f"the engine read no more images of class {label}"
        positions = self.asked[label].popleft()
        assert len(set(positions.tolist())) == count, f"{len(positions)} images of class {label}, not {count}"
        return seen(IMAGES[label][positions])


def engine(run: RunConfig, labels: Sequence[int], patch: pytest.MonkeyPatch, plant: Plant | None) -> Run:
    drawn = Recorded(patch)
    if plant:
        plant(patch)
    data = dataset()
    S = assembly.shard_of(run, data, list(labels), LocalCoordinator(), Placement(dtype=torch.float64))
    theta = assembly.trajectory_of(run, data, S)
    drawn.forget()  # those of the start
    result = Run({c: x.clone() for c, x in S.pixels.items()}, drawn)
    if run.training.source == "real":
        theta.batches = Given()
    build, redeem = theta.build, S.source.redeem

    def built(seed: int) -> Any:
        network = build(seed)
        result.built.append(theta_of(network))
        return network

    def asked(ticket: Ticket) -> Tensor:
        result.asked[ticket.label].append(ticket.indices)
        return redeem(ticket)

    theta.build, S.source.redeem = built, asked  # type: ignore[method-assign]

    def after_step(done: int) -> None:
        result.losses.append(float(sum(S.losses.values())))
        result.norms.append(math.sqrt(sum(S.squared_norms.values())))

    record = SimpleNamespace(resume=lambda: 0, after_step=after_step, finish=lambda: None)
    with S.source:
        match(S, theta, run.trajectory.networks, run.trajectory.matching_steps, record)
    result.pixels, result.theta = S.pixels, theta_of(theta.network)
    return result


# --- by hand ------------------------------------------------------------------------------------------------------


@dataclass
class ByHand:
    """Algorithm 1 with the engine's draws."""

    method: Method
    run: Run

    def __post_init__(self) -> None:
        self.S = {c: x.clone() for c, x in self.run.start.items()}
        self.buffer = {c: torch.zeros_like(x) for c, x in self.S.items()}
        self.losses: list[float] = []
        self.norms: list[float] = []

    def condense(self) -> None:
        method = self.method
        for k in range(method.networks):
            self.theta: Theta = self.run.network()
            optimiser = SGD(*method.theta)
            self.averages: Averages | None = by_hand.fresh_averages(self.theta) if method.batch_norm else None
            if method.idc:
                self.S = {c: x.clamp(0, 1) for c, x in self.S.items()}
            for t in range(method.steps):
                self.match(k, t)
                if t < method.steps - 1 and method.dimensions:
                    self.train(k, t, optimiser)

    def match(self, k: int, t: int) -> None:
        method, own = self.method, list(self.method.classes)
        if self.averages:
            sixteen = torch.cat([self.run.real(c, 16) for c in own])
            by_hand.logits(self.theta, sixteen, self.averages, training=True)
        groups = [[c] for c in own] if method.alone(k, t) else [own]
        loss, gradient = 0.0, {}
        for group in groups:
            leaves = {c: self.S[c].clone().requires_grad_() for c in group}
            a, b = [], []
            for c in group:
                synthetic, real = self.shown(leaves[c]), self.run.real(c, REAL)
                if method.augmented:
                    augment = self.run.drawn.augmentation(1, "matching")
                    synthetic, real = augment(synthetic), augment(real)
                a.append(self.statistic(synthetic, c))
                b.append([x.detach() for x in self.statistic(real, c)])
            D = method.distance(by_hand.mean_of(a), by_hand.mean_of(b))
            gradient |= dict(zip(group, torch.autograd.grad(D, list(leaves.values())), strict=True))
            loss += float(D.detach())
        for c in own:
            self.move(c, gradient[c])
        self.losses.append(loss)
        self.norms.append(float(torch.cat([gradient[c].flatten() for c in own]).norm()))

    def shown(self, pixels: Tensor) -> Tensor:
        """Return the pixels of a class as images in normalised space; IDC: at most five of the tiles."""
        if not self.method.idc:
            return pixels
        order = self.run.drawn.next("synthetic subset")
        assert len(order) == 4 * IPC, f"{len(order)} decoded images"
        return by_hand.normalise(by_hand.tiles(pixels, 2)[order[:5]], MEAN, STD)

    def statistic(self, images: Tensor, label: int) -> list[Tensor]:
        if not self.method.dimensions:
            return [by_hand.features(self.theta, images).mean(0)]
        return by_hand.gradients(self.theta, images, label, self.method.dimensions, self.averages, graph=True)

    def move(self, c: int, gradient: Tensor) -> None:
        """Take a step of SGD with momentum 0.5.

        IDC's optimiser contains all classes and steps once for each of the run's: between two visits a class moves on
        by its momentum alone. (The program clamps and ends amid these steps, we after them.)
        """
        for visit in range(CLASSES if self.method.idc else 1):
            self.buffer[c] = 0.5 * self.buffer[c] + (gradient if visit == 0 else 0)
            self.S[c] = self.S[c] - self.method.lr * self.buffer[c]

    def train(self, k: int, t: int, optimiser: SGD) -> None:
        """Train on real images with CutMix (IDC), else on two passes over the set by batches of four.

        An incomplete batch is kept.
        """
        drawn, augmented = self.run.drawn, self.method.augmented
        if self.method.idc:
            for images, labels in toys.segment(k, t):
                images = drawn.augmentation(len(labels))(images)
                by_hand.update(self.theta, optimiser, images, labels, drawn.cutmix(0.6, len(labels)))
            return
        whole = torch.cat([self.S[c] for c in range(CLASSES)])
        labels = torch.tensor([0, 0, 1, 1, 2, 2])
        for _ in range(2):
            order = drawn.next("synthetic passes")
            assert sorted(order.tolist()) == list(range(6)), "a pass shows each image once"
            for rows in (order[:4], order[4:]):
                images = drawn.augmentation(len(rows))(whole[rows]) if augmented else whole[rows]
                by_hand.update(self.theta, optimiser, images, labels[rows], averages=self.averages)


def compare(case: str, plant: Plant | None = None, **changes: Any) -> None:
    """Compare set, losses, norms and theta of the engine and by hand; an error is planted in the engine alone."""
    overrides, method = CASES[case]
    with pytest.MonkeyPatch.context() as patch:
        run = engine(loaded(overrides, changes), method.classes, patch, plant)
    hand = ByHand(method, run)
    hand.condense()
    run.drawn.nothing_is_left(len(method.classes))
    assert not run.built, "the engine drew more networks"
    assert not any(run.asked.values()), "the engine read more images"
    for c in method.classes:
        agree(run.pixels[c], hand.S[c], run.start[c], f"the images of class {c}")
    agree(flat(run.theta), flat(hand.theta), torch.zeros(()), "theta", tolerance=1e-12)
    assert run.losses == pytest.approx(hand.losses, rel=1e-10)
    assert run.norms == pytest.approx(hand.norms, rel=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_steps(case: str) -> None:
    compare(case)


@pytest.mark.parametrize("case", ["dc", "dcc", "idc", "batch norm"])
def test_steps_of_a_shallow_network(case: str) -> None:
    """The errors below are planted in these cases."""
    compare(case, **SHALLOW)


# --- it can fail --------------------------------------------------------------------------------------------------

SHALLOW = {"network.depth": 1}
"""Shallow network, which takes half the time."""
CHANGES: dict[str, tuple[str, dict[str, Any]]] = {
    "pixels without momentum": ("dc", {"method.images.momentum": 0.0}),
    "other lr of pixels": ("dc", {"method.images.lr": 0.1001}),
    "other lr of theta": ("dc", {"training.lr": 0.0101}),
    "theta with momentum": ("dc", {"training.momentum": 0.5}),
    "theta with weight decay": ("dc", {"training.weight_decay": 5e-4}),
    "one pass over the set": ("dc", {"training.epochs": 1}),
    "other batches of the set": ("dc", {"training.batch": 3}),
    "one step more per network": ("dc", {"trajectory.matching_steps": 4}),
    "one network more": ("dc", {"trajectory.networks": 3}),
    "more real images": ("dc", {"method.real_batch": REAL + 1}),
    "other distance": ("dc", {"method.distance": "flat_cosine"}),
    "without the classifier": ("dc", {"method.statistic.parameters": "convolutions"}),
    "pooled at once": ("dcc", {"method.grouping.warmup_networks": 0}),
    "warm-up of one step less": ("dcc", {"method.grouping.warmup_steps": 1}),
    "warm-up of one step more": ("dcc", {"method.grouping.warmup_steps": 3}),
    "warm-up of one network more": ("dcc", {"method.grouping.warmup_networks": 2}),
    "never pooled": ("dcc", {"method.grouping.name": "per_class"}),
    "a momentum of its own for each class": ("idc", {"method.images.shared_buffer": False}),
    "lr not scaled by ipc": ("idc", {"method.images.reference_ipc": None}),
    "lr not scaled by size": ("idc", {"method.images.reference_size": None}),
    "other CutMix": ("idc", {"training.cutmix": 0.5}),
    "no CutMix": ("idc", {"training.cutmix": 0.0}),
    "more decoded images": ("idc", {"method.synthetic_limit": 6}),
    "factors 1 and 2": ("idc", {"method.parameterisation.decoding": "multi"}),
    "with the classifier": ("idc", {"method.statistic.parameters": "matrices"}),
    "theta of IDC without momentum": ("idc", {"training.momentum": 0.0}),
    "theta of IDC without decay": ("idc", {"training.weight_decay": 0.0}),
    "squares": ("idc by absolutes", {"method.distance": "sum_squared"}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_another_recipe_is_noticed(name: str) -> None:
    case, changes = CHANGES[name]
    with pytest.raises(AssertionError):
        compare(case, **{**SHALLOW, **changes})


def never_clamped(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ClassShard, "begin_network", lambda self: None)


def clamped_at_each_step(patch: pytest.MonkeyPatch) -> None:
    whole = ClassShard.match
    patch.setattr(ClassShard, "match", lambda self, *rest, visit: (self.begin_network(), whole(self, *rest, visit)))


def clamped_in_normalised_space(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ClassShard, "begin_network", lambda self: [x.clamp_(0, 1) for x in self.pixels.values()])


def pixels_forget_their_momentum(patch: pytest.MonkeyPatch) -> None:
    """Reset the momentum with each new network."""
    patch.setattr(ClassShard, "begin_network", lambda self: self.momentum["pixels"].zero_())


def momentum_over_the_owned_classes(patch: pytest.MonkeyPatch) -> None:
    whole = ClassShard.__post_init__

    def begin(self: ClassShard, start: Any) -> None:
        rule = replace(self.recipe.rules["pixels"], shared_buffer=len(start))
        self.recipe = replace(self.recipe, rules={"pixels": rule})
        whole(self, start)

    patch.setattr(ClassShard, "__post_init__", begin)


def rule_of_this_run(effective: Callable[[float, float, int], tuple[float, float]]) -> Plant:
    return lambda patch: patch.setattr(
        ImageRule, "effective", lambda self, images: effective(self.rate(images), self.momentum, self.shared_buffer)
    )


def theta_sees_the_start(patch: pytest.MonkeyPatch) -> None:
    """Train theta on the set as it was at the start."""
    kept: dict[int, Tensor] = {}
    whole, begin = ClassShard.training_images, ClassShard.begin_network
    patch.setattr(
        ClassShard,
        "begin_network",
        lambda self: ([kept.setdefault(c, whole(self, c).clone()) for c in self.pixels], begin(self)),
    )
    patch.setattr(ClassShard, "training_images", lambda self, label: kept[label])


def incomplete_batches_are_dropped(patch: pytest.MonkeyPatch) -> None:
    whole = SyntheticBatches.segment
    patch.setattr(
        SyntheticBatches,
        "segment",
        lambda self, *key, **given: (b for b in whole(self, *key, **given) if len(b.labels) == self.batch),
    )


def theta_rests(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Trajectory, "train", lambda self, batches, *key: None)


def the_network_goes_on(patch: pytest.MonkeyPatch) -> None:
    """Draw no new network after the first."""
    whole = Trajectory.draw
    patch.setattr(Trajectory, "draw", lambda self, purpose, k: whole(self, purpose, k) if k == 0 else None)


def drawn_and_not_used(patch: pytest.MonkeyPatch) -> None:
    """Keep the first network, although others are drawn."""
    whole = Trajectory.draw

    def draw(self: Trajectory, purpose: str, k: int) -> None:
        before = {name: x.clone() for name, x in self.network.state_dict().items()}
        whole(self, purpose, k)
        if k > 0:
            self.network.load_state_dict(before)

    patch.setattr(Trajectory, "draw", draw)


def real_images_as_they_are(patch: pytest.MonkeyPatch) -> None:
    """Augment only the synthetic images."""
    whole = augmentation.apply
    patch.setattr(augmentation, "apply", lambda x, draw: x if len(x) == REAL else whole(x, draw))


def sum_over_the_group(patch: pytest.MonkeyPatch) -> None:
    """Sum over the group instead of averaging."""
    whole = LocalCoordinator.sum
    patch.setattr(LocalCoordinator, "sum", lambda c, parts, total, terms: whole(c, parts, total, terms) * terms)


def one_group_behind(patch: pytest.MonkeyPatch) -> None:
    whole = grouping.Grouping.groups
    patch.setattr(grouping.Grouping, "groups", lambda self, k, t: whole(self, k, max(t - 1, 0)))


def no_refresh(patch: pytest.MonkeyPatch) -> None:
    def refresh(network: Any, images: Any, *rest: Any) -> None:
        images()

    patch.setattr(shard, "refresh_running_statistics", refresh)


def refreshed(**options: Any) -> Plant:
    """Refresh with a BatchNorm of other options, or a changed batch."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        whole = batch_statistics.refresh_running_statistics

        def refresh(network: torch.nn.Module, images: Any, classes: int, coordinator: Any) -> None:
            for layer in (m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)):
                layer.momentum = options.get("momentum", 0.1)
            change = options.get("images", lambda own: own)
            whole(network, lambda: change(images()), classes, coordinator)
            for layer in (m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)):
                layer.momentum = 0.1

        patch.setattr(shard, "refresh_running_statistics", refresh)

    return plant


def class_after_class(patch: pytest.MonkeyPatch) -> None:
    """Move the averages once for each class, by its own images."""
    whole = batch_statistics.refresh_running_statistics

    def refresh(network: torch.nn.Module, images: Any, classes: int, coordinator: Any) -> None:
        for c, own in images().items():
            whole(network, lambda c=c, own=own: {c: own}, classes, coordinator)

    patch.setattr(shard, "refresh_running_statistics", refresh)


def biased_variance(patch: pytest.MonkeyPatch) -> None:
    """Use the variance that divides by n for the averages."""
    whole = batch_statistics._layer_sums

    def sums(*rest: Any, **named: Any) -> Tensor:
        unbiased = whole(*rest, **named)
        mean, square, n = unbiased[:WIDTH] / unbiased[-1], unbiased[WIDTH:-1] / unbiased[-1], unbiased[-1]
        smaller = mean**2 + (square - mean**2) * (n - 1) / n
        return torch.cat([unbiased[:WIDTH], smaller * n, unbiased[-1:]])

    patch.setattr(batch_statistics, "_layer_sums", sums)


def trained_in_evaluation_mode(patch: pytest.MonkeyPatch) -> None:
    whole = torch.nn.Module.train
    patch.setattr(torch.nn.Module, "train", lambda self, mode=True: whole(self, False))


PLANTS: dict[str, tuple[str, Plant]] = {
    "never clamped": ("idc", never_clamped),
    "clamped at each step": ("idc", clamped_at_each_step),
    "clamped where nothing is": ("dc", clamped_in_normalised_space),
    "momentum of pixels ends with a network": ("dc", pixels_forget_their_momentum),
    "shared momentum counts the owned classes": ("idc, one of three classes", momentum_over_the_owned_classes),
    "shared momentum is none": ("idc", rule_of_this_run(lambda lr, m, n: (2 * lr, 0.0))),
    "lr of the shared momentum is not summed": ("idc", rule_of_this_run(lambda lr, m, n: (lr, m**n))),
    "theta sees the set of the start": ("dc", theta_sees_the_start),
    "incomplete batches are dropped": ("dc", incomplete_batches_are_dropped),
    "theta is not trained": ("dc", theta_rests),
    "IDC's theta is not trained": ("idc", theta_rests),
    "one network for all": ("dm", the_network_goes_on),
    "a network is drawn and not used": ("dm", drawn_and_not_used),
    "not siamese": ("dsa", real_images_as_they_are),
    "sums of a group": ("dcc", sum_over_the_group),
    "warm-up counts from 1": ("dcc", one_group_behind),
    "running averages stay": ("batch norm", no_refresh),
    "running averages of the batch alone": ("batch norm", refreshed(momentum=1.0)),
    "eight images for the averages": ("batch norm", refreshed(images=lambda own: {c: x[:8] for c, x in own.items()})),
    "one class for the averages": ("batch norm", refreshed(images=lambda own: {0: own[0]})),
    "averages class after class": ("batch norm", class_after_class),
    "averages of the biased variance": ("batch norm", biased_variance),
    "theta is trained in evaluation mode": ("batch norm", trained_in_evaluation_mode),
}


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_error_is_noticed(name: str) -> None:
    case, plant = PLANTS[name]
    with pytest.raises(AssertionError):
        compare(case, plant, **SHALLOW)


# --- the schedule of DCC, and the learning rate of the pixels ---------------------------------------------------------


def compare_schedule(method: str) -> None:
    """Check DCC's schedule: per class while k < 250 and t < 10, else pooled."""
    run = loaded([f"method={method}", *DC[1:]], {})
    schedule = assembly.matching_recipe(run, dataset(), grouping.pooled(CLASSES)).grouping
    for k in (0, 1, 249, 250, 251, 999):
        for t in (0, 9, 10, 11, 49):
            expected = ((0,), (1,), (2,)) if k < 250 and t < 10 else ((0, 1, 2),)
            assert schedule.groups(k, t) == expected, f"k {k}, t {t}"


def pixel_lr(base: float, ipc: int, size: int, reference: int) -> float:
    """Return IDC's learning rate: base * (ipc / 10) * (size / reference)^2."""
    return base * (ipc / 10) * (size / reference) * (size / reference)


IDC_1 = ["method=idc", "training=real"]
MNIST = [*IDC_1, "method.distance=sum_absolute", "method.images.lr=1e-4"]
RATES: dict[str, tuple[str, list[str], int, float]] = {  # config, overrides, side, lr
    "DC at any ipc": ("cifar10_dc", ["ipc=50", "trajectory.matching_steps=50"], 32, 0.1),
    "DM": ("cifar10_dm", ["ipc=10"], 32, 1.0),
    "CIFAR-10, 1": ("cifar10_idc", ["ipc=1"], 32, pixel_lr(5e-3, 1, 32, 32)),
    "CIFAR-10, 10": ("cifar10_idc", [], 32, 5e-3),
    "CIFAR-10, 50": ("cifar10_idc", ["ipc=50"], 32, 0.025),
    "IDC-I": ("cifar10_idc_i", ["ipc=50"], 32, 0.025),
    "MNIST": ("digits", [*MNIST, "ipc=20", "method.images.reference_size=28"], 28, 2e-4),
    "FashionMNIST": ("digits", [*MNIST, "ipc=10"], 28, pixel_lr(1e-4, 10, 28, 32)),
    "ImageNet-10": ("imagenet10_idc", [], 224, 3e-3),
    "ImageNet-10, 20": ("imagenet10_idc", ["ipc=20"], 224, 6e-3),
    "ImageNet-100": ("imagenet100_idc", [], 224, 1e-3),
    "ImageNet-100 at 112": ("imagenet100_idc", ["dataset.size=112"], 112, pixel_lr(1e-3, 10, 112, 224)),
    "miniImageNet": ("miniimagenet84_idc", [], 84, pixel_lr(1e-3, 1, 84, 224)),
}


def compare_rate(name: str) -> None:
    """Check the learning rate of the pixels in a shipped config."""
    file, overrides, size, expected = RATES[name]
    run = config.load(str(config.shipped() / f"{file}.yaml"), overrides)
    assert assembly.image_rule(run, dataset(size)).rate(images_per_class.most(run)) == pytest.approx(
        expected, rel=1e-12
    )


@pytest.mark.parametrize("name", RATES)
def test_rate(name: str) -> None:
    compare_rate(name)


def scaled_by(ipc: bool, power: int) -> Plant:
    """Plant the rule with other powers of the two ratios."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        def rule(run: RunConfig, data: Any) -> ImageRule:
            images = run.method.images
            scale = (data.size / (images.reference_size or data.size)) ** power
            return ImageRule(images.lr, images.momentum, 1, images.reference_ipc if ipc else None, scale)

        patch.setattr(assembly, "image_rule", rule)

    return plant


@pytest.mark.parametrize(
    ("plant", "noticed"), [(scaled_by(True, 1), "FashionMNIST"), (scaled_by(False, 2), "CIFAR-10, 50")]
)
def test_another_scaling_is_noticed(plant: Plant, noticed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        compare_rate(noticed)


@pytest.mark.parametrize("method", ["dcc", "dsac"])
def test_schedule(method: str) -> None:
    compare_schedule(method)


@pytest.mark.parametrize("key", ["warmup_networks", "warmup_steps"])
@pytest.mark.parametrize("by", [-1, 1])
def test_another_schedule_is_noticed(key: str, by: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = grouping.Grouping
    with monkeypatch.context() as patch:
        patch.setattr(
            assembly,
            "Grouping",
            lambda partition, networks, steps: replace(
                whole(partition, networks, steps),
                **{key: {"warmup_networks": networks, "warmup_steps": steps}[key] + by},
            ),
        )
        with pytest.raises(AssertionError):
            compare_schedule("dcc")
