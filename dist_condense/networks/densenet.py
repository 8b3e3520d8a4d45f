"""DenseNet-121 (Huang et al. 2017, "Densely Connected Convolutional Networks"), evaluated by IDC.

Bottleneck layers and compression 0.5. Convolutions start from He's normal distribution, as the ResNets here.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dist_condense.networks.base import Network, global_average, initialise
from dist_condense.networks.norms import ChannelNorm, choose_norm
from dist_condense.networks.resnet import image_stem

BOTTLENECK = 4
"""The 1x1 convolution of a layer gives this many times the growth rate."""


class DenseLayer(nn.Module):
    """Appends `growth` new feature maps to those it got: [N, inputs, H, W] to [N, inputs + growth, H, W]."""

    def __init__(self, inputs: int, growth: int, norm: ChannelNorm) -> None:
        super().__init__()
        inner = BOTTLENECK * growth
        self.new_maps = nn.Sequential(
            *[norm(inputs), nn.ReLU(), nn.Conv2d(inputs, inner, kernel_size=1, bias=False)],
            *[norm(inner), nn.ReLU(), nn.Conv2d(inner, growth, kernel_size=3, padding=1, bias=False)],
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.new_maps(x)], dim=1)


class DenseNet(Network):
    """A stem, dense blocks with transitions (half the channels and side) between them, a linear layer.

    Images [N, channels, size, size]; the stem is 3x3 below 224 px and ImageNet's from there on.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        size: int,
        blocks: Sequence[int],
        growth: int = 32,
        norm: str = "batch",
    ) -> None:
        super().__init__()
        make_norm = choose_norm(norm)
        count = 2 * growth
        layers: list[nn.Module] = _stem(channels, size, count, make_norm)
        for block, depth in enumerate(blocks):
            if block:
                layers.append(_transition(count, make_norm))
                count //= 2
            layers += [DenseLayer(count + growth * layer, growth, make_norm) for layer in range(depth)]
            count += growth * depth
        self.features = nn.Sequential(*layers, make_norm(count), nn.ReLU())
        self.classifier = nn.Linear(count, classes)
        initialise(self)

    def embed(self, x: Tensor) -> Tensor:
        """Images [N, C, H, W] to features [N, F], F = 1024 for growth 32."""
        return global_average(self.features(x))


def _stem(channels: int, size: int, width: int, norm: ChannelNorm) -> list[nn.Module]:
    """Small images: the convolution alone, as every dense layer begins with a norm; else ImageNet's stem."""
    layers = image_stem(channels, size, width, norm)
    return layers if len(layers) > 3 else layers[:1]


def _transition(count: int, norm: ChannelNorm) -> nn.Module:
    """[N, count, H, W] to [N, count / 2, H / 2, W / 2]."""
    conv = nn.Conv2d(count, count // 2, kernel_size=1, bias=False)
    return nn.Sequential(norm(count), nn.ReLU(), conv, nn.AvgPool2d(2))


def densenet121(channels: int, size: int, classes: int, growth: int = 32, norm: str = "batch") -> DenseNet:
    """DenseNet-121: blocks of 6, 12, 24 and 16 layers."""
    return DenseNet(channels, classes, size, blocks=(6, 12, 24, 16), growth=growth, norm=norm)
