"""What the networks share: `embed` and `forward`, parts chosen by name, the size of features, the start."""

import math
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

Part = TypeVar("Part")


class Network(nn.Module):
    """A classifier in two steps: `embed` gives the features before the last layer, `classifier` logits."""

    classifier: nn.Module

    def embed(self, x: Tensor) -> Tensor:
        """Images [N, C, H, W] to features [N, F]."""
        raise NotImplementedError(f"{type(self).__name__} must define embed(x) -> [N, F].")

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, C, H, W] to logits [N, classes]."""
        logits: Tensor = self.classifier(self.embed(x))
        return logits


def choose(parts: Mapping[str, Part], name: str, key: str) -> Part:
    """The part called `name`; `key` is the option that named it (norm, activation, pooling)."""
    if name not in parts:
        raise ValueError(f"network.{key} is {name!r}, which is unknown here: set it to one of {', '.join(parts)}.")
    return parts[name]


def output_shape(module: nn.Module, channels: int, size: int) -> torch.Size:
    """Shape of the output for one image of `channels` x `size` x `size`, computed on the meta device.

    Nothing is calculated, no buffer moves and no random number is drawn. Raises what the module raises when
    the image is too small for it.
    """
    held = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    on_meta = {name: tensor.to("meta") for name, tensor in held.items()}
    image = torch.zeros(1, channels, size, size, device="meta")
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            output: Tensor = torch.func.functional_call(module, on_meta, (image,))
    finally:
        module.train(training)
    return output.shape


def check_size(module: nn.Module, name: str, channels: int, size: int) -> torch.Size:
    """`output_shape`, or a `ValueError` that says the image does not suit the network and what to change."""
    try:
        return output_shape(module, channels, size)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise ValueError(
            f"{name} cannot take images of {channels} x {size} x {size} (usually too small: {error}). "
            "Raise dataset.size, lower network.depth where there is one, or choose another network.name."
        ) from error


def feature_count(features: nn.Module, name: str, channels: int, size: int) -> int:
    """Number of features F of one image once the output of `features` is flattened."""
    return check_size(features, name, channels, size).numel()


def first_padding(channels: int, otherwise: int) -> int:
    """Padding of a first convolution: 2 more for ONE input channel, so that 28 becomes 32 (DC's programs)."""
    return otherwise + 2 if channels == 1 else otherwise


def global_average(x: Tensor) -> Tensor:
    """Feature maps [N, C, H, W] to their means [N, C]."""
    return x.mean(dim=(2, 3))


def initialise(network: nn.Module) -> None:
    """IDC's start of residual networks: convolutions with variance 2 / (k * k * out), mean 0.

    Norms stay at 1 and 0 and linear layers at torch's default, as they were made.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = math.prod(module.kernel_size) * module.out_channels
            nn.init.normal_(module.weight, mean=0.0, std=math.sqrt(2.0 / fan_out))
