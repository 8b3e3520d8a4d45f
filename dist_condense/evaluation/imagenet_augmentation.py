"""IDC's augmentation on ImageNet: random resized crop, flip, colour jitter, PCA lighting (AlexNet's).

In [0, 1], on a whole batch, magnitudes per image, never clamped (as published). Two deviations: the order of the
three jitters is drawn once per batch, not per image; and a crop is one bilinear sampling, so at its border it reads
up to half a pixel outside the crop instead of repeating the crop's own edge.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from dist_condense.data.normalise import ChannelStatistics

LUMA = (0.299, 0.587, 0.114)
EIGENVALUES = (0.2175, 0.0188, 0.0045)
EIGENVECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
"""Of the colours of ImageNet; rows are red, green, blue, columns belong to the eigenvalues."""
ATTEMPTS = 10
"""Crops drawn per image before the whole image is taken (torchvision's RandomResizedCrop)."""


@dataclass(frozen=True, kw_only=True)
class ImagenetAugmentation:
    """The published strengths."""

    area: tuple[float, float] = (0.5, 1.0)
    """Part of the image that a crop holds."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Width over height of a crop, uniform in its logarithm."""
    jitter: float = 0.4
    """Brightness, contrast and saturation each by a factor in [1 - jitter, 1 + jitter)."""
    lighting: float = 0.1
    """Standard deviation along the principal colours."""
    flip: bool = True
    """Whether half of the images are mirrored."""

    def __call__(self, images: Tensor, generator: torch.Generator, statistics: ChannelStatistics) -> Tensor:
        n, size = len(images), (images.shape[-2], images.shape[-1])
        images = statistics.denormalise(images)
        boxes = self.boxes(n, size, generator)
        images = crop_and_flip(images, boxes, (torch.rand(n, generator=generator) < 0.5) & self.flip)
        factors = 1 + self.jitter * (2 * torch.rand(len(JITTERS), n, generator=generator) - 1)
        for i in torch.randperm(len(JITTERS), generator=generator).tolist():
            images = JITTERS[i](images, factors[i].to(images).view(-1, 1, 1, 1))
        images = light(images, self.lighting * torch.randn(n, 3, generator=generator))
        return statistics.normalise(images)

    def without_flip(self) -> ImagenetAugmentation:
        """Nothing is mirrored."""
        return replace(self, flip=False)

    def boxes(self, n: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
        """n crops, float64 ``[n, 4]``: top, left, height, width in whole pixels."""
        u = torch.rand(4, n, ATTEMPTS, generator=generator, dtype=torch.float64)
        area = _between(self.area, u[0]) * size[0] * size[1]
        ratio = _between((math.log(self.ratio[0]), math.log(self.ratio[1])), u[1]).exp()
        height, width = (area / ratio).sqrt().round(), (area * ratio).sqrt().round()
        top, left = (u[2] * (size[0] - height + 1)).floor(), (u[3] * (size[1] - width + 1)).floor()
        fits = (height <= size[0]) & (width <= size[1])
        first = fits.int().argmax(1)
        drawn = torch.stack([top, left, height, width], 2)[torch.arange(n), first]
        return torch.where(fits.any(1)[:, None], drawn, torch.tensor([0, 0, *size], dtype=torch.float64))


def crop_and_flip(images: Tensor, boxes: Tensor, flipped: Tensor) -> Tensor:
    """Crops ``[n, 4]`` (top, left, height, width) stretched to the whole image; mirrored where ``flipped [n]``."""
    size = torch.tensor(images.shape[-2:], dtype=boxes.dtype)
    extent = boxes[:, 2:] / size
    centre = (2 * boxes[:, :2] + boxes[:, 2:]) / size - 1
    sign, zero = 1.0 - 2.0 * flipped.to(boxes.dtype), torch.zeros_like(extent[:, 0])
    rows = [sign * extent[:, 1], zero, centre[:, 1], zero, extent[:, 0], centre[:, 0]]
    matrices = torch.stack(rows, 1).view(-1, 2, 3).to(images)
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def brighten(images: Tensor, factor: Tensor) -> Tensor:
    """Towards or away from black; factor ``[n, 1, 1, 1]``."""
    return images * factor


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Around the mean luma of each image."""
    return torch.lerp(grey(images).mean((2, 3), keepdim=True).expand_as(images), images, factor)


def saturate(images: Tensor, factor: Tensor) -> Tensor:
    """Around the luma of each pixel."""
    return torch.lerp(grey(images).expand_as(images), images, factor)


JITTERS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (brighten, contrast, saturate)


def light(images: Tensor, alpha: Tensor) -> Tensor:
    """Add the principal colours times alpha ``[n, 3]`` and their eigenvalues."""
    colours = (alpha * torch.tensor(EIGENVALUES)) @ torch.tensor(EIGENVECTORS).T
    return images + colours.to(images)[:, :, None, None]


def grey(images: Tensor) -> Tensor:
    """Luma ``[n, 1, h, w]`` of RGB."""
    return (images * torch.tensor(LUMA).to(images).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _between(limits: tuple[float, float], u: Tensor) -> Tensor:
    return limits[0] + (limits[1] - limits[0]) * u
