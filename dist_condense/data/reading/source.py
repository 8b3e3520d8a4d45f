"""Sources of the real images of single classes, and of labelled test images."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from dist_condense.data.normalise import STORED
from dist_condense.system.errors import DataError
from dist_condense.system.transfer import to_device

ClassPositions = tuple[int, torch.Tensor]
"""A class label, and positions in this class (int64 [n])."""


class ClassSource(Protocol):
    """Protocol of a source of real images, read by class and position.

    Positions start at 0 and follow the data set's fixed order: a position identifies the same image in every process
    and at any time. A source that is faster when it reads several classes together implements :class:`ManyClasses` as
    well; :func:`get_many` works with any source.
    """

    def get(self, label: int, indices: torch.Tensor) -> torch.Tensor:
        """Return the images of a class at these positions (int64 [n]): [n, C, H, W] of uint8 or float32.

        The result is on the device where the source keeps its images.
        """
        ...


@runtime_checkable
class ManyClasses(Protocol):
    """Optional protocol of a ClassSource that reads several classes together."""

    def get_many(self, requests: Sequence[ClassPositions]) -> list[torch.Tensor]:
        """Return the result of :meth:`ClassSource.get` for each request, in the order of the requests."""
        ...


def get_many(source: ClassSource, requests: Sequence[ClassPositions]) -> list[torch.Tensor]:
    """Return the images of each request, in the order of the requests; read together if the source supports it."""
    if isinstance(source, ManyClasses):
        return source.get_many(requests)
    return [source.get(label, indices) for label, indices in requests]


@runtime_checkable
class Filling(Protocol):
    """Optional protocol of a ClassSource that reads its images in the background."""

    def complete(self) -> None:
        """Wait until all images are read. Raises DataError naming unreadable files."""
        ...

    def close(self) -> None:
        """Stop reading in the background."""
        ...


def complete(source: ClassSource) -> None:
    """Wait until the source has read what it reads in the background. Raises DataError naming unreadable files."""
    if isinstance(source, Filling):
        source.complete()


def close(source: ClassSource) -> None:
    """Stop what the source reads in the background."""
    if isinstance(source, Filling):
        source.close()


@dataclass(frozen=True, eq=False)
class NamedSource:
    """A ClassSource whose errors include the name of the class."""

    source: ClassSource
    names: Sequence[str]

    def get(self, label: int, indices: torch.Tensor) -> torch.Tensor:
        """Return images as specified by ClassSource; a DataError names the class."""
        try:
            return self.source.get(label, indices)
        except DataError as error:
            where = f"class {label} ({self.names[label]})"
            raise DataError([f"{where}: {problem}" for problem in error.problems]) from error

    def get_many(self, requests: Sequence[ClassPositions]) -> list[torch.Tensor]:
        """Read all requests together; after a DataError, read them one by one, to name the class that caused it."""
        try:
            return get_many(self.source, requests)
        except DataError:
            return [self.get(label, indices) for label, indices in requests]

    def complete(self) -> None:
        """Call :func:`complete` for the source."""
        complete(self.source)

    def close(self) -> None:
        """Call :func:`close` for the source."""
        close(self.source)


class TestImages(Protocol):
    """Protocol of test images in a fixed order, which are read once per evaluation in chunks."""

    @property
    def labels(self) -> torch.Tensor:
        """Labels of all images, int64 [N]."""
        ...

    def chunks(self, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield stored images [n, C, H, W] and labels int64 [n], with n = size except for the last chunk."""
        ...

    def mapped(self, convert: Callable[[Any], Any]) -> "TestImages":
        """Return a copy in which `convert` was applied to each array of images, for transfer between processes."""
        ...


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images [N, C, H, W] of uint8 or float32 in memory, with their labels int64 [N]; implements TestImages."""

    images: torch.Tensor
    labels: torch.Tensor

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels):
            raise ValueError(f"LabelledImages: {len(self.images)} images but {len(self.labels)} labels.")

    def chunks(self, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield images and labels in chunks of `size`; the last chunk may be smaller."""
        return zip(self.images.split(size), self.labels.split(size), strict=True)

    def mapped(self, convert: Callable[[Any], Any]) -> "LabelledImages":
        """Return a copy in which `convert` was applied to the images and to the labels."""
        return LabelledImages(convert(self.images), convert(self.labels))


@dataclass(frozen=True, eq=False)
class MemorySource:
    """A ClassSource that keeps its classes in memory: images[label] is [n, C, H, W] of uint8 or float32."""

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
        """Labels of the classes in memory."""
        return tuple(self.images)

    def get(self, label: int, indices: torch.Tensor) -> torch.Tensor:
        """Return copies of the images at these positions, [n, C, H, W]. Raises KeyError for a class not in memory."""
        if label not in self.images:
            raise KeyError(
                f"MemorySource: class {label} was not opened, only {sorted(self.images)}; "
                f"add it to the labels given to ImageSet.train()."
            )
        images = self.images[label]
        if images.device.type != "cpu":
            return images.index_select(0, to_device(indices, images.device))
        # numpy keeps the memory layout and allocates blocks of one size. torch cuts its blocks to an alignment: a freed
        # block is then too small for the next request, and the memory of the process grows with each.
        return torch.from_numpy(images.numpy()[indices.numpy()])
