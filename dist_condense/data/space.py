"""Spaces of pixel values: bounds, padding, and the mapping between image values, learnt pixels and network inputs."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, replace

import torch
from torch import Tensor

from dist_condense.data.normalise import ChannelStatistics

NORMALISED, UNIT, VALUES = "normalised", "unit", "values"
"""Names of spaces in a card: normalised pixels; image values in [0, 1]; image values with other bounds or without
bounds.
"""
BOUNDS: dict[str, tuple[float | None, float | None]] = {"unit": (0.0, 1.0), "none": (None, None)}
"""Lower and upper bound of the values of float images, by name."""
SPREAD = 2
"""Distance of the black and white levels from the mean, in standard deviations, in previews of images without bounds.
"""


@dataclass(frozen=True)
class Space:
    """Space of learnt pixels: image values (bytes scaled to [0, 1], floats unchanged), or normalised values.

    Networks always receive normalised values.

    :param statistics: mean and std per channel of the values of real images.
    :param lower: lower bound of image values; None if there is no bound.
    :param upper: upper bound of image values; None if there is no bound.
    :param padding: image value that multi-formation uses as padding.
    :param normalised: whether pixels are normalised values, (x - mean) / std, which are never clamped (DC); otherwise
        they are image values, which are clamped to the bounds before the first matching step of each network (IDC).
    """

    statistics: ChannelStatistics
    _: KW_ONLY
    lower: float | None = 0.0
    upper: float | None = 1.0
    padding: float = 0.5
    normalised: bool = False

    @property
    def name(self) -> str:
        """Name of the space in a card: NORMALISED, UNIT or VALUES."""
        return NORMALISED if self.normalised else UNIT if self.bounds == (0.0, 1.0) else VALUES

    @property
    def bounds(self) -> tuple[float | None, float | None]:
        """Lower and upper bound of image values; None for a missing bound."""
        return self.lower, self.upper

    @property
    def pixel_padding(self) -> tuple[float, ...]:
        """Padding value in pixel space: one for all channels, or one per channel."""
        if not self.normalised:
            return (self.padding,)
        return tuple((self.padding - m) / s for m, s in zip(self.statistics.mean, self.statistics.std, strict=True))

    def of(self, values: Tensor) -> Tensor:
        """Convert image values ``[..., C, H, W]`` to pixels."""
        return self.statistics.normalise(values) if self.normalised else values

    def seen(self, pixels: Tensor) -> Tensor:
        """Convert pixels ``[..., C, H, W]`` to normalised values, the input of networks."""
        return pixels if self.normalised else self.statistics.normalise(pixels)

    def values(self, pixels: Tensor) -> Tensor:
        """Convert pixels to image values; the inverse of :meth:`of`."""
        return self.statistics.denormalise(pixels) if self.normalised else pixels

    def clamp_(self, pixels: Tensor) -> Tensor:
        """Clamp pixels to the bounds in place and return them; normalised pixels are not changed."""
        bounded = not self.normalised and self.bounds != (None, None)
        return pixels.clamp_(self.lower, self.upper) if bounded else pixels

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw random initial pixels ``[n, C, H, W]``.

        Normalised pixels are drawn from N(0, 1) (DC). Image values are drawn from a normal distribution and clamped;
        its mean is the midpoint of the bounds and its std a quarter of their distance (IDC: clamp(z / 4 + 0.5, 0, 1)
        with z from N(0, 1)). If a bound is missing, the distribution has the mean and std of real images instead.
        """
        normal = torch.randn(shape, generator=generator)
        if self.normalised:
            return normal
        if self.lower is None or self.upper is None:
            return self.clamp_(self.statistics.denormalise(normal))
        return self.clamp_(normal * ((self.upper - self.lower) / 4) + (self.lower + self.upper) / 2)

    def shown(self, pixels: Tensor) -> Tensor:
        """Convert pixels to [0, 1] for display: the lower bound is black, the upper bound is white.

        Values outside the bounds are clipped. A missing lower bound is replaced by the smallest (mean - SPREAD * std)
        of all channels, a missing upper bound by the largest (mean + SPREAD * std).
        """
        values = self.values(pixels)
        if self.bounds == (0.0, 1.0):
            return values.clamp(0, 1)
        middles, spreads = self.statistics.mean, self.statistics.std
        low, high = (
            min(m - SPREAD * s for m, s in zip(middles, spreads, strict=True)) if self.lower is None else self.lower,
            max(m + SPREAD * s for m, s in zip(middles, spreads, strict=True)) if self.upper is None else self.upper,
        )
        return ((values - low) / (high - low)).clamp(0, 1)

    def when_normalised(self, normalised: bool = True) -> Space:
        """Return the same space with pixels that are normalised values (True) or image values (False)."""
        return replace(self, normalised=normalised)
