"""Initial values of the learnt tensors: pixels from noise, real images or tiles of real images; labels near one-hot."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from dist_condense.core.parameterisation import Grid, tile_size

SURE = 0.9
"""Initial probability of an image's own class, where labels are learnt."""


def scores(label: int, ipc: int, classes: int) -> Tensor:
    """Return scores ``[ipc, classes]`` whose softmax is :data:`SURE` at the class and uniform elsewhere."""
    gap = math.log(SURE / (1 - SURE) * (classes - 1))
    return gap * torch.eye(classes)[[label] * ipc]


def mixed_tiles(images: Tensor, grid: Grid) -> Tensor:
    """Combine ``[n * tiles, C, h, w]`` real images, shrunk by nearest neighbour, to the tiles of ``[n, C, h, w]``.

    Image i contains the images i * tiles and following, row by row. Two deviations from IDC's program: it takes the
    first images of the class, here the caller draws them by key; where the factor does not divide a side h, it shrinks
    some to a pixel less, here all have the side ceil(h / factor) of a decoded tile, cut at the border.
    """
    size = (images.shape[-2], images.shape[-1])
    small = F.interpolate(images, size=tile_size(size, grid), mode="nearest")
    tiled = small.unflatten(0, (-1, *grid)).permute(0, 3, 1, 4, 2, 5)  # n C row h column w
    return tiled.flatten(4, 5).flatten(2, 3)[..., : size[0], : size[1]].contiguous()


@dataclass(frozen=True)
class Material:
    """Inputs from which the pixels of one class can start.

    :param grid: rows and columns of the tiles of an image.
    :param real: real images of the class, ``[ipc * PixelStart.images(grid), C, h, w]``, as pixels.
    :param noise: function that draws pixels, ``[ipc, C, h, w]``.
    """

    grid: Grid
    real: Tensor
    noise: Callable[[], Tensor]


@dataclass(frozen=True)
class PixelStart:
    """One way to initialise pixels.

    :param images: function from the grid of tiles to the number of real images per learnt image.
    :param pixels: function that returns the pixels of a class, ``[ipc, C, h, w]``.
    """

    images: Callable[[Grid], int]
    pixels: Callable[[Material], Tensor]


STARTS: dict[str, PixelStart] = {
    "noise": PixelStart(lambda grid: 0, lambda material: material.noise()),
    "real": PixelStart(lambda grid: 1, lambda material: material.real),
    "mixed": PixelStart(prod, lambda material: mixed_tiles(material.real, material.grid)),
}
