"""A data set that has been opened: what is known of it, and how to read it class by class."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from math import prod

import torch

from dist_condense.data.normalise import ChannelStatistics
from dist_condense.data.reading.source import ClassSource, LabelledImages, TestImages
from dist_condense.data.reading.split import Split, StreamedImages
from dist_condense.data.reading.tiers import Reading
from dist_condense.data.space import Space
from dist_condense.system.errors import DataError

DECODED_NOW = Reading(tier="ram")
TEST_CHUNK = 256


@dataclass(frozen=True)
class ClassName:
    """A class: its name, and its WordNet id where the data set has them."""

    name: str
    wnid: str | None = None


def ambiguous(classes: Sequence[ClassName]) -> list[str]:
    """Names and WordNet ids that stand for more than one of the classes."""
    times = Counter(key for entry in classes for key in {entry.name, entry.wnid} if key is not None)
    return [key for key, found in times.items() if found > 1]


@dataclass(frozen=True)
class Facts:
    """What is known of a data set before it is read."""

    channels: int
    size: int
    """Pixels of a side, unless the caller asks for another size."""
    mean: tuple[float, ...]
    """Per channel, of the values of training images (bytes as [0, 1])."""
    std: tuple[float, ...]
    flip: bool
    """Whether a horizontally flipped image keeps its label (digits do not)."""
    family: str
    """For the card of a synthetic set."""
    upright: bool = False
    """Whether image files are turned by their EXIF orientation, unless the caller asks otherwise. The published
    programs do not, so that a data set of theirs is as they saw it.
    """
    own: bool = False
    """Whether the images are the user's own: their files decide the channels, and mean and std are measured at the
    first start (``constants``). Those here are the ones of runs of earlier versions, and of a plan without the images.
    """

    _: KW_ONLY
    width: int | None = None
    """Pixels of a row where images are not square; `size` is then that of a column, and no other can be asked for."""
    floats: bool = False
    """Whether images are stored as float32 values instead of bytes."""
    lower: float | None = 0.0
    """The least value that an image can have; None: there is no bound."""
    upper: float | None = 1.0
    """The largest, likewise."""
    padding: float = 0.5
    """The value that multi-formation pads."""

    def with_channels(self, channels: int) -> "Facts":
        """Of grey (1) or RGB (3) images of the user's own."""
        if channels == self.channels:
            return self
        mean, std = (sum(values) / len(values) for values in (self.mean, self.std))
        return replace(self, channels=channels, mean=(mean,) * channels, std=(std,) * channels)


@dataclass(frozen=True)
class ImageSet:
    """An opened data set; a label is a position in `classes`."""

    name: str
    facts: Facts = field(repr=False)
    size: int
    """Pixels of a side, of a column where images are not square."""
    classes: tuple[ClassName, ...]
    train_split: Split = field(repr=False, compare=False)
    test_split: Split = field(repr=False, compare=False)
    notes: tuple[str, ...] = field(default=(), repr=False, compare=False)
    """What was read and what was passed over, for the person who starts a run."""

    @property
    def counts(self) -> tuple[int, ...]:
        """Training images of each class, known without decoding them."""
        return self.train_split.counts

    @property
    def channels(self) -> int:
        """1 (grey) or 3 (RGB)."""
        return self.facts.channels

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        return self.channels, self.size, self.facts.width or self.size

    @property
    def stored(self) -> torch.dtype:
        """How images are stored: uint8 or float32."""
        return torch.float32 if self.facts.floats else torch.uint8

    @property
    def space(self) -> Space:
        """What their values mean."""
        facts = self.facts
        return Space(ChannelStatistics(facts.mean, facts.std), facts.lower, facts.upper, facts.padding)

    @property
    def mean(self) -> tuple[float, ...]:
        """Per channel, of the values of training images."""
        return self.facts.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Per channel, of the values of training images."""
        return self.facts.std

    @property
    def flip(self) -> bool:
        """Whether a horizontally flipped image keeps its label."""
        return self.facts.flip

    @property
    def family(self) -> str:
        """Free text for the card of a synthetic set."""
        return self.facts.family

    def normalised_by(self, mean: Sequence[float], std: Sequence[float]) -> "ImageSet":
        """The same with other constants, one value per channel each."""
        return replace(self, facts=replace(self.facts, mean=tuple(mean), std=tuple(std)))

    def decoded_bytes(self, counts: Sequence[int]) -> list[int]:
        """Bytes of so many images of each class, decoded."""
        return [count * prod(self.shape) * self.stored.itemsize for count in counts]

    def train(self, labels: Sequence[int] | None = None, reading: Reading = DECODED_NOW) -> ClassSource:
        """The training images of these classes (of all when None) and of no others.

        :param reading: by default they are all decoded now, and the source is a MemorySource.
        Raises DataError naming the files that cannot be read, ValueError for a label outside the classes.
        """
        chosen = range(len(self.classes)) if labels is None else labels
        outside = [label for label in chosen if not 0 <= label < len(self.classes)]
        if outside:
            raise ValueError(f"ImageSet.train: {self.name} has labels 0..{len(self.classes) - 1}, not {outside}.")
        return self.train_split.open(chosen, reading)

    def test(self, reading: Reading = DECODED_NOW) -> TestImages:
        """The test images, class after class: decoded now, or read in each pass where the tier is another.

        Raises DataError naming the files that cannot be read, and where the set was opened without test images.
        """
        if not self.test_split.counts:
            raise DataError([f"{self.name}: it was opened without its test images; open it with test=True."])
        streamed = StreamedImages(self.test_split, reading)
        if reading.tier != DECODED_NOW.tier:
            return streamed
        images = torch.empty(len(streamed.labels), *self.shape, dtype=self.stored)
        one_pass = StreamedImages(self.test_split, replace(reading, tier="disk"))  # so that none is in memory twice
        for rows, (chunk, _) in zip(images.split(TEST_CHUNK), one_pass.chunks(TEST_CHUNK), strict=True):
            rows.copy_(chunk)
        return LabelledImages(images, streamed.labels)
