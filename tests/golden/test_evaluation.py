"""An evaluation equals a loop by hand in float64: epochs, batches, learning rates, augmentation, CutMix and tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dist_condense.core import augmentation, cutmix, randomness
from dist_condense.core.cutmix import CutMix
from dist_condense.data.normalise import ChannelStatistics
from dist_condense.data.reading.source import LabelledImages
from dist_condense.evaluation import training
from dist_condense.evaluation.augmentation import Nothing
from dist_condense.evaluation.protocols import PROTOCOLS, Protocol, one_drop, two_drops
from dist_condense.evaluation.training import Course, Score, train_and_test
from tests.golden import by_hand
from tests.golden.by_hand import SGD, Averages, Theta
from tests.golden.recorded import Recorded, agree
from tests.golden.toys import CLASSES, MEAN, STD, WIDTH, batch, drawn, flat, network, photographs, seen, theta_of

Plant = Callable[[pytest.MonkeyPatch], None]

N, BATCH = 10, 4
IMAGES, LABELS = batch(N, 4)
TEST = photographs(60, 17), torch.randint(CLASSES, (60,), generator=drawn(18))


# --- what the papers' programs do ---------------------------------------------------------------------------------


def rate_of_dc(lr: float, epoch: int, epochs: int) -> tuple[float, bool]:
    """Return a tenth of the rate after epoch E//2 + 1 (from 0), with a new optimiser."""
    last = epochs // 2 + 1
    return (lr, False) if epoch <= last else (lr / 10, epoch == last + 1)


def rate_of_idc(lr: float, epoch: int, epochs: int) -> tuple[float, bool]:
    """Return a fifth of the rate from two thirds on, a twenty-fifth from five sixths on, with the same optimiser."""
    if epoch < 2 * epochs // 3:
        return lr, False
    return (lr / 5 if epoch < 5 * epochs // 6 else lr / 25), False


@dataclass(frozen=True)
class Rules:
    """Rules by which one network is trained and tested."""

    protocol: str
    """Protocol of the engine."""
    epochs: int
    runs: int
    """Number of epochs."""
    rate: Callable[[float, int, int], tuple[float, bool]]
    tests: tuple[int, ...]
    """Epochs after which the network is tested."""
    lr: float = 0.01
    decay: float = 5e-4
    augmented: bool = False
    cutmix: float = 0.0
    other_augmentation: bool = False
    """Whether the augmentation is not one of DSA's operations: its results are taken from the engine."""
    batch_norm: bool = False


OF_DC = Rules("dc", 6, 7, rate_of_dc, (7,))
OF_IDC = Rules("idc", 12, 12, rate_of_idc, (3, 6, 9, 12), augmented=True, cutmix=0.5)
CASES: dict[str, Rules] = {
    "dc": OF_DC,
    "dc, odd": replace(OF_DC, epochs=7, runs=8, tests=(8,)),
    "dsa": replace(OF_DC, protocol="dsa", augmented=True),
    "dm": replace(OF_DC, protocol="dm", augmented=True),
    "idc, BatchNorm": replace(OF_IDC, lr=1.5, batch_norm=True),
    "idc": OF_IDC,
    "idc, quick": replace(OF_IDC, lr=1.0),
    "idc, 16 epochs": replace(OF_IDC, epochs=16, runs=16, tests=(4, 8, 12, 16)),
    "idc on speech": replace(OF_IDC, protocol="idc_speech", augmented=False, cutmix=0.0),
    "idc on ImageNet-10": replace(
        OF_IDC, protocol="idc_imagenet", other_augmentation=True, augmented=False, cutmix=1.0
    ),
    "idc on ImageNet-100": replace(
        OF_IDC, protocol="idc_imagenet100", lr=0.1, decay=1e-4, other_augmentation=True, augmented=False, cutmix=1.0
    ),
}


# --- the engine ---------------------------------------------------------------------------------------------------


class Float64(nn.Module):
    """Evaluates the test images in float64, too, and stores the logits."""

    def __init__(self, batch_norm: bool) -> None:
        super().__init__()
        self.inner, self.tested = network(11), []
        if batch_norm:
            for i, layer in enumerate(self.inner):
                if isinstance(layer, nn.GroupNorm):
                    self.inner[i] = nn.BatchNorm2d(WIDTH).double()

    def forward(self, x: Tensor) -> Tensor:
        logits = self.inner(x.double())
        if torch.is_inference_mode_enabled():
            self.tested.append(logits.clone())
        return logits


@dataclass
class Run:
    """Results of the engine, and its draws."""

    drawn: Recorded
    score: Score
    theta: Theta
    tested: list[Tensor]
    """Logits of the test images, in the order of the tests."""
    asked: list[list[int]] = field(default_factory=list)
    """Positions of the batches."""
    given: list[Tensor] = field(default_factory=list)
    """Results of another augmentation."""


def engine(rules: Rules, plant: Plant | None, changes: dict[str, Any]) -> Run:
    asked: list[list[int]] = []
    given: list[Tensor] = []
    protocol = replace(PROTOCOLS[rules.protocol], batch=BATCH)
    if rules.lr >= 1:
        protocol = replace(protocol, lr=rules.lr)  # where the published one would learn too little here

    def images(positions: Tensor) -> Tensor:
        asked.append(positions.tolist())
        return IMAGES[positions]

    with pytest.MonkeyPatch.context() as patch:
        recorded = Recorded(patch)
        if rules.other_augmentation:
            augment = protocol.augmentation

            def kept(x: Tensor, generator: torch.Generator, statistics: ChannelStatistics) -> Tensor:
                given.append(augment(x, generator, statistics))
                return given[-1]

            protocol = replace(protocol, augmentation=kept)
        if plant:
            plant(patch)
        module = Float64(rules.batch_norm)
        test, statistics = LabelledImages(*TEST), ChannelStatistics(MEAN, STD)
        protocol = replace(protocol, **changes)
        score = train_and_test(
            images,
            LABELS,
            test=test,
            statistics=statistics,
            network=module,
            protocol=protocol,
            seed=2,
            epochs=rules.epochs,
        )
    return Run(recorded, score, theta_of(module), module.tested, asked, given)


# --- by hand ------------------------------------------------------------------------------------------------------


def by_the_rules(rules: Rules, run: Run) -> tuple[Theta, list[Tensor]]:
    """Return theta at the end, and logits of the test images in each test."""
    theta, optimiser = theta_of(Float64(rules.batch_norm)), SGD(rules.lr, 0.9, rules.decay)
    averages: Averages | None = by_hand.fresh_averages(theta) if rules.batch_norm else None
    asked, given, tested, orders = iter(run.asked), iter(run.given), [], set()
    for epoch in range(rules.runs):
        rate, new = rules.rate(rules.lr, epoch, rules.epochs)
        if new:
            optimiser = SGD(rate, 0.9, rules.decay)
        optimiser.lr = rate
        order: tuple[int, ...] = ()
        for size in (4, 4, 2):
            rows = next(asked, [])
            assert len(rows) == size, f"a batch of {len(rows)} images in epoch {epoch}"
            order += tuple(rows)
            images = IMAGES[rows]
            if rules.augmented:
                images = run.drawn.augmentation(size)(images)
            if rules.other_augmentation:
                images = next(given)
            mix = run.drawn.cutmix(rules.cutmix, size)
            by_hand.update(theta, optimiser, images, LABELS[rows], mix if rules.cutmix else None, averages)
        assert sorted(order) == list(range(N)), "an epoch shows each image once"
        orders.add(order)
        if epoch + 1 in rules.tests:
            tested.append(by_hand.logits(theta, seen(TEST[0]), averages))
    assert next(asked, None) is None, "the engine ran more epochs"
    assert len(orders) > rules.runs // 2, "epochs are shuffled"
    run.drawn.nothing_is_left()
    return theta, tested


def top1(logits: Tensor) -> float:
    """Return the percentage of test images whose class has the largest logit, to four decimals."""
    right = sum(int(row.argmax()) == label for row, label in zip(logits, TEST[1].tolist(), strict=True))
    return round(100 * right / len(logits), 4)


def compare(case: str, plant: Plant | None = None, **changes: Any) -> Score:
    """Compare theta and scores of the engine and by hand; an error is planted in the engine alone."""
    rules = CASES[case]
    run = engine(rules, plant, changes)
    theta, tested = by_the_rules(rules, run)
    start = theta_of(Float64(rules.batch_norm))
    agree(flat(run.theta), flat(theta), flat(start), "theta")
    assert len(tested) == len(run.tested), f"{len(run.tested)} tests"
    for ours, hand in zip(run.tested, tested, strict=True):
        assert ours.shape == hand.shape and (ours - hand).abs().max() < 1e-5, "logits of a test"  # images in float32
    scores = [top1(hand) for hand in tested]
    assert (run.score.top1_last, run.score.top1_best) == (scores[-1], max(scores)), scores
    assert run.score.epochs == rules.epochs
    return run.score


@pytest.mark.parametrize("case", CASES)
def test_evaluation(case: str) -> None:
    compare(case)


def test_the_last_is_not_the_best() -> None:
    """The two differ here, so that each is checked."""
    score = compare("idc, quick")
    assert score.top1_last < score.top1_best


# --- it can fail --------------------------------------------------------------------------------------------------

CHANGES: dict[str, tuple[str, dict[str, Any]]] = {
    "no weight decay": ("dc", {"weight_decay": 0.0}),
    "no momentum": ("dc", {"momentum": 0.0}),
    "other lr": ("dc", {"lr": 0.0101}),
    "E epochs": ("dc", {"extra_epochs": 0}),
    "two epochs more": ("dc", {"extra_epochs": 2}),
    "momentum kept": ("dc", {"reset_momentum": False}),
    "lr drops an epoch early": ("dc", {"schedule": lambda epoch, epochs: one_drop(epoch + 1, epochs)}),
    "lr drops an epoch late": ("dc", {"schedule": lambda epoch, epochs: one_drop(epoch - 1, epochs)}),
    "lr drops by E + 1": ("dc, odd", {"schedule": lambda epoch, epochs: one_drop(epoch, epochs + 1)}),
    "DC by IDC's rates": ("dc", {"schedule": two_drops}),
    "other batches": ("dc", {"batch": 5}),
    "augmentation where there is none": ("dc", {"augmentation": PROTOCOLS["dsa"].augmentation}),
    "no augmentation": ("dsa", {"augmentation": Nothing()}),
    "momentum reset": ("idc", {"reset_momentum": True}),
    "no drops": ("idc", {"schedule": lambda epoch, epochs: 1.0}),
    "IDC's drops an epoch early": ("idc", {"schedule": lambda epoch, epochs: two_drops(epoch + 1, epochs)}),
    "drops by a tenth": ("idc", {"schedule": lambda epoch, epochs: two_drops(epoch, epochs) ** 1.43}),
    "other CutMix": ("idc", {"cutmix": 1.0}),
    "one test": ("idc, quick", {"evaluations": 1}),
    "one epoch more": ("idc", {"extra_epochs": 1}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_another_protocol_is_noticed(name: str) -> None:
    case, changes = CHANGES[name]
    with pytest.raises(AssertionError):
        compare(case, **changes)


def permuted(change: Callable[[Tensor], Tensor]) -> Plant:
    def plant(patch: pytest.MonkeyPatch) -> None:
        whole = randomness.permutation
        patch.setattr(randomness, "permutation", lambda *key: change(whole(*key)))

    return plant


def drawn_weight(patch: pytest.MonkeyPatch) -> None:
    """Plant weights by a square of the box's longer side: a box at the border is smaller."""

    def mix(partner: Tensor, box: tuple[int, int, int, int], size: tuple[int, int]) -> CutMix:
        drawn = 1 - max(box[1] - box[0], box[3] - box[2]) ** 2 / (size[0] * size[1])
        return CutMix(partner, torch.tensor(box).view(2, 2), torch.tensor(drawn, dtype=torch.float64))

    patch.setattr(cutmix, "mix", mix)


def own_label_alone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(cutmix, "mixed_loss", lambda x, own, partner, weight: F.cross_entropy(x, own, reduction="none"))


def optimiser_with(**options: Any) -> Plant:
    def plant(patch: pytest.MonkeyPatch) -> None:
        whole = torch.optim.SGD
        patch.setattr(torch.optim, "SGD", lambda parameters, lr, **rest: whole(parameters, lr, **{**rest, **options}))

    return plant


def gradients_add_up(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch.optim.SGD, "zero_grad", lambda self: None)


def best_is_reported(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(training, "Score", lambda last, best, *others: Score(best, best, *others))


def last_is_the_best(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(training, "Score", lambda last, best, *others: Score(last, last, *others))


def raw_test_images(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ChannelStatistics, "normalise", lambda self, images: images)


def first_test_images_alone(patch: pytest.MonkeyPatch) -> None:
    whole = LabelledImages.chunks
    patch.setattr(training, "TEST_CHUNK", 35)
    patch.setattr(LabelledImages, "chunks", lambda self, size: [c for c in whole(self, size) if len(c[1]) == size])


def stays_in_training_mode(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(nn.Module, "eval", lambda self: self)


def trained_in_evaluation_mode(patch: pytest.MonkeyPatch) -> None:
    whole = nn.Module.train
    patch.setattr(nn.Module, "train", lambda self, mode=True: whole(self, False))


def lr_is_not_set(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Course, "_set_factor", lambda self, factor: None)


PLANTS: dict[str, tuple[str, Plant]] = {
    "incomplete batch dropped": ("dc", permuted(lambda order: order[:8])),
    "not shuffled": ("dc", permuted(lambda order: order.sort().values)),
    "an image twice": ("dc", permuted(lambda order: torch.cat([order[:9], order[:1]]))),
    "the first two drawn": ("idc", permuted(lambda order: order.clamp(min=1))),
    "one lr": ("dc", lr_is_not_set),
    "Nesterov's momentum": ("dc", optimiser_with(nesterov=True)),
    "dampening": ("dc", optimiser_with(dampening=0.1)),
    "gradients add up": ("dc", gradients_add_up),
    "augmentation not applied": ("dsa", lambda p: p.setattr(augmentation, "apply", lambda images, draw: images)),
    "weight of a square": ("idc", drawn_weight),
    "own label alone": ("idc", own_label_alone),
    "nothing pasted": ("idc", lambda p: p.setattr(CutMix, "images", lambda self, images: images)),
    "best is reported": ("idc, quick", best_is_reported),
    "last is the best": ("idc, quick", last_is_the_best),
    "test images not normalised": ("idc, quick", raw_test_images),
    "incomplete chunk of the test dropped": ("idc, quick", first_test_images_alone),
    "tested in training mode": ("idc, BatchNorm", stays_in_training_mode),
    "trained in evaluation mode": ("idc, BatchNorm", trained_in_evaluation_mode),
}


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_error_is_noticed(name: str) -> None:
    case, plant = PLANTS[name]
    with pytest.raises(AssertionError):
        compare(case, plant)


# --- the published lengths ----------------------------------------------------------------------------------------

DC_RUN, DSA_RUN = (300, 301, rate_of_dc, (301,)), (1000, 1001, rate_of_dc, (1001,))
IDC_RUN = (1000, 1000, rate_of_idc, (250, 500, 750, 1000))
COURSES: dict[tuple[str, int, int], tuple[int, int, Callable[..., tuple[float, bool]], tuple[int, ...]]] = {
    # protocol, decoded images per class, classes: E, epochs run, rates, tested after
    ("dc", 10, 10): DC_RUN,
    ("dc_mnist", 10, 10): DSA_RUN,
    ("dc_batchnorm", 10, 10): DSA_RUN,
    ("dsa", 10, 10): DSA_RUN,
    ("dm", 50, 10): DSA_RUN,
    ("idc", 40, 10): IDC_RUN,
    ("idc", 10, 100): IDC_RUN,
    ("idc_speech", 40, 8): IDC_RUN,
    ("idc_imagenet", 90, 10): IDC_RUN,
    ("idc_imagenet", 10, 10): (2000, 2000, rate_of_idc, (500, 1000, 1500, 2000)),
    ("idc_imagenet100", 10, 100): (1300, 1300, rate_of_idc, (325, 650, 975, 1300)),
    ("idc_imagenet100", 90, 100): (600, 600, rate_of_idc, (150, 300, 450, 600)),
}


def compare_course(course: tuple[str, int, int], **changes: Any) -> None:
    """Compare epochs, learning rates and tests of a published length; nothing is trained."""
    name, per_class, classes = course
    epochs, runs, rate, tests = COURSES[course]
    protocol: Protocol = replace(PROTOCOLS[name], **changes)
    labels, done, tested = torch.arange(classes).repeat(per_class), [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Course, "run_epoch", lambda self, epoch, factor: done.append((epoch, factor)))
        patch.setattr(training, "correct_by_class", lambda *rest: [tested.append(len(done)), [0] * rest[3]][1])
        module, nothing = nn.Linear(1, 1), LabelledImages(*TEST)
        score = train_and_test(
            lambda rows: IMAGES[rows],
            labels,
            test=nothing,
            statistics=ChannelStatistics(MEAN, STD),
            network=module,
            protocol=protocol,
            seed=0,
        )
    assert score.epochs == epochs, f"E is {score.epochs}, not {epochs}"
    assert tuple(tested) == tests, f"tested after {tested}"
    assert [epoch for epoch, _ in done] == list(range(runs)), f"{len(done)} epochs"
    expected = [rate(1.0, epoch, epochs)[0] for epoch in range(runs)]
    assert [factor for _, factor in done] == pytest.approx(expected, rel=1e-12), "learning rates"


@pytest.mark.parametrize("course", COURSES, ids=lambda course: "-".join(map(str, course)))
def test_course(course: tuple[str, int, int]) -> None:
    compare_course(course)


@pytest.mark.parametrize(
    "changes",
    [
        {"extra_epochs": 0},
        {"evaluations": 2},
        {"epochs": lambda per_class, classes: 301},
        {"schedule": two_drops},
        {"schedule": lambda epoch, epochs: one_drop(epoch + 1, epochs)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_another_course_is_noticed(changes: dict[str, Any]) -> None:
    with pytest.raises(AssertionError):
        compare_course(("dc", 10, 10), **changes)
