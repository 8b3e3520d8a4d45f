"""DC's augmentation in evaluations: one operation of a list per image (published for MNIST and for BatchNorm).

As in the published program (``utils.augment``), with two deviations: one bilinear warp replaces its nearest-neighbour
scaling and the cubic spline of its rotations, and a scaled image is centred exactly, not to whole pixels. Everything is
computed in normalised space. The program fills pixels outside a cropped or rotated image with the mean of the batch per
channel (rotations: over all channels, equal if there is one), and those outside a scaled image with 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dist_condense.core import augmentation
from dist_condense.core.augmentation import Sampler, neutral, set_crop, set_rotation, set_scale
from dist_condense.data.normalise import ChannelStatistics
from dist_condense.system.transfer import to_device

CROP, SCALE, DEGREES, NOISE = 4, 0.2, 45, 0.001


@dataclass(frozen=True)
class Change:
    """The effect of one operation on each of n images."""

    warp: Tensor
    """Affine maps, ``[n, 2, 3]`` float64, as in :class:`dist_condense.core.augmentation.Draw`."""
    fill: float
    """Value of pixels outside the image, as a multiple of the mean of the batch."""
    noise: float
    """Standard deviation of the added noise."""


def crop(sampler: Sampler) -> Change:
    """Crop windows at offsets 0..7 of the images padded by 4: shifts of rows and columns from -4 to +3."""
    shift = torch.stack([sampler.integers(-CROP, CROP) for _ in sampler.size], 1)
    return Change(set_crop(neutral(sampler.n), shift, sampler.size).warp, 1, 0)


def scale(sampler: Sampler) -> Change:
    """Scale width and height to int(u * size) pixels each, u in [0.8, 1.2), about the centre."""
    size = torch.tensor([sampler.size[1], sampler.size[0]], dtype=torch.float64)
    pixels = ((1 - SCALE + 2 * SCALE * sampler.uniform(2)) * size).floor()
    return Change(set_scale(neutral(sampler.n), size / pixels).warp, 0, 0)


def rotate(sampler: Sampler) -> Change:
    """Rotate by whole degrees from -45 to 44."""
    radians = sampler.integers(-DEGREES, DEGREES).double() * (math.pi / 180)
    return Change(set_rotation(neutral(sampler.n), radians).warp, 1, 0)


def noise(sampler: Sampler) -> Change:
    """Add Gaussian noise of standard deviation 0.001."""
    return Change(neutral(sampler.n).warp, 0, NOISE)


OPERATIONS: Mapping[str, Callable[[Sampler], Change]] = {
    "crop": crop,
    "scale": scale,
    "rotate": rotate,
    "noise": noise,
}


@dataclass(frozen=True)
class OnePerImage:
    """One of the named operations per image, drawn uniformly."""

    operations: tuple[str, ...]

    def __call__(self, images: Tensor, generator: torch.Generator, statistics: ChannelStatistics) -> Tensor:
        n = len(images)
        sampler = Sampler(n, (images.shape[-2], images.shape[-1]), generator)
        changes = [OPERATIONS[name](sampler) for name in self.operations]
        which = sampler.integers(0, len(changes))
        warp = torch.stack([change.warp for change in changes])[which, torch.arange(n)]
        fill = _per_image([change.fill for change in changes], which, images)
        strength = _per_image([change.noise for change in changes], which, images)
        white = torch.randn(images.shape, generator=generator).to(images)
        return warped(images, warp, fill * images.mean((0, 2, 3), keepdim=True)) + strength * white

    def without_flip(self) -> OnePerImage:
        """Return this augmentation, none of whose operations flips."""
        return self


def warped(images: Tensor, warp: Tensor, fill: Tensor) -> Tensor:
    """Warp ``[n, C, h, w]`` by ``[n, 2, 3]``; pixels outside an image get the value ``fill`` ``[n, C, 1, 1]``."""
    draw = replace(neutral(len(images)), warp=warp).to(images.device, images.dtype, to_device)
    return augmentation.warp(images - fill, draw) + fill


def _per_image(values: list[float], which: Tensor, like: Tensor) -> Tensor:
    return torch.tensor(values)[which].to(like).view(-1, 1, 1, 1)
