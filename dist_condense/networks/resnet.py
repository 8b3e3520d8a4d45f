"""Residual networks (He et al. 2016, "Deep Residual Learning") as in DC's and IDC's programs.

Each consists of a stem, four stages of blocks, the mean over pixels and a linear layer. They differ in the stem, in how
a block halves the sides of the feature maps (a stride or average pooling), and in how the convolutions are initialised.
(DC's and IDC's CIFAR programs pool 4 x 4 before the last layer, which is equal at 32 px.) The logits of all were
compared with those of the authors' programs in float64, at sides from 32 to 224 px. torchvision's ResNet-18 is another
network: `torchvision_resnet18`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from dist_condense.networks.base import Network, Size, WeightStart, global_average, idc_start, sides, torch_start
from dist_condense.networks.norms import NORMS, ChannelNorm, Norm
from dist_condense.networks.text import Width

SMALL_IMAGE, MIDDLE_IMAGE = 64, 128
"""Largest image sides for IDC's first and second stem; larger images use the third."""


class Residual(nn.Module):
    """ReLU of the sum of two paths with outputs of the same shape [N, C, H, W]."""

    def __init__(self, path: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.path = path
        self.shortcut = shortcut
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.activation(self.path(x) + self.shortcut(x))
        return out


Stem = Callable[[int, int, Size, ChannelNorm], list[nn.Module]]
"""Function of (channels, width, size, norm) that returns the first layers, up to the first block."""
Block = Callable[[int, int, int, ChannelNorm], Residual]
"""Function of (inputs, outputs, shrink, norm) that returns a block.

The block maps [N, inputs, H, W] to [N, outputs, H/shrink, W/shrink].
"""


@dataclass(frozen=True)
class Family:
    """Parts in which residual networks of equal depth differ: stem, blocks and initial weights."""

    stem: Stem
    block: Block
    start: WeightStart


class ResNet(Network):
    """Residual network: a stem, stages of blocks, the mean over pixels and a linear layer.

    The stages have `width` times 1, 2, 4, ... channels; each but the first halves the sides. Images are [N, channels,
    H, W], features are [N, F], where F is the number of channels of the last stage.
    """

    def __init__(
        self,
        family: Family,
        blocks: Sequence[int],
        *,
        channels: int,
        classes: int,
        size: Size,
        width: Width,
        norm: Norm,
    ) -> None:
        super().__init__()
        layers = family.stem(channels, width, size, NORMS[norm])
        inputs = width
        for stage, count in enumerate(blocks):
            outputs = width * 2**stage
            for block in range(count):
                shrink = 2 if stage and not block else 1
                layers.append(family.block(inputs, outputs, shrink, NORMS[norm]))
                inputs = outputs
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(inputs, classes)
        family.start(self)

    def embed(self, x: Tensor) -> Tensor:
        return global_average(self.features(x))


def strided_block(inputs: int, outputs: int, shrink: int, norm: ChannelNorm) -> Residual:
    """Return a block of two 3x3 convolutions; the first one has stride `shrink`.

    Where the shape changes, the shortcut is a 1x1 convolution with the same stride and a norm.
    """
    path = nn.Sequential(
        *[nn.Conv2d(inputs, outputs, kernel_size=3, stride=shrink, padding=1, bias=False), norm(outputs), nn.ReLU()],
        *[nn.Conv2d(outputs, outputs, kernel_size=3, padding=1, bias=False), norm(outputs)],
    )
    if shrink == 1 and inputs == outputs:
        return Residual(path, nn.Identity())
    narrow = nn.Conv2d(inputs, outputs, kernel_size=1, stride=shrink, bias=False)
    return Residual(path, nn.Sequential(narrow, norm(outputs)))


def pooled_block(inputs: int, outputs: int, shrink: int, norm: ChannelNorm) -> Residual:
    """Return a block of two 3x3 convolutions, with average pooling by `shrink` after the first ReLU.

    Where the shape changes, the shortcut is a 1x1 convolution, average pooling and a norm.
    """
    path = nn.Sequential(
        *[nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False), norm(outputs), nn.ReLU()],
        nn.AvgPool2d(shrink) if shrink > 1 else nn.Identity(),
        *[nn.Conv2d(outputs, outputs, kernel_size=3, padding=1, bias=False), norm(outputs)],
    )
    if shrink == 1 and inputs == outputs:
        return Residual(path, nn.Identity())
    narrow = nn.Conv2d(inputs, outputs, kernel_size=1, bias=False)
    return Residual(path, nn.Sequential(narrow, nn.AvgPool2d(shrink), norm(outputs)))


def small_stem(channels: int, width: int, size: Size, norm: ChannelNorm) -> list[nn.Module]:
    """Return the stem of the CIFAR networks: a 3x3 convolution without pooling, for images of every size."""
    return [nn.Conv2d(channels, width, kernel_size=3, padding=1, bias=False), norm(width), nn.ReLU()]


def strided_stem(channels: int, width: int, size: Size, norm: ChannelNorm) -> list[nn.Module]:
    """Return IDC's stem for ResNet.

    Up to 64 px it equals `small_stem`. Above 64 px, 3x3 max pooling follows the convolution; above 128 px, the
    convolution is 7x7 with stride 2.
    """
    kernel, stride = (7, 2) if max(sides(size)) > MIDDLE_IMAGE else (3, 1)
    conv = nn.Conv2d(channels, width, kernel_size=kernel, stride=stride, padding=kernel // 2, bias=False)
    pooling = [nn.MaxPool2d(kernel_size=3, stride=2, padding=1)] if max(sides(size)) > SMALL_IMAGE else []
    return [conv, norm(width), nn.ReLU(), *pooling]


def pooled_stem(channels: int, width: int, size: Size, norm: ChannelNorm) -> list[nn.Module]:
    """Return IDC's stem for ResNetAP.

    Up to 64 px it equals `small_stem`. Above 64 px, 2x2 average pooling follows the convolution; above 128 px, the
    convolution is 7x7 and the pooling 4x4.
    """
    side = max(sides(size))
    kernel, shrink = (7, 4) if side > MIDDLE_IMAGE else (3, 2 if side > SMALL_IMAGE else 1)
    conv = nn.Conv2d(channels, width, kernel_size=kernel, padding=kernel // 2, bias=False)
    pooling = [nn.AvgPool2d(shrink)] if shrink > 1 else []
    return [conv, norm(width), nn.ReLU(), *pooling]


DC_CIFAR = Family(small_stem, strided_block, torch_start)
IDC_CIFAR = Family(small_stem, strided_block, idc_start)
IDC_IMAGENET = Family(strided_stem, strided_block, idc_start)
IDC_POOLED = Family(pooled_stem, pooled_block, idc_start)

RESNET10, RESNET18 = (1, 1, 1, 1), (2, 2, 2, 2)
"""Number of blocks in each of the four stages."""

resnet10_cifar = partial(ResNet, IDC_CIFAR, RESNET10, width=32, norm="batch")
"""IDC's ResNet-10 for CIFAR; with `width=64`, IDC's network for SVHN."""

resnet18_cifar = partial(ResNet, DC_CIFAR, RESNET18, width=64, norm="batch")
"""DC's ResNet-18, with torch's default initialisation; DC's cross-architecture table uses `norm=instance`."""

resnet10 = partial(ResNet, IDC_IMAGENET, RESNET10, width=64, norm="batch")
"""IDC's ResNet-10 for all data sets but CIFAR; the stem depends on the side of the images."""

resnet18 = partial(ResNet, IDC_IMAGENET, RESNET18, width=64, norm="batch")
"""IDC's ResNet-18 for all data sets but CIFAR; the stem depends on the side of the images."""

resnet10_ap = partial(ResNet, IDC_POOLED, RESNET10, width=64, norm="instance")
"""ResNetAP-10, IDC's network for ImageNet subsets."""

resnet18_ap = partial(ResNet, IDC_POOLED, RESNET18, width=64, norm="instance")
"""ResNetAP-18: `resnet10_ap` with two blocks in each stage."""
