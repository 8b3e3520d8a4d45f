"""Keys that have no effect beside the values of other keys."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from math import prod

from dist_condense.core.start import STARTS
from dist_condense.engine.matching.recipe import DRAWS
from dist_condense.selection.table import SELECTIONS
from dist_condense.settings import assembly
from dist_condense.settings.config import RunConfig
from dist_condense.settings.keys import KEYS, value
from dist_condense.settings.parts import BATCHES, NETWORK_STARTS, PARTITIONS
from dist_condense.settings.procedures import PROCEDURES
from dist_condense.settings.schema import AUTO_DEVICE

Hindrance = Callable[[RunConfig], str | None]
"""Function that returns the key whose value leaves others without effect; None if they have one."""


@dataclass(frozen=True)
class Effect:
    """Condition under which some keys have an effect.

    :param keys: names of keys, or of sections that end with a dot.
    """

    keys: tuple[str, ...]
    hindrance: Hindrance

    def names(self, key: str) -> bool:
        """Return whether ``key`` is one of the keys, or is in one of the sections."""
        return any(key == name or (name.endswith(".") and key.startswith(name)) for name in self.keys)


def _unless(key: str, matters: Callable[[RunConfig], bool]) -> Hindrance:
    return lambda config: None if matters(config) else key


def _training(config: RunConfig) -> str | None:
    if NETWORK_STARTS[config.trajectory.start].pretrains and config.trajectory.pretrain_epochs:
        return None
    return _between_steps(config)


def _between_steps(config: RunConfig) -> str | None:
    if BATCHES[config.training.source].budget is None:
        return "training.source"
    return "trajectory.matching_steps" if config.trajectory.matching_steps == 1 else None


def _amount(budget: str) -> Hindrance:
    def hindrance(config: RunConfig) -> str | None:
        if BATCHES[config.training.source].budget != budget:
            return "training.source"
        return _between_steps(config)

    return hindrance


def _selects_with_network(config: RunConfig) -> bool:
    name = config.method.selection.name
    return name in SELECTIONS and SELECTIONS[name].features


def _uses_network(config: RunConfig) -> bool:
    """Return whether a network computes besides those of the evaluation."""
    selects = "method.selection." not in PROCEDURES[config.method.procedure].ignores
    return not selects or _selects_with_network(config)


def _draws_representatives(config: RunConfig) -> bool:
    return DRAWS[config.method.real_draw].representative


TRAINED = tuple(f"training.{key}" for key in ("batch", "lr", "momentum", "weight_decay", "cutmix"))
OF_NETWORK = tuple(f"method.selection.{key}" for key in ("epochs", "lr", "momentum", "weight_decay", "batch"))

EFFECTS = [
    Effect(OF_NETWORK, _unless("method.selection.name", _selects_with_network)),
    Effect(
        ("trajectory.pretrain_epochs",),
        _unless("trajectory.start", lambda config: NETWORK_STARTS[config.trajectory.start].pretrains),
    ),
    Effect(
        ("trajectory.pool_size",),
        _unless("trajectory.start", lambda config: NETWORK_STARTS[config.trajectory.start].shares),
    ),
    Effect(TRAINED, _training),
    Effect(("training.epochs",), _amount("epochs")),
    Effect(("training.images",), _amount("images")),
    Effect(("method.representatives.interval",), _unless("method.real_draw", _draws_representatives)),
    Effect(
        ("method.representatives.images",),
        _unless(
            "method.real_draw",
            lambda config: _draws_representatives(config) or STARTS[config.method.start].representative,
        ),
    ),
    Effect(
        ("method.parameterisation.axes", "method.parameterisation.decoding"),
        _unless("method.parameterisation.factor", lambda config: prod(assembly.grid(config)) > 1),
    ),
    Effect(
        ("method.statistic.parameters",),
        _unless("method.statistic.name", lambda config: assembly.statistic_of(config).reads_labels),
    ),
    Effect(
        ("method.grouping.number",),
        _unless("method.grouping.name", lambda config: PARTITIONS[config.method.grouping.name].numbered),
    ),
    Effect(
        ("method.grouping.groups",),
        _unless("method.grouping.name", lambda config: PARTITIONS[config.method.grouping.name].listed),
    ),
    Effect(
        ("method.grouping.warmup_networks", "method.grouping.warmup_steps"),
        _unless("method.grouping.name", lambda config: not PARTITIONS[config.method.grouping.name].single),
    ),
    Effect(
        ("compute.compile", "compute.autocast", "compute.cuda_graphs"),
        _unless("method.selection.name", _uses_network),
    ),
    Effect(
        ("compute.cuda_graphs", "compute.tf32", "compute.cudnn_benchmark"),
        _unless("cluster.device", lambda config: config.cluster.on_gpu or config.cluster.device == AUTO_DEVICE),
    ),
    Effect(
        ("cluster.max_failures", "cluster.min_workers", "cluster.timeout"),
        _unless("cluster.workers", lambda config: config.cluster.workers > 0),
    ),
]
"""Conditions of the keys that may have no effect, besides those that a procedure ignores. The first that is not met is
reported."""


def hindrance(config: RunConfig, key: str) -> str | None:
    """Return the key because of whose value ``key`` has no effect; None if it has one."""
    ignored = Effect(PROCEDURES[config.method.procedure].ignores, lambda config: "method.procedure")
    hindrances = (effect.hindrance(config) for effect in [ignored, *EFFECTS] if effect.names(key))
    return next(filter(None, hindrances), None)


def remarks(config: RunConfig, given: Collection[str]) -> Iterator[str]:
    """Yield a remark for each key without effect that has another value than its default.

    :param config: config without refused values; with the device ``auto``, it may be a GPU.
    :param given: names of the keys that the user has set.
    """
    for key in KEYS:
        if key not in given or value(config, key) == KEYS[key].default:
            continue
        if reason := hindrance(config, key):
            yield f"{key} has no effect: {reason} is {value(config, reason)}"
