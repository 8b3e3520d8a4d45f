"""Where the real images of a class come from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch


class ClassSource(Protocol):
    """Images of single classes, by position.

    Positions run from 0 to count - 1 in the data set's fixed order, so that what a position names does not
    depend on who asks or when.
    """

    def count(self, label: int) -> int:
        """Number of images of this class."""
        ...

    def get(self, label: int, indices: torch.Tensor) -> torch.Tensor:
        """Images of this class at these positions (int64 [n]): uint8 [n, C, H, W] on the CPU."""
        ...


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images uint8 [N, C, H, W] with their labels int64 [N]."""

    images: torch.Tensor
    labels: torch.Tensor

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels):
            raise ValueError(f"LabelledImages: {len(self.images)} images but {len(self.labels)} labels.")


@dataclass(frozen=True, eq=False)
class MemorySource:
    """A ClassSource that holds its classes in memory: images[label] is uint8 [n, C, H, W]."""

    images: Mapping[int, torch.Tensor]

    def __post_init__(self) -> None:
        for label, pixels in self.images.items():
            if pixels.dtype is not torch.uint8 or pixels.ndim != 4:
                raise ValueError(
                    f"MemorySource: class {label} is {pixels.dtype} {list(pixels.shape)}; give uint8 [n, C, H, W]."
                )

    @property
    def labels(self) -> tuple[int, ...]:
        """The classes held here."""
        return tuple(self.images)

    def count(self, label: int) -> int:
        """Number of images of this class; KeyError for a class that is not held here."""
        return len(self._held(label))

    def get(self, label: int, indices: torch.Tensor) -> torch.Tensor:
        """Copies of the images at these positions, uint8 [n, C, H, W]; KeyError for a class not held here."""
        return self._held(label).index_select(0, indices)

    def _held(self, label: int) -> torch.Tensor:
        if label not in self.images:
            raise KeyError(
                f"MemorySource: class {label} is not held here, only {sorted(self.images)}; "
                f"add it to the labels given to ImageSet.train()."
            )
        return self.images[label]
