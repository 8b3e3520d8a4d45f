"""DC's augmentation in evaluations: one operation of a list per image (used by DC on MNIST and with BatchNorm).

The operations follow the authors' program (``utils.augment``) and are computed in normalised space. Deviations:

- One bilinear warp replaces the program's nearest-neighbour scaling and its rotation by a cubic spline.
- A scaled image is centred exactly, not to whole pixels.
- Pixels outside a rotated image are filled with the mean of the batch per channel; the program takes the mean over all
  channels, which is the same for images of one channel.

As in the program, pixels outside a cropped image are filled with the mean of the batch per channel, and pixels outside
a scaled image with 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from dist_condense.core import augmentation
from dist_condense.core.augmentation import Sampler, neutral, set_crop, set_rotation, set_scale
from dist_condense.data.normalise import ChannelStatistics
from dist_condense.system.transfer import to_device

CROP, SCALE, DEGREES, NOISE = 4, 0.2, 45, 0.001


@dataclass(frozen=True)
class Change:
    """Effect of one operation on each of n images."""

    warp: Tensor
    """Affine maps from output to input coordinates, ``[n, 2, 3]`` float64, as in
    :class:`dist_condense.core.augmentation.Draw`.
    """
    fill: float
    """Value of pixels outside the image, as a multiple of the mean of the batch per channel."""
    noise: float
    """Standard deviation of the added noise."""


def crop(sampler: Sampler) -> Change:
    """Crop the images, padded by 4 pixels, at offsets 0 to 7, which shifts rows and columns by -4 to +3 pixels."""
    shift = torch.stack([sampler.integers(-CROP, CROP) for _ in sampler.size], 1)
    return Change(set_crop(neutral(sampler.n), shift, sampler.size).warp, 1, 0)


def scale(sampler: Sampler) -> Change:
    """Scale width and height about the centre, each to int(u * size) pixels with its own u uniform in [0.8, 1.2)."""
    size = torch.tensor([sampler.size[1], sampler.size[0]], dtype=torch.float64)
    pixels = ((1 - SCALE + 2 * SCALE * sampler.uniform(2)) * size).floor()
    return Change(set_scale(neutral(sampler.n), size / pixels).warp, 0, 0)


def rotate(sampler: Sampler) -> Change:
    """Rotate each image by a whole number of degrees from -45 to 44."""
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
    """Augmentation that applies one of the named operations, drawn uniformly, to each image.

    :param operations: keys of :data:`OPERATIONS`.
    """

    operations: tuple[str, ...]
    channels: ClassVar[int | None] = None

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

    def __str__(self) -> str:
        return f"one of {', '.join(self.operations)}, drawn for each image"

    def without_flip(self) -> OnePerImage:
        """Return this augmentation itself, because none of its operations flips."""
        return self


def warped(images: Tensor, warp: Tensor, fill: Tensor) -> Tensor:
    """Warp images ``[n, C, h, w]`` by affine maps ``[n, 2, 3]``.

    :param fill: value of pixels outside each image, ``[n, C, 1, 1]``.
    """
    draw = replace(neutral(len(images)), warp=warp).to(images.device, images.dtype, to_device)
    return augmentation.warp(images - fill, draw) + fill


def _per_image(values: list[float], which: Tensor, like: Tensor) -> Tensor:
    return torch.tensor(values)[which].to(like).view(-1, 1, 1, 1)
