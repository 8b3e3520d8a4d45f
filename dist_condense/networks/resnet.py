"""ResNet-10 and ResNet-18 for small images: a 3x3 stem without pooling, strides between stages.

He et al. 2016 ("Deep Residual Learning"), in the form of the CIFAR programs that DC and IDC evaluate with.
For images from 224 px on the stem is ImageNet's. torchvision's ResNet-18 is another network: `resnet18`.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from dist_condense.networks.base import Network, global_average, initialise
from dist_condense.networks.norms import ChannelNorm, choose_norm

IMAGENET_IMAGE = 224
"""From this side on the stem is a 7x7 convolution of stride 2 with a maximum pooling."""


class StridedBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: [N, inputs, H, W] to [N, outputs, H / stride, W / stride]."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: ChannelNorm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)
        self.norm1 = norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, kernel_size=3, padding=1, bias=False)
        self.norm2 = norm(outputs)
        self.activation = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            narrow = nn.Conv2d(inputs, outputs, kernel_size=1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(narrow, norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.activation(self.norm1(self.conv1(x)))
        out: Tensor = self.activation(self.norm2(self.conv2(inner)) + self.shortcut(x))
        return out


class ResNet(Network):
    """A stem, four stages with width, 2, 4 and 8 times width channels, the mean over pixels, a linear layer.

    Images [N, channels, size, size]; features 8 * width. IDC's initialisation (see `initialise`).
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        size: int,
        blocks: Sequence[int],
        width: int = 64,
        norm: str = "batch",
    ) -> None:
        super().__init__()
        make_norm = choose_norm(norm)
        layers = image_stem(channels, size, width, make_norm)
        inputs = width
        for stage, count in enumerate(blocks):
            outputs = width * 2**stage
            for block in range(count):
                stride = 2 if stage and not block else 1
                layers.append(StridedBlock(inputs, outputs, stride, make_norm))
                inputs = outputs
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(inputs, classes)
        initialise(self)

    def embed(self, x: Tensor) -> Tensor:
        """Images [N, C, H, W] to features [N, 8 * width]."""
        return global_average(self.features(x))


def image_stem(channels: int, size: int, width: int, norm: ChannelNorm) -> list[nn.Module]:
    """3x3 convolution; from 224 px on 7x7 with stride 2, then maximum pooling (a quarter of the side)."""
    if size < IMAGENET_IMAGE:
        conv = nn.Conv2d(channels, width, kernel_size=3, padding=1, bias=False)
        return [conv, norm(width), nn.ReLU()]
    conv = nn.Conv2d(channels, width, kernel_size=7, stride=2, padding=3, bias=False)
    return [conv, norm(width), nn.ReLU(), nn.MaxPool2d(kernel_size=3, stride=2, padding=1)]


def resnet10_cifar(channels: int, size: int, classes: int, width: int = 64, norm: str = "batch") -> ResNet:
    """ResNet-10: one block per stage."""
    return ResNet(channels, classes, size, blocks=(1, 1, 1, 1), width=width, norm=norm)


def resnet18_cifar(channels: int, size: int, classes: int, width: int = 64, norm: str = "batch") -> ResNet:
    """ResNet-18: two blocks per stage."""
    return ResNet(channels, classes, size, blocks=(2, 2, 2, 2), width=width, norm=norm)
