"""ResNetAP: residual networks that shrink by average pooling instead of strides.

"Dataset Condensation via Efficient Synthetic-Data Parameterization" (IDC, Kim et al. 2022): ResNetAP-10 is
its network for ImageNet subsets, ResNetAP-18 the deeper one. Checked against the numbers of its program.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from dist_condense.networks.base import Network, global_average, initialise
from dist_condense.networks.norms import ChannelNorm, choose_norm

SMALL_IMAGE = 64
"""Images up to this side are not pooled in the stem."""
IMAGENET_IMAGE = 224
"""From this side on the stem is a 7x7 convolution with 4x4 pooling."""


class PooledBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; `shrink` 2 halves the maps by pooling after the first ReLU.

    [N, inputs, H, W] to [N, outputs, H / shrink, W / shrink]. A shortcut that changes the shape is a 1x1
    convolution, the pooling, then a norm.
    """

    def __init__(self, inputs: int, outputs: int, shrink: int, norm: ChannelNorm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False)
        self.norm1 = norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, kernel_size=3, padding=1, bias=False)
        self.norm2 = norm(outputs)
        self.activation = nn.ReLU()
        self.pooling = nn.AvgPool2d(shrink) if shrink > 1 else nn.Identity()
        self.shortcut: nn.Module = nn.Identity()
        if shrink > 1 or inputs != outputs:
            narrow = nn.Conv2d(inputs, outputs, kernel_size=1, bias=False)
            pooling = nn.AvgPool2d(shrink) if shrink > 1 else nn.Identity()
            self.shortcut = nn.Sequential(narrow, pooling, norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.pooling(self.activation(self.norm1(self.conv1(x))))
        out: Tensor = self.activation(self.norm2(self.conv2(inner)) + self.shortcut(x))
        return out


class ResNetAP(Network):
    """A stem, four stages of `PooledBlock`s (width, 2, 4 and 8 times width), the mean, a linear layer.

    Images [N, channels, size, size]; features 8 * width. IDC's initialisation (see `initialise`).
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        size: int,
        blocks: Sequence[int],
        width: int = 64,
        norm: str = "instance",
    ) -> None:
        super().__init__()
        make_norm = choose_norm(norm)
        layers = _stem(channels, size, width, make_norm)
        inputs = width
        for stage, count in enumerate(blocks):
            outputs = width * 2**stage
            for block in range(count):
                shrink = 2 if stage and not block else 1
                layers.append(PooledBlock(inputs, outputs, shrink, make_norm))
                inputs = outputs
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(inputs, classes)
        initialise(self)

    def embed(self, x: Tensor) -> Tensor:
        """Images [N, C, H, W] to features [N, 8 * width]."""
        return global_average(self.features(x))


def _stem(channels: int, size: int, width: int, norm: ChannelNorm) -> list[nn.Module]:
    """Up to 64 px a 3x3 convolution; below 224 px with 2x2 pooling; from 224 px on 7x7 with 4x4 pooling."""
    kernel, shrink = (7, 4) if size >= IMAGENET_IMAGE else (3, 2 if size > SMALL_IMAGE else 1)
    conv = nn.Conv2d(channels, width, kernel_size=kernel, padding=kernel // 2, bias=False)
    pooling = [nn.AvgPool2d(shrink)] if shrink > 1 else []
    return [conv, norm(width), nn.ReLU(), *pooling]


def resnet10_ap(channels: int, size: int, classes: int, width: int = 64, norm: str = "instance") -> ResNetAP:
    """ResNetAP-10: one block per stage."""
    return ResNetAP(channels, classes, size, blocks=(1, 1, 1, 1), width=width, norm=norm)


def resnet18_ap(channels: int, size: int, classes: int, width: int = 64, norm: str = "instance") -> ResNetAP:
    """ResNetAP-18: two blocks per stage."""
    return ResNetAP(channels, classes, size, blocks=(2, 2, 2, 2), width=width, norm=norm)
