"""A data set that has been opened: what is known of it, and how to read it class by class."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from dist_condense.data.source import LabelledImages, MemorySource


@dataclass(frozen=True)
class ClassName:
    """A class: its name, and its WordNet id where the data set has them."""

    name: str
    wnid: str | None = None


@dataclass(frozen=True)
class Facts:
    """What is known of a data set before it is read."""

    channels: int
    size: int
    """Pixels of a side, unless the caller asks for another size."""
    mean: tuple[float, ...]
    """Per channel, of pixels in [0, 1]."""
    std: tuple[float, ...]
    flip: bool
    """Whether a horizontally flipped image keeps its label (digits do not)."""
    family: str
    """For the card of a synthetic set."""


class Reader(Protocol):
    """Decoded images of one class, uint8 [n, C, size, size], in the data set's fixed order."""

    def train(self, label: int) -> torch.Tensor:
        """Training images of the class at this position of ImageSet.classes."""
        ...

    def test(self, label: int) -> torch.Tensor:
        """Test images of the class at this position of ImageSet.classes."""
        ...


@dataclass(frozen=True)
class ImageSet:
    """An opened data set; a label is a position in `classes`."""

    name: str
    facts: Facts = field(repr=False)
    size: int
    """Pixels of a side; images are square."""
    classes: tuple[ClassName, ...]
    counts: tuple[int, ...]
    """Training images of each class, known without decoding them."""
    reader: Reader = field(repr=False, compare=False)

    @property
    def channels(self) -> int:
        """1 (grey) or 3 (RGB)."""
        return self.facts.channels

    @property
    def mean(self) -> tuple[float, ...]:
        """Per channel, of pixels in [0, 1]."""
        return self.facts.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Per channel, of pixels in [0, 1]."""
        return self.facts.std

    @property
    def flip(self) -> bool:
        """Whether a horizontally flipped image keeps its label."""
        return self.facts.flip

    @property
    def family(self) -> str:
        """Free text for the card of a synthetic set."""
        return self.facts.family

    def train(self, labels: Sequence[int] | None = None) -> MemorySource:
        """Decode the training images of these classes (of all when None) and of no others.

        Raises DataError naming the files that cannot be read, ValueError for a label outside the classes.
        """
        chosen = range(len(self.classes)) if labels is None else labels
        outside = [label for label in chosen if not 0 <= label < len(self.classes)]
        if outside:
            raise ValueError(f"ImageSet.train: {self.name} has labels 0..{len(self.classes) - 1}, not {outside}.")
        return MemorySource({label: self.reader.train(label) for label in chosen})

    def test(self) -> LabelledImages:
        """Decode all test images, class after class; DataError naming the files that cannot be read."""
        parts = [self.reader.test(label) for label in range(len(self.classes))]
        labels = torch.repeat_interleave(
            torch.arange(len(parts)), torch.tensor([len(part) for part in parts], dtype=torch.int64)
        )
        return LabelledImages(torch.cat(parts), labels)
