"""IDC's augmentation on ImageNet: random resized crop, flip, colour jitter, and the PCA lighting of AlexNet.

It is computed on a whole batch of images with values in [0, 1], with separate magnitudes per image; as in the authors'
program, results are not clamped. Deviations from the program:

- The order of the three jitters is drawn once per batch, not per image.
- A crop is sampled bilinearly from the image in one step, so its border reads up to half a pixel outside the crop
  instead of repeating the edge.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from dist_condense.data.normalise import ChannelStatistics

LUMA = (0.299, 0.587, 0.114)
EIGENVALUES = (0.2175, 0.0188, 0.0045)
EIGENVECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
"""Principal components of ImageNet's colours, one column per eigenvalue; the rows are red, green and blue."""
ATTEMPTS = 10
"""Number of crops drawn per image; if none fits, the whole image is used, as in torchvision's RandomResizedCrop."""


@dataclass(frozen=True, kw_only=True)
class ImagenetAugmentation:
    """IDC's augmentation on ImageNet, with the published strengths as defaults."""

    area: tuple[float, float] = (0.5, 1.0)
    """Range of a crop's area, as a fraction of the image."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Range of a crop's ratio of width to height, whose logarithm is uniform."""
    jitter: float = 0.4
    """Strength j: brightness, contrast and saturation are each scaled by a factor in [1 - j, 1 + j)."""
    lighting: float = 0.1
    """Standard deviation of the coefficients of the principal components, in units of the eigenvalues."""
    flip: bool = True
    """Whether each image is flipped horizontally with probability 1/2."""
    channels: ClassVar[int | None] = 3

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

    def __str__(self) -> str:
        crop = f"a crop of {self.area[0]:g} to {self.area[1]:g} of the area, resized"
        colours = f"brightness, contrast and saturation by up to {self.jitter:g}, PCA lighting of {self.lighting:g}"
        return ", ".join([crop, *["flip"] * self.flip, colours])

    def without_flip(self) -> ImagenetAugmentation:
        """Return the same augmentation without flips."""
        return replace(self, flip=False)

    def boxes(self, n: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
        """Draw one crop for each of n images: top, left, height and width in whole pixels, float64 ``[n, 4]``.

        :param size: (height, width) of an image.
        """
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
    """Resize a crop of each image to the image size, and mirror it horizontally where ``flipped`` is true.

    :param boxes: crops ``[n, 4]``: top, left, height and width in pixels.
    :param flipped: bool ``[n]``.
    """
    size = torch.tensor(images.shape[-2:], dtype=boxes.dtype)
    extent = boxes[:, 2:] / size
    centre = (2 * boxes[:, :2] + boxes[:, 2:]) / size - 1
    sign, zero = 1.0 - 2.0 * flipped.to(boxes.dtype), torch.zeros_like(extent[:, 0])
    rows = [sign * extent[:, 1], zero, centre[:, 1], zero, extent[:, 0], centre[:, 0]]
    matrices = torch.stack(rows, 1).view(-1, 2, 3).to(images)
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def brighten(images: Tensor, factor: Tensor) -> Tensor:
    """Scale the brightness of each image by ``factor`` ``[n, 1, 1, 1]``."""
    return images * factor


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Scale the contrast around the mean luma of each image by ``factor`` ``[n, 1, 1, 1]``."""
    return torch.lerp(grey(images).mean((2, 3), keepdim=True).expand_as(images), images, factor)


def saturate(images: Tensor, factor: Tensor) -> Tensor:
    """Scale the saturation around the luma of each pixel by ``factor`` ``[n, 1, 1, 1]``."""
    return torch.lerp(grey(images).expand_as(images), images, factor)


JITTERS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (brighten, contrast, saturate)


def light(images: Tensor, alpha: Tensor) -> Tensor:
    """Add the principal components of ImageNet's colours, scaled by ``alpha`` ``[n, 3]`` times the eigenvalues."""
    colours = (alpha * torch.tensor(EIGENVALUES)) @ torch.tensor(EIGENVECTORS).T
    return images + colours.to(images)[:, :, None, None]


def grey(images: Tensor) -> Tensor:
    """Return the luma ``[n, 1, h, w]`` of RGB images."""
    return (images * torch.tensor(LUMA).to(images).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _between(limits: tuple[float, float], u: Tensor) -> Tensor:
    return limits[0] + (limits[1] - limits[0]) * u
