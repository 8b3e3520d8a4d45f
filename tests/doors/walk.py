"""A walk over combinations of parts on tiny data: each runs with finite numbers, or is refused before its first step.

The parts are those of the tables behind the keys, so a new part is walked without a change here. A combination is a row
with one level of each factor; a level is a set of config values.
"""

from __future__ import annotations

import functools
import itertools
import random
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from dist_condense import networks
from dist_condense.core.augmentation import OPERATIONS
from dist_condense.core.distance import DISTANCES
from dist_condense.data import ImageSet, catalogue
from dist_condense.data.image_set import Facts
from dist_condense.data.reading.source import LabelledImages
from dist_condense.data.sets.arrays import from_arrays
from dist_condense.data.sets.request import Request
from dist_condense.engine.coordinator import LocalCoordinator, Placement
from dist_condense.evaluation.rows import read_csv
from dist_condense.job import preflight
from dist_condense.job.claim import Claim
from dist_condense.job.comparing import Comparison
from dist_condense.job.exporting import card
from dist_condense.networks import catalogue as network_catalogue
from dist_condense.procedures.base import ShardProcedure
from dist_condense.result.synthetic_set import write_set
from dist_condense.selection.table import SELECTIONS
from dist_condense.settings import assembly, procedures, resolve
from dist_condense.settings.config import ConfigError, RunConfig, from_dict
from dist_condense.settings.keys import KEYS, SECTIONS
from dist_condense.settings.limits import OneOf
from dist_condense.settings.parts import PARTITIONS
from dist_condense.settings.run_folder import RunFolder

Level = dict[str, Any]
"""Values of config keys."""
Factors = dict[str, list[Level]]
"""Levels by the name of a factor; the first level of each is compatible with the first levels of all others."""
Row = dict[str, int]
"""Index of a level by the name of its factor."""

# --- tiny data ----------------------------------------------------------------------------------------------------

CLASSES, PER_CLASS = ("a", "b", "c"), 4
SIDES = (8, 16, 32, 64)
KINDS = {
    "rgb": {},
    "grey": {"channels": 1, "flip": False},
    "floats": {"floats": True, "lower": None, "upper": None},
    "spectrograms": {"channels": 1, "floats": True, "upper": None, "padding": 0.0, "wide": True},
}
"""Facts of the kinds of data: bytes and floats, of one and of three channels, with and without bounds and flips."""


def _facts(side: int, *, channels: int = 3, flip: bool = True, wide: bool = False, **others: Any) -> Facts:
    normal = {"mean": (0.4,) * channels, "std": (0.25,) * channels, "family": "tiny"}
    return Facts(channels=channels, size=side, flip=flip, width=3 * side // 2 if wide else None, **normal, **others)


def _images(facts: Facts) -> LabelledImages:
    shape = (len(CLASSES) * PER_CLASS, facts.channels, facts.size, facts.width or facts.size)
    values = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(len(CLASSES)).repeat_interleave(PER_CLASS)
    return LabelledImages(values if facts.floats else (255 * values).to(torch.uint8), labels)


def _open(request: Request, facts: Facts) -> ImageSet:
    return from_arrays(request, facts, train=_images(facts), test=_images(facts), names=CLASSES)


def known(patch: pytest.MonkeyPatch) -> None:
    """Add the tiny data sets to the catalogue: ``KIND_SIDE``."""
    for kind, side in itertools.product(KINDS, SIDES):
        facts = _facts(side, **KINDS[kind])
        patch.setitem(catalogue.KNOWN, f"{kind}_{side}", catalogue.Known(facts, functools.partial(_open, facts=facts)))


# --- factors ------------------------------------------------------------------------------------------------------

SMALL = {"width": 4, "depth": 2}
"""Options of a network that make it small, where it has them."""
MANY = 40
"""Number of layers with weights above which a step takes seconds."""
HEAVY = 2_000_000
"""Number of weights above which a step takes seconds."""


def _small(name: str, **more: str) -> str:
    return networks.join(name, {key: n for key, n in SMALL.items() if key in networks.options(name)} | more)


def network_texts() -> list[str]:
    """Return every network of the catalogue, and every network with each word of each of its options."""
    texts = []
    for name in networks.names():
        texts.append(_small(name))
        for option, parameter in network_catalogue._parameters(network_catalogue.NETWORKS[name]).items():
            words = getattr(parameter.annotation, "__metadata__", ((),))[0]
            is_table = isinstance(words, Mapping)
            texts += [_small(name, **{option: word}) for word in words if word != parameter.default] if is_table else []
    return texts


@functools.cache
def side_of(text: str) -> int:
    """Return the smallest side of images that suit a network."""
    fits = functools.partial(network_catalogue._takes, text, channels=3, classes=len(CLASSES))
    return next(side for side in SIDES if fits(side))


@functools.cache
def is_deep(name: str) -> bool:
    """Return whether a network has so many layers, or so many weights, that a step takes seconds."""
    text = _small(name)
    network = networks.sketch(text, channels=3, size=side_of(text), classes=len(CLASSES))
    weights = [p.numel() for p in network.parameters() if p.ndim >= 2]
    return len(weights) > MANY or sum(weights) > HEAVY


PARTS = ("method.", "trajectory.", "training.", "compute.")
"""Prefixes of the keys that select parts of a run."""
NUMBERS: dict[str, tuple[Any, ...]] = {
    "ipc": (2, 1),
    "method.parameterisation.factor": (1, 2, 3),
    "method.label_lr": (None, 0.1),
    "method.synthetic_limit": (128, 2),
    "method.grouping.warmup_networks": (0, 1),
    "training.cutmix": (0.0, 1.0),
    "training.batch": (4, 1),
    "compute.microbatch": (0, 2),
    "compute.slices": (None, 1, 3),
}
"""Levels of numbers that switch a part on or off, or change the shapes that it sees."""
NOT_WALKED = {
    "method.procedure": "each procedure is walked by itself, with the factors that it reads",
    "method.selection.name": "walked with the procedure that reads it",
    "method.augmentation.one_of": "walked with fewer levels",
    "method.augmentation.always": "walked with fewer levels",
    "compute.compile": "takes a minute for each combination; tests/core/test_objective.py compares it",
}
BASE: Level = {
    "cluster.device": "cpu",
    "cluster.workers": 0,
    "method.real_batch": 3,
    "method.grouping.number": 2,
    "method.grouping.warmup_steps": 1,
    "method.images.lr": 1e-3,
    "trajectory.networks": 1,
    "trajectory.matching_steps": 2,
    "trajectory.pretrain_epochs": 1,
    "trajectory.pool_size": 1,
    "training.epochs": 1,
    "training.images": 4,
    "training.lr": 1e-6,  # tiny networks with BatchNorm diverge at usual rates
    "method.selection.lr": 1e-6,
    "method.selection.epochs": 1,
    "evaluation.epochs": 0,
    "evaluation.seeds": 1,
}


def _walked(prefixes: str | tuple[str, ...] = PARTS) -> Iterator[tuple[str, list[Any]]]:
    """Yield each key that selects a part, with the names of its table, the default first."""
    for key in KEYS.values():
        if key.name.startswith(prefixes) and key.name not in NOT_WALKED:
            if isinstance(key.limit, OneOf):
                names = [*key.limit.names, *([None] if type(None) in get_args(key.kind) else [])]
                yield key.name, sorted(names, key=lambda name: name != key.default)
            elif bool in (key.kind, *get_args(key.kind)):
                values = [True, False, *([None] if type(None) in get_args(key.kind) else [])]
                yield key.name, sorted(values, key=lambda value: value != key.default)


def _level(key: str, value: Any) -> Level:
    """Return the level of a name; a grouping that needs a list gets one."""
    is_listed = key == "method.grouping.name" and PARTITIONS[value].listed
    return {key: value, **({"method.grouping.groups": [[2, 0], [1]]} if is_listed else {})}


def factors_of(texts: Sequence[str], singly: bool = False) -> Factors:
    """Return all factors of a run of matching.

    :param texts: networks; the first one is compatible with the first levels of all other factors.
    :param singly: whether each operation of the augmentation is a level, besides none and all.
    """
    made: Factors = {key: [{key: value} for value in values] for key, values in NUMBERS.items()}
    made |= {key: [_level(key, value) for value in values] for key, values in _walked()}
    made["method.distance"].sort(key=lambda level: DISTANCES[level["method.distance"]].dimensions)
    for key in ("method.augmentation.always", "method.augmentation.one_of"):
        made[key] = [{key: x} for x in ([], [*OPERATIONS], *([name] for name in OPERATIONS if singly))]
    made["network"] = [{"network.name": text} for text in texts]
    made["dataset"] = [{"dataset.name": kind} for kind in KINDS]
    return made


BLOCKS: dict[str, tuple[str, ...]] = {
    "images": (
        *("method.start", "method.unit_space", "method.parameterisation.factor", "method.parameterisation.axes"),
        *("method.parameterisation.decoding", "method.synthetic_limit", "ipc", "dataset"),
    ),
    "augmentation": ("method.augmentation.always", "method.augmentation.one_of", "training.source", "dataset"),
    "statistic": (
        *("network", "method.statistic.name", "method.statistic.parameters", "method.distance", "method.label_lr"),
        *("compute.autocast", "compute.microbatch"),
    ),
    "groups": (
        *("method.grouping.name", "method.grouping.warmup_networks", "method.distance", "method.statistic.name"),
        *("compute.microbatch", "compute.reproducible"),
    ),
    "theta": (
        *("network", "trajectory.start", "training.source", "training.cutmix", "training.batch", "compute.slices"),
        *("compute.autocast", "method.label_lr"),
    ),
}
"""Factors that read or make the same tensors. All combinations of a block can be visited; between blocks, pairs are.

- images: from the data and the learnt pixels to decoded images. All later parts see images ``[m, C, h, w]`` of the
  shape of the data, so m and this shape are all that a network, a distance or a training can depend on.
- augmentation: maps these images to images of the same shape; matching and training apply it.
- statistic: from images and labels to tensors of theta's shapes, their distance, and its gradient.
- groups: sums of statistics of equal shapes, and what is done with the gradient of a class.
- theta: initialisation and training of the network, which matching sees as a network.
"""


def block(factors: Factors, name: str) -> Iterator[Row]:
    """Yield all combinations of the factors of a block, with the base levels of the others."""
    base, names = dict.fromkeys(factors, 0), BLOCKS[name]
    for levels in itertools.product(*(range(len(factors[each])) for each in names)):
        yield base | dict(zip(names, levels, strict=True))


READ_BY_SELECTING = ("ipc", "method.augmentation.", "compute.", "network", "dataset")
"""Prefixes of the factors that a selection reads; the others do not change it, which a test shows."""


def factors_of_selecting(texts: Sequence[str]) -> Factors:
    """Return all factors of a run of selecting."""
    made = {name: levels for name, levels in factors_of(texts).items() if name.startswith(READ_BY_SELECTING)}
    names = [{"method.procedure": "selecting", "method.selection.name": name} for name in SELECTIONS]
    return {"selection": names, "method.selection.batch": _batches("method.selection.batch"), **made}


def factors_of_evaluation(texts: Sequence[str]) -> Factors:
    """Return all factors of an evaluation; a set of several names is one level, and so is a name that is repeated."""
    numbers = ("ipc", "method.parameterisation.factor", "method.label_lr")
    walked = dict(_walked("evaluation."))
    sets, protocols = walked.pop("evaluation.sets"), walked.pop("evaluation.protocol")
    assert not walked, "a key of the evaluation is not walked"
    others = [assembly.SAME_NETWORK, f"{assembly.SAME_NETWORK}:norm=batch", *texts]
    return {
        "evaluation.sets": [{"evaluation.sets": x} for x in (*([name] for name in sets), sets, [*sets, *sets])],
        "evaluation.protocol": [{"evaluation.protocol": name, "evaluation.epochs": 1} for name in protocols],
        "evaluation.architectures": [{"evaluation.architectures": [text]} for text in others],
        "method.unit_space": [{"method.unit_space": value} for value in (False, True)],
        **{key: [{key: value} for value in NUMBERS[key]] for key in numbers},
        "network": [{"network.name": _small("convnet")}],
        "dataset": [{"dataset.name": kind} for kind in KINDS],
    }


def _batches(key: str) -> list[Level]:
    return [{key: value} for value in NUMBERS["training.batch"]]


def values_of(factors: Factors, row: Row) -> Level:
    """Return the config values of a row; the data have the smallest side that suits the network."""
    level = BASE | {key: value for name, index in row.items() for key, value in factors[name][index].items()}
    texts = [level["network.name"], *level.get("evaluation.architectures", ())]
    side = max(side_of(text) for text in texts if not text.startswith(assembly.SAME_NETWORK))
    return level | {"dataset.name": f"{level['dataset.name']}_{side}"}


# --- one combination ----------------------------------------------------------------------------------------------


class Watch:
    """Record of a run that stops at the first number that is not finite."""

    def __init__(self, procedure: ShardProcedure) -> None:
        self.procedure = procedure

    def resume(self) -> int:
        self.procedure.after_updates(lambda: None)
        return 0

    def after_step(self, done: int) -> None:
        problem = self.procedure.problem(done)  # type: ignore[attr-defined]
        assert problem is None, problem

    def finish(self) -> None:
        pass


def executed(config: RunConfig) -> dict[str, torch.Tensor]:
    """Execute a run that the checks accept, in this process; return its state."""
    dataset = assembly.dataset_of(config)
    config, _ = resolve.resolved(config, dataset, {})
    dataset = assembly.settled(config, dataset)
    labels = list(range(len(dataset.classes)))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Number of distinct clusters")  # of k-means, on equal features
        procedure = procedures.procedure_of(
            config,
            dataset,
            labels,
            coordinator=LocalCoordinator(bool(config.compute.reproducible)),
            placement=Placement(torch.device("cpu")),
        )
        procedure.run(Watch(procedure))  # type: ignore[arg-type]
    state = procedure.state_dict() | procedure.shared_state_dict()
    assert all(bool(x.isfinite().all()) for x in state.values() if x.is_floating_point()), "a number is not finite"
    procedure.close()
    return state


def evaluated(config: RunConfig) -> None:
    """Evaluate a set of random numbers, and the other sets of the config, as a finished run does."""
    dataset = assembly.dataset_of(config)
    config, keeping = resolve.resolved(config, dataset, {})
    claim = Claim.new(Path(config.output))
    claim.take()
    outline = procedures.outline_of(config, dataset)
    kinds = {c: outline.class_tensors(c) for c in range(len(dataset.classes))}
    _write(config, {f"{name}.{c}": torch.rand(shape) for c, own in kinds.items() for name, (_, shape) in own.items()})
    comparison = Comparison(
        config, dataset, claim=claim, budget=keeping.budget, run=lambda own: _write(own, executed(own))
    )
    rows, evaluation = comparison.rows(), config.evaluation
    assert len({row.key for row in rows}) == len(rows) == len(set(evaluation.sets)) * len(evaluation.architectures)
    assert read_csv(RunFolder(claim.folder).evaluation) == rows


def _write(config: RunConfig, state: dict[str, torch.Tensor]) -> None:
    dataset = assembly.dataset_of(config)
    outline = procedures.outline_of(config, dataset)
    images, labels = outline.synthetic_set(state)
    done = card(config, dataset, outline, outline.units.total)
    write_set(RunFolder(Path(config.output)).synthetic_set, images, labels, done)


LINE = re.compile(r"[a-z][a-z_]*(\.[a-z_]+)*( must|:|, )")
NAMED = re.compile(r"[a-z][a-z_]*(?:\.[a-z_]+)*")


def named(line: str) -> set[str]:
    """Return the keys and sections that a line names."""
    return {word for word in NAMED.findall(line) if word in KEYS or (word in SECTIONS and f"{word}:" in line)}


def factors_named(factors: Factors, lines: Sequence[str]) -> set[str]:
    """Return the factors whose keys the lines name."""
    keys = {key for line in lines for key in named(line)}
    return {
        name
        for name, levels in factors.items()
        if any(key == own or own.startswith(f"{key}.") for key in keys for level in levels for own in level)
    }


@dataclass
class Walk:
    """Executes rows of factors and remembers what ran; raises AssertionError for a row that neither runs nor is
    refused with the keys to change."""

    factors: Factors
    folder: Path
    execute: Callable[[RunConfig], object] = executed
    ran: int = 0
    refused: int = 0

    def config(self, row: Row) -> RunConfig:
        output = self.folder / str(self.ran)  # which keeps the pool of each run
        return from_dict({**values_of(self.factors, row), "output": str(output)})

    def visit(self, row: Row, kept: frozenset[str] = frozenset()) -> Row | None:
        """Run a row; if it is refused, check the lines, and run the row with base levels of the factors that they name.

        :param kept: factors whose levels stay.
        :returns: the row that ran; None if the levels of ``kept`` are refused together.
        """
        reset: set[str] = set()
        known: list[str] = []
        while lines := self.refusal(row):
            culprits = factors_named(self.factors, lines)
            assert all(LINE.match(line) and factors_named(self.factors, [line]) for line in lines), lines
            new = [line for line in lines if line not in known and not factors_named(self.factors, [line]) & reset]
            assert not (reset and new), f"{shown(self.factors, row)}: {new} hidden by {known}"
            self.refused, known = self.refused + (not reset), [*known, *lines]
            now = {name for name in culprits - kept if row[name]}
            if not now:
                assert culprits & kept, f"{shown(self.factors, row)}: the lines do not name what to change: {lines}"
                return None
            row, reset = row | dict.fromkeys(now, 0), reset | now
        try:
            self.execute(self.config(row))
        except Exception as error:
            raise AssertionError(f"{shown(self.factors, row)}: {type(error).__name__}: {error}") from error
        self.ran += 1
        return row

    def refusal(self, row: Row) -> list[str]:
        """Return the lines of the checks of a row."""
        return lines_of(self.config(row))


def lines_of(config: RunConfig) -> list[str]:
    """Return the lines of the checks of a config, before anything else is done with it."""
    try:
        preflight.check(config)
    except ConfigError as error:
        return error.problems
    return []


# --- covering arrays ----------------------------------------------------------------------------------------------


def cover(walk: Walk, strength: int, seed: int = 0) -> int:
    """Visit rows until every combination of the levels of ``strength`` factors has run, or is refused by itself.

    A combination counts as refused only if the checks refuse it with the base levels of all other factors that their
    lines name, so a refusal of one combination hides no other. The rows depend on the seed only.

    :returns: number of combinations.
    """
    rng = random.Random(seed)
    names = list(walk.factors)
    missing = {
        combination
        for chosen in itertools.combinations(names, strength)
        for combination in itertools.product(*([(name, i) for i in range(len(walk.factors[name]))] for name in chosen))
    }
    order, total = sorted(missing, key=lambda _: rng.random()), len(missing)
    for wanted in order:
        if wanted not in missing:
            continue
        ran = walk.visit(_completed(walk.factors, wanted, missing, rng), frozenset(name for name, _ in wanted))
        missing.discard(wanted)
        if ran is not None:
            missing.difference_update(itertools.combinations([(name, ran[name]) for name in names], strength))
    return total


def _completed(factors: Factors, wanted: tuple[Any, ...], missing: set[Any], rng: random.Random) -> Row:
    """Return a row with the levels ``wanted``, and levels of the other factors that add many missing combinations."""
    row, place = dict(wanted), {name: i for i, name in enumerate(factors)}
    for name in sorted(factors.keys() - row.keys(), key=lambda _: rng.random()):
        fixed = sorted(row.items(), key=lambda item: place[item[0]])
        others = list(itertools.combinations(fixed, len(wanted) - 1))

        def added(level: int, name: str = name, others: list[Any] = others) -> float:
            own = (name, level)
            combined = (tuple(sorted((*rest, own), key=lambda item: place[item[0]])) for rest in others)
            return sum(each in missing for each in combined) + rng.random() / 2

        row[name] = max(range(len(factors[name])), key=added)
    return row


def shown(factors: Factors, row: Row) -> Mapping[str, Any]:
    """Return the values of a row that differ from the base levels."""
    return {key: value for name, index in row.items() if index for key, value in factors[name][index].items()}
