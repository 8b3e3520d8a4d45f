"""Older networks of DC's cross-architecture table (Zhao et al. 2021): MLP, LeNet, AlexNet, VGG-11.

All take images [N, channels, H, W] and keep torch's default initialisation. With one channel, the first convolution
pads 2 more, so 28 px become 32.
"""

import math

from torch import Tensor, nn

from dist_condense.networks.base import Network, Size, feature_count, first_padding, sides
from dist_condense.networks.norms import NORMS, Norm
from dist_condense.networks.text import Width

VGG11_STAGES = ((1,), (2,), (4, 4), (8, 8), (8, 8))
"""Channels of each convolution in multiples of the width; every stage ends with a 2x2 maximum pooling."""


class FlatNetwork(Network):
    """Network whose embedding [N, F] is the flattened output of the module `features`; one linear layer follows."""

    def __init__(self, features: nn.Module, channels: int, classes: int, size: Size) -> None:
        super().__init__()
        self.features = features
        self.classifier = nn.Linear(feature_count(features, channels, size), classes)

    def embed(self, x: Tensor) -> Tensor:
        features: Tensor = self.features(x)
        return features.flatten(start_dim=1)


class MLP(FlatNetwork):
    """Multilayer perceptron: three linear layers with ReLU between them and `width` hidden units."""

    def __init__(self, channels: int, classes: int, size: Size, width: Width = 128) -> None:
        pixels = channels * math.prod(sides(size))
        hidden = [nn.Linear(pixels, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
        super().__init__(nn.Sequential(nn.Flatten(), *hidden), channels, classes, size)


class LeNet(FlatNetwork):
    """LeNet-5 (LeCun et al. 1998): two 5x5 convolutions (6 and 16 channels) with pooling and three linear layers.

    The hidden linear layers have 120 and 84 units.
    """

    def __init__(self, channels: int, classes: int, size: Size) -> None:
        maps = nn.Sequential(
            *[
                nn.Conv2d(channels, 6, kernel_size=5, padding=first_padding(channels, 0)),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ],
            *[nn.Conv2d(6, 16, kernel_size=5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()],
        )
        count = feature_count(maps, channels, size)
        hidden = [nn.Linear(count, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU()]
        super().__init__(nn.Sequential(maps, *hidden), channels, classes, size)


class AlexNet(FlatNetwork):
    """DC's small AlexNet: two 5x5 and three 3x3 convolutions, three poolings, one linear layer.

    `width` is the number of channels of the first convolution; the others have 1.5, 2, 1.5 and 1.5 times as many (128,
    192, 256, 192, 192 by default).
    """

    def __init__(self, channels: int, classes: int, size: Size, width: Width = 128) -> None:
        middle, wide = math.ceil(1.5 * width), 2 * width
        features = nn.Sequential(
            *[nn.Conv2d(channels, width, kernel_size=5, padding=first_padding(channels, 2)), nn.ReLU()],
            *[nn.MaxPool2d(2), nn.Conv2d(width, middle, kernel_size=5, padding=2), nn.ReLU()],
            *[nn.MaxPool2d(2), nn.Conv2d(middle, wide, kernel_size=3, padding=1), nn.ReLU()],
            *[nn.Conv2d(wide, middle, kernel_size=3, padding=1), nn.ReLU()],
            *[nn.Conv2d(middle, middle, kernel_size=3, padding=1), nn.ReLU(), nn.MaxPool2d(2)],
        )
        super().__init__(features, channels, classes, size)


class VGG11(FlatNetwork):
    """VGG-11 (Simonyan and Zisserman 2015, configuration A) with norms: eight 3x3 convolutions in five stages.

    One linear layer follows. DC's table uses VGG-11 with the instance norm.
    """

    def __init__(self, channels: int, classes: int, size: Size, width: Width = 64, norm: Norm = "instance") -> None:
        make_norm = NORMS[norm]
        layers: list[nn.Module] = []
        inputs, padding = channels, first_padding(channels, 1)
        for stage in VGG11_STAGES:
            for outputs in (width * times for times in stage):
                conv = nn.Conv2d(inputs, outputs, kernel_size=3, padding=padding)
                layers += [conv, make_norm(outputs), nn.ReLU()]
                inputs, padding = outputs, 1
            layers.append(nn.MaxPool2d(2))
        super().__init__(nn.Sequential(*layers), channels, classes, size)
