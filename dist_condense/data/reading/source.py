"""Where the real images of a class come from."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from dist_condense.data.normalise import STORED
from dist_condense.system.errors import DataError
from dist_condense.system.transfer import to_device

Wanted = tuple[int, torch.Tensor]
"""A class, and positions in it (int64 [n])."""


class ClassSource(Protocol):
    """Images of single classes, by position.

    Positions run from 0 to count - 1 in the data set's fixed order, so that what a position names does not
    depend on who asks or when. A source that reads several classes faster than one after the other is a
    ManyClasses, too; ask any source for several by :func:`get_many`.
    """

    def count(self, label: int) -> int:
        """Number of images of this class."""
        ...

    def get(self, label: int, indices: torch.Tensor) -> torch.Tensor:
        """Images of this class at these positions (int64 [n]): [n, C, H, W] of bytes or
        float32, where they are kept."""
        ...


@runtime_checkable
class ManyClasses(Protocol):
    """What a ClassSource may be besides."""

    def get_many(self, wanted: Sequence[Wanted]) -> list[torch.Tensor]:
        """What get gives for each, in their order."""
        ...


def get_many(source: ClassSource, wanted: Sequence[Wanted]) -> list[torch.Tensor]:
    """The images of each request, in their order: read together where the source can, else one after the other."""
    if isinstance(source, ManyClasses):
        return source.get_many(wanted)
    return [source.get(label, indices) for label, indices in wanted]


@dataclass(frozen=True, eq=False)
class NamedSource:
    """A ClassSource whose errors name the class, too."""

    source: ClassSource
    names: Sequence[str]

    def count(self, label: int) -> int:
        """Number of images of this class."""
        return self.source.count(label)

    def get(self, label: int, indices: torch.Tensor) -> torch.Tensor:
        """See ClassSource."""
        try:
            return self.source.get(label, indices)
        except DataError as error:
            where = f"class {label} ({self.names[label]})"
            raise DataError([f"{where}: {problem}" for problem in error.problems]) from error

    def get_many(self, wanted: Sequence[Wanted]) -> list[torch.Tensor]:
        """Together; after an error one after the other, to find its class."""
        try:
            return get_many(self.source, wanted)
        except DataError:
            return [self.get(label, indices) for label, indices in wanted]


class TestImages(Protocol):
    """Test images in a fixed order; read once per evaluation, chunk by chunk."""

    @property
    def labels(self) -> torch.Tensor:
        """int64 [N]"""
        ...

    def chunks(self, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """([n, C, H, W] as stored, int64 [n]) with n = size but for the last."""
        ...

    def mapped(self, convert: Callable[[Any], Any]) -> "TestImages":
        """The same with its arrays of images converted, for a journey between processes."""
        ...


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images [N, C, H, W], of bytes or float32, with their labels int64 [N]."""

    images: torch.Tensor
    labels: torch.Tensor

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels):
            raise ValueError(f"LabelledImages: {len(self.images)} images but {len(self.labels)} labels.")

    def chunks(self, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """In order; see TestImages."""
        return zip(self.images.split(size), self.labels.split(size), strict=True)

    def mapped(self, convert: Callable[[Any], Any]) -> "LabelledImages":
        """See TestImages."""
        return LabelledImages(convert(self.images), convert(self.labels))


@dataclass(frozen=True, eq=False)
class MemorySource:
    """A ClassSource that holds its classes in memory: images[label] is [n, C, H, W] of bytes or float32."""

    images: Mapping[int, torch.Tensor]

    def __post_init__(self) -> None:
        for label, pixels in self.images.items():
            if pixels.dtype not in STORED or pixels.ndim != 4:
                raise ValueError(
                    f"MemorySource: class {label} is {pixels.dtype} {list(pixels.shape)}; give uint8 or float32 "
                    "[n, C, H, W]."
                )

    @property
    def labels(self) -> tuple[int, ...]:
        """The classes held here."""
        return tuple(self.images)

    def count(self, label: int) -> int:
        """Number of images of this class; KeyError for a class that is not held here."""
        return len(self._held(label))

    def get(self, label: int, indices: torch.Tensor) -> torch.Tensor:
        """Copies of the images at these positions, [n, C, H, W]; KeyError for a class not held here."""
        held = self._held(label)
        if held.device.type != "cpu":
            return held.index_select(0, to_device(indices, held.device))
        # By numpy: it keeps the layout, and its blocks are of one size. Those of torch are cut to an alignment, so that
        # a freed one is too small for the next, and the process grows by each.
        return torch.from_numpy(held.numpy()[indices.numpy()])

    def _held(self, label: int) -> torch.Tensor:
        if label not in self.images:
            raise KeyError(
                f"MemorySource: class {label} is not held here, only {sorted(self.images)}; "
                f"add it to the labels given to ImageSet.train()."
            )
        return self.images[label]
