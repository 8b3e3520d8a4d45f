"""Parameterisation f: the map from learnt pixels to the images that a network sees (IDC, Kim et al. 2022, section 4).

An image h x w with factor n contains n x n tiles of ceil(h/n) x ceil(w/n), or n tiles along one of its axes; each tile
is up-sampled bilinearly to h x w. If n does not divide a side, the image is first padded at the right and bottom.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from dist_condense.core import sampling

Grid = tuple[int, int]
"""Rows and columns of tiles."""
BOTH = "both"
AXES: dict[str, tuple[bool, bool]] = {BOTH: (True, True), "height": (True, False), "width": (False, True)}
"""Choices of axes; for each, whether the height and whether the width of an image is cut into tiles."""


def grid_of(factor: int, axes: str = BOTH) -> Grid:
    """Return the grid with ``factor`` tiles along each of ``axes``, a key of :data:`AXES`."""
    rows, columns = (factor if cut else 1 for cut in AXES[axes])
    return rows, columns


def tile_size(size: tuple[int, int], grid: Grid) -> tuple[int, int]:
    """Return the height and width of a tile of an image of ``size``, rounded up."""
    return -(-size[0] // grid[0]), -(-size[1] // grid[1])


def pad(images: Tensor, size: tuple[int, int], padding: Sequence[float]) -> Tensor:
    """Pad images ``[..., C, h, w]`` at the right and bottom to ``[..., C, *size]``.

    :param padding: one value, or one value per channel.
    """
    margins = (0, size[1] - images.shape[-1], 0, size[0] - images.shape[-2])
    if not any(margins):
        return images
    values = list(padding) * (images.shape[-3] if len(padding) == 1 else 1)
    channels = zip(images.split(1, -3), values, strict=True)  # a tensor of the values would be copied from the host
    return torch.cat([F.pad(channel, margins, value=value) for channel, value in channels], -3)


def tiles(images: Tensor, grid: Grid, padding: Sequence[float]) -> Tensor:
    """Cut images ``[n, C, h, w]`` into tiles, each up-sampled to h x w: ``[tiles * n, C, h, w]``.

    The first tiles of all images precede all second tiles, and so on; the tiles of an image are numbered row by row.
    """
    stacked = _cut(images, grid, padding).permute(2, 4, 0, 1, 3, 5).flatten(0, 2)
    return _up_sampled(stacked, images)


def _cut(images: Tensor, grid: Grid, padding: Sequence[float]) -> Tensor:
    """Pad images ``[n, C, h, w]`` and cut them into tiles ``[n, C, row, h', column, w']``."""
    (rows, columns), (height, width) = grid, tile_size((images.shape[-2], images.shape[-1]), grid)
    padded = pad(images, (rows * height, columns * width), padding)
    return padded.unflatten(-1, (columns, width)).unflatten(-3, (rows, height))


def _up_sampled(cut: Tensor, like: Tensor) -> Tensor:
    """Up-sample tiles bilinearly to the size of the images ``like``."""
    size = (like.shape[-2], like.shape[-1])
    if torch.are_deterministic_algorithms_enabled():
        return sampling.resized(cut, size)
    return F.interpolate(cut, size=size, mode="bilinear", align_corners=False)


def uniform(images: Tensor, form: MultiFormation, factor: int) -> tuple[Tensor, Tensor]:
    """Decode every image with ``factor``; return the decoded images and the index of each one's source image, int64."""
    sources, grid = torch.arange(len(images), device=images.device), grid_of(factor, form.axes)
    if grid == (1, 1):
        return images, sources
    return tiles(images, grid, form.padding), sources.repeat(prod(grid))


def multi(images: Tensor, form: MultiFormation, factor: int) -> tuple[Tensor, Tensor]:
    """Decode every image with each factor from 1 to ``factor``; return the same as :func:`uniform`."""
    parts = [uniform(images, form, f) for f in range(1, factor + 1)]
    return torch.cat([x for x, _ in parts]), torch.cat([s for _, s in parts])


def bounded(images: Tensor, form: MultiFormation, factor: int) -> tuple[Tensor, Tensor]:
    """Decode each image once, with as large a factor as a total of ``form.budget`` decoded images allows.

    Each factor from ``factor`` down to 2 decodes as many images as fit into what is left of the budget after one
    decoded image is reserved for every image not decoded yet; factor 1 decodes the rest. Returns the same as
    :func:`uniform`.
    """
    parts, start = [], 0
    for f, count in bounded_plan(len(images), factor, form.budget, form.axes):
        decoded, sources = uniform(images[start : start + count], form, f)
        parts.append((decoded, sources + start))
        start += count
    return torch.cat([x for x, _ in parts]), torch.cat([s for _, s in parts])


def bounded_plan(images: int, factor: int, budget: int, axes: str = BOTH) -> list[tuple[int, int]]:
    """Return the (factor, number of images) of each non-empty part of :func:`bounded`, the largest factor first."""
    plan, decoded, remaining = [], 0, images
    for f in range(factor, 1, -1):
        tiled = prod(grid_of(f, axes))
        count = max(0, min(remaining, (budget - decoded - remaining) // tiled))
        plan.append((f, count))
        decoded, remaining = decoded + count * tiled, remaining - count
    return [(f, count) for f, count in [*plan, (1, remaining)] if count]


@dataclass(frozen=True)
class Decoding:
    """A way to decode the images of one class for matching."""

    decode: Callable[[Tensor, MultiFormation, int], tuple[Tensor, Tensor]]
    """Function like :func:`uniform`."""
    parts: Callable[[int, MultiFormation], list[tuple[int, int]]]
    """Function that returns the (factor, number of images) of each part of the decoded images, by number of images."""


UNIFORM = Decoding(uniform, lambda images, form: [(form.factor, images)])
DECODINGS: dict[str, Decoding] = {
    "uniform": UNIFORM,
    "multi": Decoding(multi, lambda images, form: [(factor, images) for factor in range(1, form.factor + 1)]),
    "bounded": Decoding(bounded, lambda images, form: bounded_plan(images, form.factor, form.budget, form.axes)),
}


@dataclass(frozen=True)
class Origins:
    """Origin of decoded images in the learnt images of a class: three int64 tensors ``[m]``.

    :param source: index of the learnt image.
    :param factor: factor with which it is decoded, one of ``factors``.
    :param tile: index of the tile, row by row.
    """

    source: Tensor
    factor: Tensor
    tile: Tensor
    factors: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, rows: slice | Tensor) -> Origins:
        return Origins(self.source[rows], self.factor[rows], self.tile[rows], self.factors)

    def to(self, device: torch.device) -> Origins:
        """Copy the tensors to a device."""
        return Origins(self.source.to(device), self.factor.to(device), self.tile.to(device), self.factors)


@dataclass(frozen=True)
class MultiFormation:
    """Multi-formation of IDC, which decodes images into tiles (``factor`` 1: pixels are used unchanged).

    :param decoding: decoding during condensation, a value of :data:`DECODINGS`.
    :param budget: maximum number of decoded images per class, for ``bounded``.
    :param padding: one value or one value per channel, see :func:`pad`.
    :param axes: key of :data:`AXES`: the axes along which an image is cut (only time, for a spectrogram).
    """

    factor: int = 1
    decoding: Decoding = UNIFORM
    _: KW_ONLY
    budget: int = 128
    padding: tuple[float, ...] = (0.0,)
    axes: str = BOTH

    @property
    def tiles(self) -> int:
        """Number of tiles in each image."""
        return prod(grid_of(self.factor, self.axes))

    def decode(self, images: Tensor) -> Tensor:
        """Decode the ``ipc`` images of one class ``[ipc, C, h, w]`` to m images ``[m, C, h, w]`` for matching."""
        return self.decoding.decode(images, self, self.factor)[0]

    def origins(self, ipc: int) -> Origins:
        """Return the origin of each image that :meth:`decode` returns for ``ipc`` images."""
        blank = torch.empty(ipc, 1, self.factor, self.factor)
        sources = self.decoding.decode(blank, replace(self, padding=(0.0,)), self.factor)[1]
        parts = [(factor, n, prod(grid_of(factor, self.axes))) for factor, n in self.decoding.parts(ipc, self)]
        factors = torch.cat([torch.full((n * tiled,), factor) for factor, n, tiled in parts])
        numbers = torch.cat([torch.arange(tiled).repeat_interleave(n) for _, n, tiled in parts])
        return Origins(sources, factors, numbers, tuple(factor for factor, _, _ in parts))

    def decode_some(self, images: Tensor, at: Origins) -> Tensor:
        """Decode one tile of each image, as :meth:`decode` does, without memory for other tiles.

        :param images: the learnt image of each decoded one, ``[n, C, h, w]``.
        :param at: which tiles, n of them. Their values stay on the device, so each is decoded with all factors.
        """
        first, *others = at.factors
        decoded = self._tile(images, at.tile, first)
        for factor in others:
            is_it = (at.factor == factor)[:, None, None, None]
            decoded = torch.where(is_it, self._tile(images, at.tile, factor), decoded)
        return decoded

    def count(self, ipc: int) -> int:
        """Return the number m of images that :meth:`decode` returns for ``ipc`` images; nothing is allocated."""
        return sum(images * prod(grid_of(factor, self.axes)) for factor, images in self.decoding.parts(ipc, self))

    def decode_for_training(self, images: Tensor) -> Tensor:
        """Decode images with :func:`uniform` to ``[tiles * ipc, C, h, w]``, as training on the synthetic set does."""
        return uniform(images, self, self.factor)[0]

    def _tile(self, images: Tensor, tile: Tensor, factor: int) -> Tensor:
        """Return one tile of each image, up-sampled; ``tile`` is taken modulo their number."""
        grid = grid_of(factor, self.axes)
        if grid == (1, 1):
            return images
        cut = _cut(images, grid, self.padding).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)  # n tile C row column
        each = sampling.taken(cut, torch.arange(len(images), device=images.device), tile % prod(grid))
        return _up_sampled(each, images)
