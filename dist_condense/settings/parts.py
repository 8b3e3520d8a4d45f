"""Tables of the parts that need the engine: groupings, initialisations of networks, and training images of theta.

The tables of all other parts, such as distances and statistics, are in ``core``. A part is an entry of its table, under
the name that configs use. Checks and estimates read the fields of the entry, never its name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass

import torch

from dist_condense.core import grouping
from dist_condense.core.grouping import Partition
from dist_condense.engine.batches import Batches, NoBatches, RealBatches
from dist_condense.engine.class_features import kmeans_partition
from dist_condense.engine.synthetic_batches import SyntheticBatches
from dist_condense.engine.trajectory import Early, Fresh, NetworkStart, Pool, Pretrained
from dist_condense.system.storage import Storage


@dataclass(frozen=True, kw_only=True)
class Classes:
    """Classes to divide into groups, with everything on which the division may depend."""

    count: int
    groups: int
    """Requested number of groups."""
    listed: Sequence[Sequence[int]]
    """Labels of each group, if the config lists them."""
    seed: int
    features: Callable[[], torch.Tensor]
    """Function that computes the mean features of each class, ``[classes, features]``."""


@dataclass(frozen=True)
class Partitioner:
    """Method of dividing the classes into groups."""

    partition: Callable[[Classes], Partition]
    _: KW_ONLY
    single: bool = False
    """Whether every class is a group of its own."""
    listed: bool = False
    """Whether ``method.grouping.groups`` must list the groups."""
    numbered: bool = False
    """Whether ``method.grouping.number`` states the number of groups."""
    planned_as: str | None = None
    """Name of the partitioner that replaces this one in estimates, if its groups depend on features of real images."""


PARTITIONS: dict[str, Partitioner] = {
    "per_class": Partitioner(lambda classes: grouping.per_class(classes.count), single=True),
    "pooled": Partitioner(lambda classes: grouping.pooled(classes.count)),
    "given": Partitioner(lambda classes: grouping.check_partition(classes.listed, classes.count), listed=True),
    "random": Partitioner(
        lambda classes: grouping.random_partition(classes.count, classes.groups, classes.seed), numbered=True
    ),
    "kmeans": Partitioner(
        lambda classes: kmeans_partition(classes.features(), classes.groups, classes.seed),
        numbered=True,
        planned_as="random",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """Settings for training networks on real images before they are used in matching."""

    epochs: int
    pool_size: int
    networks: int
    """Number K of networks of the run."""
    check_finite: bool
    """Whether the run ends if a trained network is not finite."""
    real: Callable[[], RealBatches]
    """Function that opens the real images."""
    store: Callable[[], Storage]
    """Function that opens the storage of the pool."""


@dataclass(frozen=True)
class StartChoice:
    """Method of initialising the networks of matching."""

    make: Callable[[Pretraining], NetworkStart]
    _: KW_ONLY
    pretrains: bool = False
    """Whether networks are trained on real images first."""
    shares: bool = False
    """Whether networks are taken from a pool, each member of which is pretrained once."""


def _pool(training: Pretraining) -> Pool:
    return Pool(
        training.pool_size,
        training.epochs,
        training.real(),
        training.store(),
        networks=training.networks,
        check_finite=training.check_finite,
    )


NETWORK_STARTS: dict[str, StartChoice] = {
    "fresh": StartChoice(lambda training: Fresh()),
    "pretrained": StartChoice(lambda training: Pretrained(training.epochs, training.real()), pretrains=True),
    "pool": StartChoice(_pool, pretrains=True, shares=True),
    "early": StartChoice(lambda training: Early(_pool(training)), pretrains=True, shares=True),
}


@dataclass(frozen=True, kw_only=True)
class TrainingImages:
    """Functions that open the images on which theta can be trained."""

    real: Callable[[], RealBatches]
    synthetic: Callable[[], SyntheticBatches]


@dataclass(frozen=True)
class TrainingSource:
    """Choice of the images on which theta is trained between matching steps."""

    batches: Callable[[TrainingImages], Batches]
    _: KW_ONLY
    budget: str | None = None
    """Key of ``training`` that sets the amount of training after each matching step; None: theta is not trained."""
    on_set: bool = False
    """Whether the images are the synthetic set."""


BATCHES: dict[str, TrainingSource] = {
    "frozen": TrainingSource(lambda images: NoBatches()),
    "real": TrainingSource(lambda images: images.real(), budget="images"),
    "synthetic": TrainingSource(lambda images: images.synthetic(), budget="epochs", on_set=True),
}
