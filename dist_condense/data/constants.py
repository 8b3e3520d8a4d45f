"""Mean and std that normalise images: those of a data set of the catalogue, or measured on the training images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import fsum, sqrt

import numpy as np
import torch

from dist_condense.data.catalogue import KNOWN
from dist_condense.data.image_set import ImageSet
from dist_condense.data.reading.source import ClassSource
from dist_condense.data.sets.folders import IMAGENET
from dist_condense.data.sets.subsets import MEASURED_SUBSETS
from dist_condense.system.errors import DataError

MEASURED = "measured"
LEVELS = 256
CHUNK = 256
"""Images read at once."""

Constants = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and std per channel, of the values of images (bytes as [0, 1])."""


def names() -> tuple[str, ...]:
    """What `dataset.constants` can be."""
    return (*KNOWN, MEASURED)


def default(dataset: ImageSet, classes: object) -> str | None:
    """What stands for null where `dataset.classes` is this: a paper's constants where its data set is meant.

    Measured are images of the user's own, but for RGB images whose classes are all WordNet ids, which are ImageNet's;
    and named subsets that were measured in their paper.
    """
    imagenet = dataset.channels == IMAGENET.channels and all(entry.wnid for entry in dataset.classes)
    own = dataset.facts.own and not imagenet
    return MEASURED if own or (isinstance(classes, str) and classes in MEASURED_SUBSETS) else None


def of_name(name: str | None, dataset: ImageSet) -> Constants:
    """Those of a data set of the catalogue; the opened one's own for None. DataError for another number of channels."""
    if name is None:
        return dataset.mean, dataset.std
    facts = KNOWN[name].facts
    if facts.channels != dataset.channels:
        text = f"dataset.constants: {name} has {facts.channels} channels, {dataset.name} has {dataset.channels}"
        raise DataError([f"{text}; name one with as many, or set {MEASURED}"])
    return facts.mean, facts.std


def measured(source: ClassSource, counts: Sequence[int], channels: int) -> Constants:
    """Of all images of classes 0, 1, ... of a source; std is that of the population, sqrt(E[x^2] - E[x]^2).

    Of bytes from integer counts of every value, so that neither order nor threads matter; of floats by sums in float64,
    in two passes. Raises DataError for images that cannot be read, and for a channel of one value.
    """

    def chunks() -> Iterator[torch.Tensor]:
        """[C, values of some images]"""
        for label, count in enumerate(counts):
            for positions in torch.arange(count).split(CHUNK):
                yield source.get(label, positions).cpu().transpose(0, 1).flatten(1)

    if next(chunks()).is_floating_point():
        return _of_floats(chunks)
    seen = torch.zeros(channels, LEVELS, dtype=torch.int64)
    for chunk in chunks():
        for channel, values in enumerate(chunk):
            seen[channel] += torch.bincount(values, minlength=LEVELS)
    return _moments(seen.tolist())


def _of_floats(chunks: Callable[[], Iterator[torch.Tensor]]) -> Constants:
    def average(of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        parts = [of(chunk.double().numpy()).sum(1) for chunk in chunks()]  # by numpy: on one thread
        return np.array([fsum(column) for column in zip(*parts, strict=True)]) / number

    number = sum(chunk.shape[1] for chunk in chunks())
    mean = average(lambda values: values)
    if not np.isfinite(mean).all():
        raise _unusable(int(np.isfinite(mean).argmin()))
    std = np.sqrt(average(lambda values: (values - mean[:, None]) ** 2))
    if not (std > 0).all():
        raise _unusable(int(std.argmin()))
    return tuple(mean.tolist()), tuple(std.tolist())


def _unusable(channel: int) -> DataError:
    text = f"dataset.constants: {MEASURED}, but channel {channel} of the training images has one value everywhere"
    return DataError([f"{text}, or one that is not finite; give dataset.mean and dataset.std"])


def _moments(histograms: list[list[int]]) -> Constants:
    mean, std = [], []
    for channel, histogram in enumerate(histograms):
        number = sum(histogram)
        first = sum(value * times for value, times in enumerate(histogram))
        second = sum(value**2 * times for value, times in enumerate(histogram))
        spread = number * second - first**2  # exact: (number * 255)^2 times the variance
        if spread == 0:
            raise _unusable(channel)
        mean.append(first / number / (LEVELS - 1))
        std.append(sqrt(spread) / number / (LEVELS - 1))
    return tuple(mean), tuple(std)
