"""Parameterisation f: how learnt pixels become the images a network sees (IDC, Kim et al. 2022, section 4).

An image of side h with factor n holds n x n tiles of side ceil(h/n); each is up-sampled bilinearly to h. Where n
does not divide h the image is first padded at the right and bottom, with grey 0.5 in pixels' own space [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

PADDING = 0.5
"""In [0, 1]."""


def normalised_padding(mean: Sequence[float], std: Sequence[float]) -> tuple[float, ...]:
    """:data:`PADDING` per channel for pixels that are held normalised, as (x - mean) / std."""
    return tuple((PADDING - m) / s for m, s in zip(mean, std, strict=True))


def pad(images: Tensor, side: int, padding: Sequence[float] = (PADDING,)) -> Tensor:
    """``[..., C, h, w]`` to ``[..., C, side, side]``, with ``padding`` (one value, or one per channel) at the right and
    bottom.
    """
    grown = (0, side - images.shape[-1], 0, side - images.shape[-2])
    if not any(grown):
        return images
    outside = F.pad(torch.zeros_like(images[..., :1, :, :]), grown, value=1)
    values = torch.tensor(padding, dtype=images.dtype, device=images.device)
    return F.pad(images, grown) + outside * values[:, None, None]


def tiles(images: Tensor, factor: int, padding: Sequence[float] = (PADDING,)) -> Tensor:
    """``[n, C, h, h]`` to ``[factor**2 * n, C, h, h]``: all images' first tile, then all second tiles, row by row."""
    side = images.shape[-1]
    small = -(-side // factor)
    padded = pad(images, small * factor, padding)
    cut = padded.unflatten(-1, (factor, small)).unflatten(-3, (factor, small))  # n C row h col w
    stacked = cut.permute(2, 4, 0, 1, 3, 5).flatten(0, 2)
    return F.interpolate(stacked, size=(side, side), mode="bilinear", align_corners=False)


def uniform(images: Tensor, factor: int, budget: int, padding: Sequence[float] = (PADDING,)) -> tuple[Tensor, Tensor]:
    """Every image decoded with ``factor``; the second result is the source of each decoded image, int64."""
    sources = torch.arange(len(images), device=images.device)
    return (tiles(images, factor, padding), sources.repeat(factor**2)) if factor > 1 else (images, sources)


def multi(images: Tensor, factor: int, budget: int, padding: Sequence[float] = (PADDING,)) -> tuple[Tensor, Tensor]:
    """Factors 1 to ``factor``, concatenated."""
    parts = [uniform(images, f, budget, padding) for f in range(1, factor + 1)]
    return torch.cat([x for x, _ in parts]), torch.cat([s for _, s in parts])


def bounded(images: Tensor, factor: int, budget: int, padding: Sequence[float] = (PADDING,)) -> tuple[Tensor, Tensor]:
    """As many images as ``budget`` decoded images allow with the largest factor, and so on down to 1."""
    parts, start = [], 0
    for f, count in bounded_plan(len(images), factor, budget):
        decoded, sources = uniform(images[start : start + count], f, budget, padding)
        parts.append((decoded, sources + start))
        start += count
    return torch.cat([x for x, _ in parts]), torch.cat([s for _, s in parts])


def bounded_plan(images: int, factor: int, budget: int) -> list[tuple[int, int]]:
    """(factor, number of images) of :func:`bounded`, from the largest factor down, empty parts left out."""
    plan, decoded, remaining = [], 0, images
    for f in range(factor, 1, -1):
        count = max(0, min(remaining, (budget - decoded - remaining) // f**2))
        plan.append((f, count))
        decoded, remaining = decoded + count * f**2, remaining - count
    return [(f, count) for f, count in [*plan, (1, remaining)] if count]


Decoding = Callable[[Tensor, int, int, Sequence[float]], tuple[Tensor, Tensor]]

DECODINGS: dict[str, Decoding] = {"uniform": uniform, "multi": multi, "bounded": bounded}


@dataclass(frozen=True)
class MultiFormation:
    """Multi-formation with ``factor`` >= 1 (1: pixels as they are).

    :param decoding: one of :data:`DECODINGS`, used in condensation.
    :param budget: decoded images per class that ``bounded`` may reach.
    :param padding: in the space that pixels are held in, see :func:`pad`.
    """

    factor: int = 1
    decoding: Decoding = uniform
    budget: int = 128
    padding: tuple[float, ...] = (PADDING,)

    def decode(self, images: Tensor) -> Tensor:
        """Images of one class ``[ipc, C, h, h]`` to decoded ones ``[m, C, h, h]`` for matching."""
        return self.decoding(images, self.factor, self.budget, self.padding)[0]

    def sources(self, ipc: int) -> Tensor:
        """The image that each decoded one of :meth:`decode` comes from, int64 ``[m]``."""
        blank = torch.empty(ipc, 1, self.factor, self.factor)
        return self.decoding(blank, self.factor, self.budget, self.padding[:1])[1]

    def decode_for_training(self, images: Tensor) -> Tensor:
        """The decoding that training on the set uses: uniform, ``[factor**2 * ipc, C, h, h]``."""
        return uniform(images, self.factor, self.budget, self.padding)[0]
