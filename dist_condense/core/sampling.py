"""Bilinear sampling whose backward pass adds in a fixed order, also on GPUs.

The backward passes of torch's ``grid_sample`` and of its bilinear ``interpolate`` add by atomic operations on GPUs, in
the order in which threads arrive, so that the last bits differ from run to run. Here, samples are gathered by an index,
whose backward pass sorts the index before it adds. These forms, equal to torch's up to rounding, are used where
:func:`torch.use_deterministic_algorithms` is on (``compute.deterministic``).
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor


def affine_grid(matrices: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the grid ``[n, h, w, 2]`` of :func:`torch.nn.functional.affine_grid` with ``align_corners=False``.

    torch computes it by a matrix product, which GPUs may round to TF32: a twentieth of a pixel at 224 px. Here, it is
    computed by elementary operations.

    :param matrices: maps ``[n, 2, 3]`` from output to input coordinates.
    :param size: height and width of the output.
    """
    rows, columns = ((2 * _range(side, matrices) + 1) / side - 1 for side in size)
    of_column, of_row, shift = matrices[:, None, None].unbind(-1)
    return of_column * columns[:, None] + of_row * rows[:, None, None] + shift


def warped(images: Tensor, matrices: Tensor) -> Tensor:
    """Apply affine maps to images by one bilinear sampling with zeros outside.

    :param images: ``[N, C, h, w]``.
    :param matrices: maps ``[n, 2, 3]`` from output to input coordinates in [-1, 1]; n is 1 or N.
    """
    height, width = images.shape[-2:]
    x, y = affine_grid(matrices, (height, width)).unbind(-1)
    return _sampled(images, ((y + 1) * height - 1) / 2, ((x + 1) * width - 1) / 2)


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize images ``[N, C, h, w]`` to ``size`` bilinearly, as ``interpolate`` with ``align_corners=False``."""
    y, x = (_positions(source, target, images) for source, target in zip(images.shape[-2:], size, strict=True))
    return _sampled(images, y[None, :, None].expand(1, *size), x[None, None].expand(1, *size))


def taken(x: Tensor, *indices: Tensor) -> Tensor:
    """Return ``x[indices]`` for int64 indices in range, none negative.

    Unlike there, the backward pass never looks whether they are in range, for which the host would wait.
    """
    result: Tensor = torch.ops.aten._unsafe_index(x, list(indices))
    return result


def _positions(source: int, target: int, like: Tensor) -> Tensor:
    """Return the position of each target pixel along an axis of ``source`` pixels, 0 at the first one's centre."""
    return ((_range(target, like) + 0.5) * (source / target) - 0.5).clamp(0, source - 1)


def _range(count: int, like: Tensor) -> Tensor:
    return torch.arange(count, dtype=like.dtype, device=like.device)


def _sampled(images: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Return the images at fractional positions, in pixels; pixels outside of the image are 0.

    :param images: ``[N, C, h, w]``.
    :param y: rows ``[n, H, W]``, and ``x`` columns, with n = 1 (the same positions in all images) or n = N.
    :returns: ``[N, C, H, W]``.
    """
    n, (rows, columns) = len(y), images.shape[-2:]
    # One row per pixel, which contains the values of all images that share their positions.
    pixels = images.unflatten(0, (n, -1)).permute(0, 3, 4, 1, 2).flatten(3).flatten(0, 2)
    first = rows * columns * torch.arange(n, device=y.device)[:, None, None]
    top, left = y.floor(), x.floor()
    indices, weights = [], []
    for down, right in product((0, 1), (0, 1)):
        row, column = top + down, left + right
        inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
        weights.append((1 - (y - row).abs()) * (1 - (x - column).abs()) * inside)
        index = row.clamp(0, rows - 1) * columns + column.clamp(0, columns - 1)
        indices.append(first + index.long())
    gathered = taken(pixels, torch.stack(indices))  # 4 n H W (N / n * C)
    return (
        (gathered * torch.stack(weights)[..., None])
        .sum(0)
        .unflatten(-1, (-1, images.shape[1]))
        .permute(0, 3, 4, 1, 2)
        .flatten(0, 1)
    )
