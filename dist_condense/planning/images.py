"""Random images that cost as much to process as those of a data set, so that planning needs no data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from dist_condense.data import SUBSETS, ClassName, MemorySource
from dist_condense.data.catalogue import KNOWN
from dist_condense.data.normalise import ChannelStatistics
from dist_condense.data.space import Space
from dist_condense.settings.config import ConfigError, RunConfig
from dist_condense.settings.images_per_class import OTHERS

PUBLISHED = {
    "digits": (10, 144, 36),
    "mnist": (10, 6000, 1000),
    "fashion_mnist": (10, 6000, 1000),
    "svhn": (10, 7326, 2603),
    "cifar10": (10, 5000, 1000),
    "cifar100": (100, 500, 100),
    "imagenet": (1000, 1281, 50),
}
"""Number of classes, and average numbers of training and of test images per class, of published data sets."""
TESTED = 50
"""Number of test images per class that is assumed for other data sets."""


@dataclass(frozen=True, kw_only=True)
class RandomImages:
    """Data set of random bytes, seeded by class, with the interface of :class:`dist_condense.data.ImageSet`."""

    classes: tuple[ClassName, ...]
    size: int
    per_class: int
    """Number of images in each class."""
    channels: int = 3
    mean: tuple[float, ...] = (0.49, 0.48, 0.45)
    std: tuple[float, ...] = (0.25, 0.24, 0.26)
    flip: bool = True
    width: int | None = None
    """Width of an image in pixels, if it differs from the height `size`."""
    tested: int = TESTED
    """Number of test images of each class."""
    counts: tuple[int, ...] = field(init=False)
    stored = torch.uint8

    def __post_init__(self) -> None:
        object.__setattr__(self, "counts", (self.per_class,) * len(self.classes))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of an image."""
        return self.channels, self.size, self.width or self.size

    @property
    def space(self) -> Space:
        """Value space of the images, with their mean and std."""
        return Space(ChannelStatistics(self.mean, self.std))

    def train(self, labels: Sequence[int], reading: object) -> MemorySource:
        """Return a source of uniform random bytes for the classes ``labels``, seeded by class.

        :param reading: ignored.
        """
        shape = (self.per_class, *self.shape)
        keyed = {c: torch.Generator().manual_seed(c) for c in labels}
        return MemorySource({c: torch.randint(256, shape, generator=g, dtype=torch.uint8) for c, g in keyed.items()})


def test_images(dataset: Any) -> int:
    """Return the number of test images of a data set or of the random images that replace it."""
    if isinstance(dataset, RandomImages):
        return dataset.tested * len(dataset.classes)
    return sum(dataset.test_split.counts)


def like(dataset: Any, per_class: int) -> RandomImages:
    """Return random images with the classes, shape and normalisation of a data set."""
    facts = {name: getattr(dataset, name) for name in ("classes", "size", "channels", "mean", "std", "flip")}
    return RandomImages(per_class=per_class, width=dataset.shape[2], **facts)


def assumed(config: RunConfig, classes: int | None, per_class: int | None) -> RandomImages:
    """Return random images that replace the config's data set.

    The classes have the names that ``ipc`` states, if any, and others numbers.

    :param classes: number of classes; None: the number in ``dataset.classes``, else the published number.
    :param per_class: number of training images per class; None: the published average.
    :raises ConfigError: the data set or a named subset is unknown, or a number is neither given nor published.
    """
    data = config.dataset
    if data.name not in KNOWN:
        raise ConfigError([f"dataset.name: {data.name!r} is not one of {', '.join(KNOWN)}"])
    usual_classes, usual_images, tested = PUBLISHED.get(data.name, (None, None, TESTED))
    classes, per_class = classes or _named(data.classes) or usual_classes, per_class or usual_images
    if classes is None or per_class is None:
        raise ConfigError(
            [f"dataset.root: there are no images of {data.name}; set it, or give --classes N --images-per-class M"]
        )
    facts = KNOWN[data.name].facts.with_channels(data.channels or KNOWN[data.name].facts.channels)
    stated = [name for name in config.ipc if name != OTHERS] if isinstance(config.ipc, dict) else []
    if len(stated) > classes:
        raise ConfigError([f"ipc: it names {len(stated)} classes, and {classes} are assumed; give --classes N"])
    names = tuple(ClassName(name) for name in (*stated, *(f"class {c}" for c in range(len(stated), classes))))
    return RandomImages(
        classes=names,
        size=data.size or facts.size,
        per_class=per_class,
        channels=facts.channels,
        mean=facts.mean,
        std=facts.std,
        flip=facts.flip if data.flip is None else data.flip,
        tested=tested,
    )


def _named(classes: Any) -> int | None:
    """Return the number of classes that ``dataset.classes`` names; None if it names none."""
    if isinstance(classes, str):
        if classes not in SUBSETS:
            raise ConfigError([f"dataset.classes: {classes!r} is not one of {', '.join(SUBSETS)}"])
        return len(SUBSETS[classes])
    return len(classes) if classes else None
