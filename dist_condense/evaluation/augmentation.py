"""Augmentation of the training batches of an evaluation: the operations of the core, with magnitudes per image."""

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
    """Augmentation of images ``[N, C, h, w]`` in normalised space; every draw comes from the generator."""

    def __call__(self, images: Tensor, generator: torch.Generator, statistics: ChannelStatistics) -> Tensor: ...

    def without_flip(self) -> Augmentation:
        """Return the same augmentation without flips, for images whose label a flip would change."""
        ...


@dataclass(frozen=True)
class Nothing:
    """No augmentation."""

    def __call__(self, images: Tensor, generator: torch.Generator, statistics: ChannelStatistics) -> Tensor:
        return images

    def without_flip(self) -> Nothing:
        """Return this augmentation, which never flips."""
        return self


@dataclass(frozen=True)
class ByStrategy:
    """Strategy of DSA or IDC, with magnitudes per image and one draw of ``one_of`` per batch."""

    strategy: Strategy

    def __call__(self, images: Tensor, generator: torch.Generator, statistics: ChannelStatistics) -> Tensor:
        size = (images.shape[-2], images.shape[-1])
        draw = self.strategy.draw(len(images), size, generator)
        return augmentation.apply(images, draw.to(images.device, images.dtype, to_device))

    def without_flip(self) -> ByStrategy:
        """Return the strategy of the other operations."""
        return ByStrategy(self.strategy.without("flip"))
