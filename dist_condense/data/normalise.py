"""Conversions between stored images, image values and normalised values, on any device."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dist_condense.system.transfer import to_device

STORED = (torch.uint8, torch.float32)
"""Data types of stored images: bytes, or floats."""


def to_values(images: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Convert stored images of any shape to values in `dtype`: bytes are scaled to [0, 1], floats keep their value.

    The result has the images' shape and device. It is always contiguous, because convolutions differ in the last bits
    between memory layouts. Raises ValueError for images whose dtype is neither uint8 nor float32.
    """
    if images.dtype not in STORED:
        raise ValueError(f"to_values: images are {images.dtype}, expected uint8 (0..255) or float32.")
    values = images.to(dtype, memory_format=torch.contiguous_format)
    return values if images.is_floating_point() else values.div_(255)


@dataclass(frozen=True)
class ChannelStatistics:
    """Mean and std per channel of the values of real training images."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """Convert image values [..., C, H, W] to normalised values, (x - mean) / std."""
        return (images - _per_channel(self.mean, images)) / _per_channel(self.std, images)

    def denormalise(self, images: torch.Tensor) -> torch.Tensor:
        """Convert normalised values [..., C, H, W] to image values, x * std + mean, not clipped."""
        return images * _per_channel(self.std, images) + _per_channel(self.mean, images)


def _per_channel(values: Sequence[float], images: torch.Tensor) -> torch.Tensor:
    """Return `values` as a tensor [C, 1, 1] of the images' dtype and device.

    Raises ValueError unless the images are [..., C, H, W] with C = len(values).
    """
    if images.ndim < 3 or images.shape[-3] != len(values):
        raise ValueError(
            f"normalise: images {list(images.shape)} need [..., C, H, W] with C = {len(values)}, "
            f"the length of mean and std."
        )
    return to_device(torch.tensor(values, dtype=images.dtype), images.device)[:, None, None]
