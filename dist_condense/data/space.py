"""What values mean: those of stored and of learnt images, their bounds, and what the network sees of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dist_condense.data.normalise import ChannelStatistics

NORMALISED, UNIT, VALUES = "normalised", "unit", "values"
"""Names of spaces in a card: pixels are normalised; values in [0, 1]; values with other bounds, or none."""
SPREAD = 2
"""Standard deviations from the mean, shown as black and white where there is no bound."""


@dataclass(frozen=True)
class Space:
    """The space of learnt pixels: values of images (bytes as [0, 1], floats as they are), or these normalised.

    The network always sees normalised values.

    :param statistics: mean and std per channel of the values of real images.
    :param lower: the least value that an image can have; None: there is none.
    :param upper: the largest, likewise.
    :param padding: value of what multi-formation pads.
    :param normalised: whether pixels are normalised values, (x - mean) / std, which are never clamped (DC); else they
        are values, clamped to the bounds when a network begins (IDC).
    """

    statistics: ChannelStatistics
    lower: float | None = 0.0
    upper: float | None = 1.0
    padding: float = 0.5
    normalised: bool = False

    @property
    def name(self) -> str:
        """For a card."""
        return NORMALISED if self.normalised else UNIT if self.bounds == (0.0, 1.0) else VALUES

    @property
    def bounds(self) -> tuple[float | None, float | None]:
        """Of values: the least and the largest."""
        return self.lower, self.upper

    @property
    def pixel_padding(self) -> tuple[float, ...]:
        """The padding as a pixel: one value, or one per channel."""
        if not self.normalised:
            return (self.padding,)
        return tuple((self.padding - m) / s for m, s in zip(self.statistics.mean, self.statistics.std, strict=True))

    def of(self, values: Tensor) -> Tensor:
        """Values ``[..., C, H, W]`` to pixels."""
        return self.statistics.normalise(values) if self.normalised else values

    def seen(self, pixels: Tensor) -> Tensor:
        """Pixels ``[..., C, H, W]`` to what the network sees."""
        return pixels if self.normalised else self.statistics.normalise(pixels)

    def clamp_(self, pixels: Tensor) -> Tensor:
        """Pixels within the bounds, in place; normalised ones stay as they are."""
        bounded = not self.normalised and self.bounds != (None, None)
        return pixels.clamp_(self.lower, self.upper) if bounded else pixels

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Pixels ``[n, C, H, W]`` to start from.

        N(0, 1) where they are normalised (DC). Else values: a normal number over the middle half of the bounds, clamped
        (clamp(N/4 + 0.5, 0, 1) of IDC); without both bounds with the mean and std of real images.
        """
        normal = torch.randn(shape, generator=generator)
        if self.normalised:
            return normal
        if self.lower is None or self.upper is None:
            return self.clamp_(self.statistics.denormalise(normal))
        return self.clamp_(normal * ((self.upper - self.lower) / 4) + (self.lower + self.upper) / 2)

    def shown(self, pixels: Tensor) -> Tensor:
        """Pixels as [0, 1] for people, clipped: the lower bound is black and the upper white; see :data:`SPREAD`."""
        values = self.statistics.denormalise(pixels) if self.normalised else pixels
        if self.bounds == (0.0, 1.0):
            return values.clamp(0, 1)
        middles, spreads = self.statistics.mean, self.statistics.std
        low, high = (
            min(m - SPREAD * s for m, s in zip(middles, spreads, strict=True)) if self.lower is None else self.lower,
            max(m + SPREAD * s for m, s in zip(middles, spreads, strict=True)) if self.upper is None else self.upper,
        )
        return ((values - low) / (high - low)).clamp(0, 1)

    def when_normalised(self, normalised: bool = True) -> Space:
        """The same values, with pixels normalised or not."""
        return replace(self, normalised=normalised)
