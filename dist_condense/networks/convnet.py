"""ConvNet-D, the network of "Dataset Condensation with Gradient Matching" (DC, Zhao et al. 2021)."""

from collections.abc import Callable
from math import prod
from typing import Annotated

from torch import Tensor, nn

from dist_condense.networks.base import Network, Size, SizeError, first_padding, sides
from dist_condense.networks.norms import SIZED_NORMS, SizedNormName
from dist_condense.networks.text import Depth, Width

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "relu": nn.ReLU,
    "leaky": lambda: nn.LeakyReLU(negative_slope=0.01),
    "swish": nn.SiLU,
}

POOLINGS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "none": (nn.Identity, 1),
    "max": (lambda: nn.MaxPool2d(kernel_size=2, stride=2), 2),
    "avg": (lambda: nn.AvgPool2d(kernel_size=2, stride=2), 2),
}
"""Pooling layers by name, each with its stride."""


class ConvNet(Network):
    """`depth` blocks of 3x3 convolution, norm, activation and pooling, then one linear layer.

    Images are [N, channels, H, W]; `size` is (H, W), or a number for both. With one channel, the first convolution pads
    3, so 28 px become 32 and 64 become 68. Weights keep torch's default initialisation. The last pooling returns [N,
    width, h, w], flattened to width * h * w features.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        size: Size,
        *,
        width: Width = 128,
        depth: Depth = 3,
        norm: SizedNormName = "instance",
        activation: Annotated[str, ACTIVATIONS] = "relu",
        pooling: Annotated[str, POOLINGS] = "avg",
    ) -> None:
        super().__init__()
        make_norm, make_activation = SIZED_NORMS[norm], ACTIVATIONS[activation]
        make_pooling, shrink = POOLINGS[pooling]
        sizes = _sizes(channels, size, depth, shrink)
        layers: list[nn.Module] = []
        for block, maps in enumerate(sizes[:-1]):
            inputs, padding = (width, 1) if block else (channels, first_padding(channels, 1))
            layers += [nn.Conv2d(inputs, width, kernel_size=3, padding=padding), make_norm(width, maps)]
            layers += [make_activation(), make_pooling()]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(width * prod(sizes[-1]), classes)

    def embed(self, x: Tensor) -> Tensor:
        features: Tensor = self.features(x)
        return features.flatten(start_dim=1)


def _sizes(channels: int, size: Size, depth: int, shrink: int) -> list[tuple[int, int]]:
    """Return the height and width of the feature maps in each block, followed by those after the last block."""
    padded = 2 * (first_padding(channels, 1) - 1)
    height, width = (side + padded for side in sides(size))
    if (first := min(height, width)) < shrink**depth:
        deepest = max(first.bit_length() - 1, 0)
        raise SizeError(
            f"depth {depth} halves images of side {first} (dataset.size {min(sides(size))}) to nothing: set depth to "
            f"{deepest} or less, or dataset.size to {2**depth} or more"
        )
    return [(height // shrink**block, width // shrink**block) for block in range(depth + 1)]
