"""Augmentation of training batches in evaluations, by the operations of the core with separate magnitudes per image."""

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
    """Augmentation of images ``[N, C, h, w]`` in normalised space; the generator determines every random draw.

    Its text describes it to people.
    """

    def __call__(self, images: Tensor, generator: torch.Generator, statistics: ChannelStatistics) -> Tensor: ...

    @property
    def channels(self) -> int | None:
        """Number of channels of the images that it can augment; None for any."""
        ...

    def without_flip(self) -> Augmentation:
        """Return the same augmentation without flips, for data sets in which a flip may change the label."""
        ...


@dataclass(frozen=True)
class Nothing:
    """Augmentation that leaves images unchanged."""

    channels: typing.ClassVar[int | None] = None

    def __call__(self, images: Tensor, generator: torch.Generator, statistics: ChannelStatistics) -> Tensor:
        return images

    def __str__(self) -> str:
        return "none"

    def without_flip(self) -> Nothing:
        """Return this augmentation itself, because it never flips."""
        return self


@dataclass(frozen=True)
class ByStrategy:
    """Augmentation by a strategy of DSA or IDC, with separate magnitudes per image.

    The operation of ``one_of`` is drawn once per batch.
    """

    strategy: Strategy
    channels: typing.ClassVar[int | None] = None

    def __call__(self, images: Tensor, generator: torch.Generator, statistics: ChannelStatistics) -> Tensor:
        size = (images.shape[-2], images.shape[-1])
        draw = self.strategy.draw(len(images), size, generator)
        return augmentation.apply(images, draw.to(images.device, images.dtype, to_device))

    def __str__(self) -> str:
        always, one_of = (", ".join(names) for names in (self.strategy.always, self.strategy.one_of))
        parts = [f"{always} on each image"] * bool(always) + [f"one of {one_of}, drawn for each batch"] * bool(one_of)
        return "; ".join(parts) or "none"

    def without_flip(self) -> ByStrategy:
        """Return the augmentation by the same strategy without its flip."""
        return ByStrategy(self.strategy.without("flip"))
