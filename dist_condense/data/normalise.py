"""Between stored images, their values and normalised values, on any device."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

STORED = (torch.uint8, torch.float32)
"""How images are stored: bytes, or floats."""


def to_values(images: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Stored images [...] to their values in `dtype`, same shape and device: bytes to [0, 1], floats as they are.

    Contiguous however the images lie, as convolutions differ in the last bits between layouts. Raises ValueError for
    another dtype.
    """
    if images.dtype not in STORED:
        raise ValueError(f"to_values: images are {images.dtype}, expected uint8 (0..255) or float32.")
    values = images.to(dtype, memory_format=torch.contiguous_format)
    return values if images.is_floating_point() else values.div_(255)


def normalise(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """(x - mean) / std per channel; x [..., C, H, W], mean and std of length C."""
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
    """Mean and std per channel of the values of real training images."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """Values to normalised ones, [..., C, H, W]."""
        return normalise(images, self.mean, self.std)

    def denormalise(self, images: torch.Tensor) -> torch.Tensor:
        """The inverse."""
        return denormalise(images, self.mean, self.std)
