"""Common parts of the networks: `embed` and `forward`, feature sizes, and initialisation of weights."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn


class Network(nn.Module):
    """Classifier in two steps: `embed` returns the features before the last layer, `classifier` maps them to logits."""

    classifier: nn.Module

    def embed(self, x: Tensor) -> Tensor:
        """Map images [N, C, H, W] to features [N, F]."""
        raise NotImplementedError(f"{type(self).__name__} must define embed(x) -> [N, F].")

    def forward(self, x: Tensor) -> Tensor:
        """Map images [N, C, H, W] to logits [N, classes]."""
        logits: Tensor = self.classifier(self.embed(x))
        return logits


Size = int | tuple[int, int]
"""Side of square images in pixels, or height and width."""


def sides(size: Size) -> tuple[int, int]:
    """Return height and width."""
    return (size, size) if isinstance(size, int) else size


SMALL = 10**9
"""Number of multiply-adds, at most one for each weight and pixel, up to which computing takes less time than inferring
shapes on the meta device, for which torch imports its compiler (1.4 s)."""


class SizeError(ValueError):
    """Error for images whose size does not suit a network."""


def output_shape(module: nn.Module, channels: int, size: Size) -> torch.Size:
    """Return the shape of a module's output for one image of `channels` x height x width.

    A small module (:data:`SMALL`) computes it on zeros. For others it is inferred on the meta device, without values.
    No buffer changes and no random number is drawn. Raises the module's own error if the image is too small.
    """
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    most = sum(x.numel() for x in tensors.values()) * math.prod(sides(size))
    device = "cpu" if most <= SMALL else "meta"
    zeros = {name: torch.zeros_like(tensor, device=device) for name, tensor in tensors.items()}
    image = torch.zeros(1, channels, *sides(size), device=device)
    training = module.training
    module.eval()
    try:
        with torch.no_grad(), torch.device(device):
            output: Tensor = torch.func.functional_call(module, zeros, (image,))
    finally:
        module.train(training)
    return output.shape


def check_size(module: nn.Module, channels: int, size: Size) -> torch.Size:
    """Return the shape of a module's output for one image; raise SizeError if the image does not suit the module."""
    try:
        return output_shape(module, channels, size)
    except Exception as error:  # other people's networks raise any exception
        height, width = sides(size)
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SizeError(f"images of {channels} x {height} x {width} do not suit it ({reason})") from error


def weight_bytes(network: nn.Module) -> int:
    """Return the number of bytes of a network's parameters and buffers."""
    return sum(x.numel() * x.element_size() for x in (*network.parameters(), *network.buffers()))


def outputs(network: nn.Module, channels: int, size: Size) -> list[int]:
    """Return the number of elements of the output of each layer for one image, 0 first; no values are computed."""
    numbers = [0]

    def count(layer: nn.Module, inputs: object, output: object) -> None:
        numbers.append(output.numel() if isinstance(output, Tensor) else 0)

    hooks = [layer.register_forward_hook(count) for layer in network.modules() if not any(layer.children())]
    try:
        output_shape(network, channels, size)
    finally:
        for hook in hooks:
            hook.remove()
    return numbers


def largest_output(network: nn.Module, channels: int, size: Size) -> int:
    """Return the number of elements of the largest output of a layer for one image; no values are computed."""
    return max(outputs(network, channels, size))


def feature_count(features: nn.Module, channels: int, size: Size) -> int:
    """Return the number of elements F in the output of `features` for one image."""
    return check_size(features, channels, size).numel()


def first_padding(channels: int, otherwise: int) -> int:
    """Return the padding of a network's first convolution.

    It is `otherwise`, or 2 more for one input channel, so that 28 px become 32 (DC).
    """
    return otherwise + 2 if channels == 1 else otherwise


def global_average(x: Tensor) -> Tensor:
    """Average feature maps [N, C, H, W] over their pixels to [N, C]."""
    return x.mean(dim=(2, 3))


WeightStart = Callable[[nn.Module], None]
"""Function that initialises the weights of a network, after torch's own initialisation."""


def torch_start(network: nn.Module) -> None:
    """Keep torch's default initialisation: convolution weights are uniform with variance 1 / (3 fan_in)."""


def idc_start(network: nn.Module) -> None:
    """Initialise convolutions as in IDC's residual networks: normal with mean 0 and variance 2 / fan_out.

    Norms keep weight 1 and bias 0, and linear layers keep torch's default initialisation.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = math.prod(module.kernel_size) * module.out_channels
            nn.init.normal_(module.weight, mean=0.0, std=math.sqrt(2.0 / fan_out))
