"""Initial values of the learnt tensors: pixels from noise, real images or tiles of them; labels near one-hot.

Each way to initialise the pixels is one entry of `STARTS`.
"""

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
    """Return scores ``[ipc, classes]`` whose softmax is :data:`SURE` at class ``label`` and uniform over the others."""
    gap = math.log(SURE / (1 - SURE) * (classes - 1))
    return gap * torch.eye(classes)[[label] * ipc]


def mixed_tiles(images: Tensor, grid: Grid) -> Tensor:
    """Combine real images ``[n * tiles, C, h, w]``, shrunk by nearest neighbour, into n tiled images ``[n, C, h, w]``.

    Image i contains the real images i * tiles to (i + 1) * tiles - 1, row by row. Deviations from IDC's program:

    * The program takes the first images of the class; here the caller draws them by key.
    * If the factor does not divide a side h, the program shrinks some images to one pixel less; here all have the side
      ceil(h / factor) of a decoded tile, and the last are cut at the border.
    """
    size = (images.shape[-2], images.shape[-1])
    small = F.interpolate(images, size=tile_size(size, grid), mode="nearest")
    tiled = small.unflatten(0, (-1, *grid)).permute(0, 3, 1, 4, 2, 5)  # n C row h column w
    return tiled.flatten(4, 5).flatten(2, 3)[..., : size[0], : size[1]].contiguous()


@dataclass(frozen=True)
class Material:
    """Inputs for the initial pixels of one class.

    :param grid: rows and columns of the tiles of an image.
    :param real: real images of the class in the space of the pixels, ``[ipc * PixelStart.images(grid), C, h, w]``.
    :param noise: function that draws pixels, ``[ipc, C, h, w]``.
    """

    grid: Grid
    real: Tensor
    noise: Callable[[], Tensor]


@dataclass(frozen=True)
class PixelStart:
    """Method to initialise the pixels of a class.

    :param images: function from the grid of tiles to the number of real images per learnt image.
    :param pixels: function that returns the initial pixels of a class, ``[ipc, C, h, w]``.
    :param representative: whether the real images are those nearest to k-means centres, rather than random ones.
    """

    images: Callable[[Grid], int]
    pixels: Callable[[Material], Tensor]
    representative: bool = False


STARTS: dict[str, PixelStart] = {
    "noise": PixelStart(lambda grid: 0, lambda material: material.noise()),
    "real": PixelStart(lambda grid: 1, lambda material: material.real),
    "mixed": PixelStart(prod, lambda material: mixed_tiles(material.real, material.grid)),
    "representative": PixelStart(prod, lambda material: mixed_tiles(material.real, material.grid), representative=True),
}
