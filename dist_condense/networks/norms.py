"""Normalisation layers by name. All but the batch norm treat every image independently."""

from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional

GROUPS = 4
EPSILON = 1e-5

ChannelNorm = Callable[[int], nn.Module]
SizedNorm = Callable[[int, tuple[int, int]], nn.Module]


class InstanceNorm(nn.Module):
    """Normalise each channel of each image to mean 0 and variance 1 over its pixels, then scale and shift.

    Equal to DC's `GroupNorm(C, C)`: weight [C] starts at 1, bias [C] at 0. Input and output are [N, C, H, W]; raises
    ValueError if H * W = 1.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] * x.shape[-2] == 1:
            raise ValueError("instance norm got feature maps of 1 x 1 pixel, whose normalised value is always 0")
        if torch.compiler.is_compiling():
            return self._fusable(x)
        return functional.group_norm(x, self.channels, weight=self.weight, bias=self.bias, eps=EPSILON)

    def _fusable(self, x: Tensor) -> Tensor:
        """Normalise by elementary operations, which torch.compile fuses with adjacent ones (1.3 times faster)."""
        variance, mean = torch.var_mean(x, (2, 3), correction=0, keepdim=True)
        weight, bias = self.weight.view(1, -1, 1, 1), self.bias.view(1, -1, 1, 1)
        return (x - mean) * torch.rsqrt(variance + EPSILON) * weight + bias

    def extra_repr(self) -> str:
        return str(self.channels)


def _none(channels: int) -> nn.Module:
    return nn.Identity()


def _group(channels: int) -> nn.Module:
    if channels % GROUPS:
        raise ValueError(
            f"group norm cuts the channels into {GROUPS} groups, but a layer has {channels} channels: "
            f"set width to a multiple of {GROUPS}"
        )
    return nn.GroupNorm(GROUPS, channels)


def _layer(channels: int, size: tuple[int, int]) -> nn.Module:
    """Return a layer norm over the whole image, with one weight and one bias per element [C, H, W] (DC)."""
    return nn.LayerNorm([channels, *size])


NORMS: dict[str, ChannelNorm] = {
    "none": _none,
    "batch": nn.BatchNorm2d,
    "instance": InstanceNorm,
    "group": _group,
}
"""Norms that need only the number of channels; every network with a norm accepts them."""


def _any_size(norm: ChannelNorm) -> SizedNorm:
    return lambda channels, size: norm(channels)


SIZED_NORMS: dict[str, SizedNorm] = {name: _any_size(norm) for name, norm in NORMS.items()} | {"layer": _layer}
"""Norms for networks that know the height and width of their feature maps (ConvNet): `NORMS` and the layer norm."""

Norm = Annotated[str, NORMS]
"""Type of a network's option `norm`: a key of `NORMS`. The catalogue refuses other names."""
SizedNormName = Annotated[str, SIZED_NORMS]
