"""IDC's DenseNet-121 for small images (Huang et al. 2017, "Densely Connected Convolutional Networks").

It has bottleneck layers, compression 0.5, a 3x3 stem without pooling at every size, growth rate 12 and torch's default
initialisation. The mean over all pixels precedes the last layer; IDC's program pools 4 x 4 there, which is equal at 32
px. torchvision's DenseNet-121, with growth rate 32 and a stem for ImageNet, is another network:
`torchvision_densenet121`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dist_condense.networks.base import Network, Size, global_average
from dist_condense.networks.norms import NORMS, ChannelNorm, Norm
from dist_condense.networks.text import Width

BOTTLENECK = 4
"""Output channels of the 1x1 convolution of a layer, in multiples of the growth rate."""


class DenseLayer(nn.Module):
    """Layer that prepends `growth` new feature maps to its input: [N, inputs, H, W] to [N, growth + inputs, H, W]."""

    def __init__(self, inputs: int, growth: int, norm: ChannelNorm) -> None:
        super().__init__()
        inner = BOTTLENECK * growth
        self.new_maps = nn.Sequential(
            *[norm(inputs), nn.ReLU(), nn.Conv2d(inputs, inner, kernel_size=1, bias=False)],
            *[norm(inner), nn.ReLU(), nn.Conv2d(inner, growth, kernel_size=3, padding=1, bias=False)],
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.new_maps(x), x], dim=1)


class DenseNet(Network):
    """DenseNet: a 3x3 convolution, dense blocks with transitions between them, and a linear layer.

    A transition halves the number of channels and the sides. Images are [N, channels, H, W].
    """

    def __init__(self, channels: int, classes: int, blocks: Sequence[int], growth: int, norm: Norm) -> None:
        super().__init__()
        make_norm = NORMS[norm]
        count = 2 * growth
        layers: list[nn.Module] = [nn.Conv2d(channels, count, kernel_size=3, padding=1, bias=False)]
        for block, depth in enumerate(blocks):
            if block:
                layers.append(_transition(count, make_norm))
                count //= 2
            layers += [DenseLayer(count + growth * layer, growth, make_norm) for layer in range(depth)]
            count += growth * depth
        self.features = nn.Sequential(*layers, make_norm(count), nn.ReLU())
        self.classifier = nn.Linear(count, classes)

    def embed(self, x: Tensor) -> Tensor:
        """Map images [N, C, H, W] to features [N, F], F = 384 for growth 12."""
        return global_average(self.features(x))


def _transition(count: int, norm: ChannelNorm) -> nn.Module:
    """Return a transition: a module that maps [N, count, H, W] to [N, count / 2, H / 2, W / 2]."""
    conv = nn.Conv2d(count, count // 2, kernel_size=1, bias=False)
    return nn.Sequential(norm(count), nn.ReLU(), conv, nn.AvgPool2d(2))


def densenet121(channels: int, size: Size, classes: int, growth: Width = 12, norm: Norm = "batch") -> DenseNet:
    """Build DenseNet-121 with growth rate `growth`: four blocks of 6, 12, 24 and 16 layers."""
    return DenseNet(channels, classes, blocks=(6, 12, 24, 16), growth=growth, norm=norm)
