"""What an evaluation does to a training batch: the siamese operations of the core with magnitudes per image."""

from __future__ import annotations

import typing
from dataclasses import dataclass

import torch
from torch import Tensor

from dist_condense.core import augmentation
from dist_condense.core.augmentation import Strategy
from dist_condense.data.normalise import ChannelStatistics
from dist_condense.system.transfer import to_device


class Augmentation(typing.Protocol):
    """Images ``[N, C, h, w]`` in normalised space to augmented ones; every draw comes from the generator."""

    def __call__(self, images: Tensor, generator: torch.Generator, statistics: ChannelStatistics) -> Tensor: ...

    def without_flip(self) -> Augmentation:
        """The same for images that do not keep their label when they are flipped."""
        ...


@dataclass(frozen=True)
class Nothing:
    """Images as they are."""

    def __call__(self, images: Tensor, generator: torch.Generator, statistics: ChannelStatistics) -> Tensor:
        return images

    def without_flip(self) -> Nothing:
        """Itself."""
        return self


@dataclass(frozen=True)
class ByStrategy:
    """A strategy of DSA or IDC: magnitudes per image, which of ``one_of`` once per batch."""

    strategy: Strategy

    def __call__(self, images: Tensor, generator: torch.Generator, statistics: ChannelStatistics) -> Tensor:
        size = (images.shape[-2], images.shape[-1])
        draw = self.strategy.draw(len(images), size, generator)
        return augmentation.apply(images, draw.to(images.device, images.dtype, to_device))

    def without_flip(self) -> ByStrategy:
        """Of the other operations."""
        return ByStrategy(self.strategy.without("flip"))
