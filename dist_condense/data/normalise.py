"""Between stored bytes, [0, 1] and normalised pixels, on any device."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch


def to_unit(images: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Bytes uint8 [...] -> [0, 1] in `dtype`, same shape and device; ValueError for another dtype.

    Contiguous however the bytes lie, as convolutions differ in the last bits between layouts.
    """
    if images.dtype is not torch.uint8:
        raise ValueError(f"to_unit: images are {images.dtype}, expected uint8 (0..255).")
    return images.to(dtype, memory_format=torch.contiguous_format).div_(255)


def normalise(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """(x - mean) / std per channel; x [..., C, H, W] in [0, 1], mean and std of length C."""
    return (images - _per_channel(mean, images)) / _per_channel(std, images)


def denormalise(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """The inverse of normalise: x * std + mean, not clipped; x [..., C, H, W]."""
    return images * _per_channel(std, images) + _per_channel(mean, images)


def _per_channel(values: Sequence[float], images: torch.Tensor) -> torch.Tensor:
    """[C, 1, 1] like the images; one value is one channel, never broadcast over several."""
    if images.ndim < 3 or images.shape[-3] != len(values):
        raise ValueError(
            f"normalise: images {list(images.shape)} need [..., C, H, W] with C = {len(values)}, "
            f"the length of mean and std."
        )
    return torch.tensor(values, dtype=images.dtype, device=images.device)[:, None, None]


@dataclass(frozen=True)
class ChannelStatistics:
    """Mean and std per channel of the real training images in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """[0, 1] to normalised space."""
        return normalise(images, self.mean, self.std)
