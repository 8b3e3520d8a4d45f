"""Mean and std for normalising images: taken from a catalogue data set, or measured on the training images."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Collection, Iterator, Sequence
from math import fsum, sqrt
from typing import Any

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
CHUNK, CHUNK_BYTES = 256, 2**28
"""Limits of what is read at once: number of images, and the size in bytes of uint8 images (one may be larger)."""

Constants = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and std per channel of image values (bytes scaled to [0, 1])."""


def names() -> Collection[str]:
    """Return the values that `dataset.constants` accepts, among them data sets that are registered later."""
    return ChainMap[str, Any]({MEASURED: None}, KNOWN)


def default(dataset: ImageSet, classes: object) -> str | None:
    """Return the default of `dataset.constants`: None for the data set's own mean and std, or MEASURED.

    MEASURED is the default for named subsets whose paper measured mean and std, and for the user's own images. The
    user's RGB images whose classes are all WordNet ids are an exception: they use ImageNet's constants.

    :param classes: the value of `dataset.classes`.
    """
    imagenet = dataset.channels == IMAGENET.channels and all(entry.wnid for entry in dataset.classes)
    own = dataset.facts.own and not imagenet
    return MEASURED if own or (isinstance(classes, str) and classes in MEASURED_SUBSETS) else None


def of_name(name: str | None, dataset: ImageSet) -> Constants:
    """Return the constants of the catalogue data set `name`; for None, those of the opened data set.

    Raises DataError if the two data sets differ in their number of channels.
    """
    if name is None:
        return dataset.mean, dataset.std
    facts = KNOWN[name].facts
    if facts.channels != dataset.channels:
        text = f"dataset.constants: {name} has {facts.channels} channels, {dataset.name} has {dataset.channels}"
        raise DataError([f"{text}; name one with as many, or set {MEASURED}"])
    return facts.mean, facts.std


def measured(source: ClassSource, counts: Sequence[int], channels: int) -> Constants:
    """Measure mean and population std, sqrt(E[x^2] - E[x]^2), per channel over all images of a source.

    For uint8 images, the occurrences of each value are counted as integers, so that neither the order of images nor the
    number of threads changes the result. float32 images are summed in float64, first for the mean and then for the std.
    Raises DataError for unreadable images, and for a channel that is constant or has a value that is not finite.

    :param counts: number of images of each class, by label.
    """

    first = source.get(0, torch.arange(1))
    exact = not first.is_floating_point()  # sums of floats would depend on the number
    number = max(1, min(CHUNK, CHUNK_BYTES // first.nbytes)) if exact else CHUNK

    def chunks() -> Iterator[torch.Tensor]:
        return _chunks(source, counts, number)

    if not exact:
        return _of_floats(chunks)
    histograms = torch.zeros(channels, LEVELS, dtype=torch.int64)
    for chunk in chunks():
        for channel, values in enumerate(chunk):
            histograms[channel] += torch.bincount(values, minlength=LEVELS)
    return _moments(histograms.tolist())


def bounds_of(source: ClassSource, counts: Sequence[int]) -> str:
    """Return the key of :data:`BOUNDS` for float images: `unit` if all values are from 0 to 1, otherwise `none`."""
    is_unit = all(((chunk >= 0) & (chunk <= 1)).all() for chunk in _chunks(source, counts, CHUNK))
    return "unit" if is_unit else "none"


def _chunks(source: ClassSource, counts: Sequence[int], number: int) -> Iterator[torch.Tensor]:
    """Yield the stored values of at most `number` images at a time, [C, n * H * W]."""
    for label, count in enumerate(counts):
        for positions in torch.arange(count).split(number):
            yield source.get(label, positions).cpu().transpose(0, 1).flatten(1)


def _of_floats(chunks: Callable[[], Iterator[torch.Tensor]]) -> Constants:
    def average(of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        parts = [of(chunk.double().numpy()).sum(1) for chunk in chunks()]  # numpy sums on one thread
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
    return DataError([f"{text}, or a value that is not finite; give dataset.mean and dataset.std"])


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
