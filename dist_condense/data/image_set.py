"""ImageSet, an opened data set: its facts, its classes, and its images by class."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Annotated

import torch

from dist_condense.data.normalise import ChannelStatistics
from dist_condense.data.reading.source import ClassSource, LabelledImages, TestImages
from dist_condense.data.reading.split import Split, StreamedImages
from dist_condense.data.reading.tiers import Reading
from dist_condense.data.space import Space
from dist_condense.system.conversion import Rule
from dist_condense.system.errors import DataError

DECODED_NOW = Reading(tier="ram")
TEST_CHUNK = 256


@dataclass(frozen=True)
class ClassName:
    """Name of a class, and its WordNet id (None if it has none)."""

    name: Annotated[str, Rule("text that is not empty", bool)]
    wnid: Annotated[str, Rule("n and 8 digits", re.compile(r"n\d{8}").fullmatch)] | None = None


def ambiguous(classes: Sequence[ClassName]) -> list[str]:
    """Return the names and WordNet ids that several of the classes share."""
    counts = Counter(key for entry in classes for key in {entry.name, entry.wnid} if key is not None)
    return [key for key, count in counts.items() if count > 1]


@dataclass(frozen=True)
class Licence:
    """Licence of the images of a data set, as its authors or publishers state it."""

    name: str
    """SPDX identifier; ``other`` for terms without an identifier, ``unknown`` if no terms are stated."""
    terms: str
    """The terms in one sentence."""


NOT_STATED = Licence("unknown", "The licence of the images is not stated.")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Facts about a data set that are known before it is read."""

    channels: int
    size: int
    """Default height in pixels; also the default width, unless `width` is set."""
    mean: tuple[float, ...]
    """Mean per channel of the values of training images (bytes scaled to [0, 1])."""
    std: tuple[float, ...]
    """Standard deviation per channel of the values of training images."""
    flip: bool
    """Whether a horizontally flipped image keeps its label (a digit does not)."""
    family: str
    """Short description of the images, for the card of a synthetic set."""
    upright: bool = False
    """Whether image files are rotated by their EXIF orientation by default. False for the papers' data sets, because
    the authors' programs read them without rotation.
    """
    own: bool = False
    """Whether the images are the user's own. Their files then determine the number of channels, and mean and std are
    measured when a run is first started (``constants``). The constants given here serve runs of earlier versions, and
    plans that are made without images.
    """
    width: int | None = None
    """Width in pixels if images are not square (None: square). `size` is then the height, and dataset.size must be
    omitted.
    """
    floats: bool = False
    """Whether images are stored as float32 values instead of bytes."""
    lower: float | None = 0.0
    """Lower bound of image values; None where there is no bound."""
    upper: float | None = 1.0
    """Upper bound of image values; None where there is no bound."""
    padding: float = 0.5
    """Image value that multi-formation uses as padding."""
    licence: Licence = NOT_STATED
    """Licence of the images, for the README.md of a synthetic set."""

    @property
    def is_unbounded(self) -> bool:
        """Whether the images are the user's own floats, of which no bound is known."""
        return self.own and self.floats and self.lower is None and self.upper is None

    def with_channels(self, channels: int) -> "Facts":
        """Return the facts for grey (1) or RGB (3) images.

        If the number of channels changes, mean and std are averaged over the channels.
        """
        if channels == self.channels:
            return self
        mean, std = (sum(values) / len(values) for values in (self.mean, self.std))
        return replace(self, channels=channels, mean=(mean,) * channels, std=(std,) * channels)


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """An opened data set; a label is a position in `classes`."""

    name: str
    facts: Facts = field(repr=False)
    size: int
    """Height of an image in pixels; also its width, unless `facts.width` is set."""
    classes: tuple[ClassName, ...]
    train_split: Split = field(repr=False, compare=False)
    test_split: Split = field(repr=False, compare=False)
    notes: tuple[str, ...] = field(default=(), repr=False, compare=False)
    """Messages that report which files were read and which were ignored, printed when a run starts."""

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of training images of each class, known without decoding them."""
        return self.train_split.counts

    @property
    def channels(self) -> int:
        """Number of channels: 1 (grey) or 3 (RGB)."""
        return self.facts.channels

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of an image."""
        return self.channels, self.size, self.facts.width or self.size

    @property
    def stored(self) -> torch.dtype:
        """Data type of stored images: uint8 or float32."""
        return torch.float32 if self.facts.floats else torch.uint8

    @property
    def space(self) -> Space:
        """Space of image values: their bounds, padding, mean and std."""
        facts = self.facts
        statistics = ChannelStatistics(facts.mean, facts.std)
        return Space(statistics, lower=facts.lower, upper=facts.upper, padding=facts.padding)

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean per channel of the values of training images."""
        return self.facts.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation per channel of the values of training images."""
        return self.facts.std

    @property
    def flip(self) -> bool:
        """Whether a horizontally flipped image keeps its label."""
        return self.facts.flip

    def decoded_bytes(self, counts: Sequence[int]) -> list[int]:
        """Return, for each class c, the size in bytes of `counts[c]` decoded images."""
        return [count * prod(self.shape) * self.stored.itemsize for count in counts]

    def train(self, labels: Sequence[int] | None = None, reading: Reading = DECODED_NOW) -> ClassSource:
        """Open the training images of the classes `labels` only (None: all classes).

        Raises DataError naming unreadable files, ValueError for a label outside the classes.

        :param reading: options of reading; by default, all images are decoded immediately and the source is a
            MemorySource.
        """
        selected = range(len(self.classes)) if labels is None else labels
        outside = [label for label in selected if not 0 <= label < len(self.classes)]
        if outside:
            raise ValueError(f"ImageSet.train: {self.name} has labels 0..{len(self.classes) - 1}, not {outside}.")
        return self.train_split.open(selected, reading)

    def test(self, reading: Reading = DECODED_NOW) -> TestImages:
        """Open the test images, ordered by class.

        Tier `ram` decodes them immediately; with any other tier, each pass reads them again. Raises DataError naming
        unreadable files, and for a data set that was opened without test images.
        """
        if not self.test_split.counts:
            raise DataError([f"{self.name} was opened without its test images; open it with test=True."])
        streamed = StreamedImages(self.test_split, reading)
        if reading.tier != DECODED_NOW.tier:
            return streamed
        images = torch.empty(len(streamed.labels), *self.shape, dtype=self.stored)
        one_pass = StreamedImages(self.test_split, replace(reading, tier="disk"))  # no image is in memory twice
        for rows, (chunk, _) in zip(images.split(TEST_CHUNK), one_pass.chunks(TEST_CHUNK), strict=True):
            rows.copy_(chunk)
        return LabelledImages(images, streamed.labels)
