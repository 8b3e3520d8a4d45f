"""Tables of the parts that need the engine; those of distances, statistics, starts of pixels and others are in core.

A part is added by a line of its table, whose name a config can use from then on. Each line takes what all parts of
its kind may need as one argument.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from dist_condense.core import grouping
from dist_condense.core.grouping import Partition
from dist_condense.engine.batches import Batches, NoBatches, RealBatches, SyntheticBatches
from dist_condense.engine.class_features import kmeans_partition
from dist_condense.engine.trajectory import Fresh, NetworkStart, Pool, Pretrained
from dist_condense.system.storage import Storage


@dataclass(frozen=True, kw_only=True)
class Classes:
    """The classes that are divided into groups."""

    count: int
    groups: int
    """Number of groups that are asked for."""
    given: Sequence[Sequence[int]]
    """Labels of each group, where a config states them."""
    seed: int
    features: Callable[[], torch.Tensor]
    """Computes the mean features ``[classes, features]``."""


PARTITIONS: dict[str, Callable[[Classes], Partition]] = {
    "per_class": lambda classes: grouping.per_class(classes.count),
    "pooled": lambda classes: grouping.pooled(classes.count),
    "given": lambda classes: grouping.check_partition(classes.given, classes.count),
    "random": lambda classes: grouping.random_partition(classes.count, classes.groups, classes.seed),
    "kmeans": lambda classes: kmeans_partition(classes.features(), classes.groups, classes.seed),
}


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """Training of a network before it is matched on."""

    epochs: int
    pool_size: int
    real: Callable[[], RealBatches]
    """Opens the real images."""
    store: Callable[[], Storage]
    """Opens the place where a pool is kept."""


NETWORK_STARTS: dict[str, Callable[[Pretraining], NetworkStart]] = {
    "fresh": lambda training: Fresh(),
    "pretrained": lambda training: Pretrained(training.epochs, training.real()),
    "pool": lambda training: Pool(training.pool_size, training.epochs, training.real(), training.store()),
}


@dataclass(frozen=True, kw_only=True)
class TrainingImages:
    """Images that theta can be trained on, opened by a call."""

    real: Callable[[], RealBatches]
    synthetic: Callable[[], SyntheticBatches]


BATCHES: dict[str, Callable[[TrainingImages], Batches]] = {
    "frozen": lambda images: NoBatches(),
    "real": lambda images: images.real(),
    "synthetic": lambda images: images.synthetic(),
}
