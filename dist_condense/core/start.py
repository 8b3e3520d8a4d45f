"""How what is learnt starts: pixels as noise, real images, or tiles of several real images; labels near one-hot.

A way in which pixels start is one line of `STARTS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

SURE = 0.9
"""Probability of an image's own class, where labels are learnt."""


def noise(shape: tuple[int, ...], generator: torch.Generator, unit_space: bool) -> Tensor:
    """N(0, 1) in normalised space (DC); clamp(N/4 + 0.5, 0, 1) where pixels are held in [0, 1] (IDC)."""
    normal = torch.randn(shape, generator=generator)
    return (normal / 4 + 0.5).clamp(0, 1) if unit_space else normal


def scores(label: int, ipc: int, classes: int) -> Tensor:
    """``[ipc, classes]`` whose softmax is :data:`SURE` at the class, the rest spread evenly."""
    gap = math.log(SURE / (1 - SURE) * (classes - 1))
    return gap * torch.eye(classes)[[label] * ipc]


def mixed_tiles(images: Tensor, factor: int) -> Tensor:
    """``[n * factor**2, C, h, h]`` real images to ``[n, C, h, h]`` whose tiles are these, shrunk by nearest neighbour.

    Image i holds the images i * factor**2 and following, row by row. Two deviations from IDC's program: it takes the
    first images of the class, here the caller draws them by key; where ``factor`` does not divide the side h, it
    shrinks some to a pixel less, here all have the side ceil(h / factor) of a decoded tile, cut at the border.
    """
    side = images.shape[-1]
    small = F.interpolate(images, size=-(-side // factor), mode="nearest")
    grid = small.unflatten(0, (-1, factor, factor)).permute(0, 3, 1, 4, 2, 5)  # n C row h col w
    return grid.flatten(4, 5).flatten(2, 3)[..., :side, :side].contiguous()


@dataclass(frozen=True, kw_only=True)
class Material:
    """What the pixels of one class can start from.

    :param shape: of the pixels, (ipc, C, h, w).
    :param real: real images of the class, ``[ipc * PixelStart.images(factor), C, h, w]``, in the space of the pixels.
    :param unit_space: whether that is [0, 1]; else normalised.
    :param generator: keyed by seed and class; the real images were drawn by it.
    """

    shape: tuple[int, int, int, int]
    factor: int
    real: Tensor
    unit_space: bool
    generator: torch.Generator


@dataclass(frozen=True)
class PixelStart:
    """A way to start.

    :param images: the multi-formation factor to the number of real images that one learnt image starts from.
    :param pixels: the pixels of a class, ``[ipc, C, h, w]``.
    """

    images: Callable[[int], int]
    pixels: Callable[[Material], Tensor]


STARTS: dict[str, PixelStart] = {
    "noise": PixelStart(lambda factor: 0, lambda given: noise(given.shape, given.generator, given.unit_space)),
    "real": PixelStart(lambda factor: 1, lambda given: given.real),
    "mixed": PixelStart(lambda factor: factor**2, lambda given: mixed_tiles(given.real, given.factor)),
}
