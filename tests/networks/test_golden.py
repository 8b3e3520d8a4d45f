"""Logits and initial weights of the papers' networks against small loops in float64 that read only the weights, in
order.

Each loop is written from the papers and from the behaviour of the published programs; a planted error (another stride,
pooling, padding, epsilon or start) is shown to be noticed.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dist_condense import networks

CLASSES = 5


def prepared(text: str, size: int) -> networks.Network:
    """Build a network with norms and biases away from 1 and 0, and running variances for which epsilon matters."""
    network = networks.build(text, channels=3, size=size, classes=CLASSES, seed=1).double().eval()
    keyed = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.rand(parameter.shape, generator=keyed, dtype=torch.float64)
        for name, buffer in network.named_buffers():
            if name.endswith("running_mean"):
                buffer += 0.1 * torch.rand(buffer.shape, generator=keyed, dtype=torch.float64)
            if name.endswith("running_var"):
                buffer.copy_(0.01 + 0.1 * torch.rand(buffer.shape, generator=keyed, dtype=torch.float64))
    return network


def images(size: int) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def differs(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() > 1e-6 * a.abs().max())


def instance(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return (x - mean) / sqrt(variance + 1e-5) over the pixels of a channel, scaled and shifted."""
    centred = x - x.mean(dim=(2, 3), keepdim=True)
    scale = (centred.square().mean(dim=(2, 3), keepdim=True) + 1e-5).rsqrt()
    return centred * scale * weight.view(1, -1, 1, 1) + bias.view(1, -1, 1, 1)


def conv(x: Tensor, weight: Tensor, stride: int = 1) -> Tensor:
    return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)


POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "max": lambda x: F.max_pool2d(x, 3, stride=2, padding=1),
    "avg2": lambda x: F.avg_pool2d(x, 2),
    "avg4": lambda x: F.avg_pool2d(x, 4),
}


def residual_network(
    network: nn.Module, x: Tensor, depth: int, kernel: int, stride: int, pool: str, pooled: bool, step: int = 2
) -> Tensor:
    """Compute stem, four stages of `depth` blocks, mean, linear layer; a stage halves by stride or average pooling."""
    weights: Iterator[Tensor] = iter(network.parameters())
    first = next(weights)
    assert first.shape[-1] == kernel
    x = POOLS[pool](F.relu(instance(conv(x, first, stride), next(weights), next(weights))))
    for stage in range(4):
        for block in range(depth):
            shrink = step if stage > 0 and block == 0 else 1
            by_stride, by_mean = (1, shrink) if pooled else (shrink, 1)
            y = F.relu(instance(conv(x, next(weights), by_stride), next(weights), next(weights)))
            y = F.avg_pool2d(y, by_mean)
            y = instance(conv(y, next(weights)), next(weights), next(weights))
            if stage > 0 and block == 0:
                x = F.avg_pool2d(conv(x, next(weights), by_stride), by_mean)
                x = instance(x, next(weights), next(weights))
            x = F.relu(x + y)
    return x.mean(dim=(2, 3)) @ next(weights).T + next(weights)


STEMS: list[tuple[str, int, dict[str, Any]]] = [
    *[(name, 32, {"kernel": 3, "stride": 1, "pool": "none", "pooled": False}) for name in ("resnet10", "resnet18")],
    *[("resnet10_cifar", size, {"kernel": 3, "stride": 1, "pool": "none", "pooled": False}) for size in (32, 80)],
    *[("resnet18_cifar", size, {"kernel": 3, "stride": 1, "pool": "none", "pooled": False}) for size in (32, 80)],
    *[("resnet10", size, {"kernel": 3, "stride": 1, "pool": "none", "pooled": False}) for size in (28, 64)],
    *[("resnet10", size, {"kernel": 3, "stride": 1, "pool": "max", "pooled": False}) for size in (65, 128)],
    *[("resnet10", size, {"kernel": 7, "stride": 2, "pool": "max", "pooled": False}) for size in (129, 160)],
    *[("resnet10_ap", size, {"kernel": 3, "stride": 1, "pool": "none", "pooled": True}) for size in (32, 64)],
    *[("resnet10_ap", size, {"kernel": 3, "stride": 1, "pool": "avg2", "pooled": True}) for size in (65, 128)],
    *[("resnet10_ap", size, {"kernel": 7, "stride": 1, "pool": "avg4", "pooled": True}) for size in (129, 160)],
    ("resnet18_ap", 96, {"kernel": 3, "stride": 1, "pool": "avg2", "pooled": True}),
]


@pytest.mark.parametrize(("name", "size", "formula"), STEMS)
def test_residual_networks(name: str, size: int, formula: dict[str, Any]) -> None:
    network, x = prepared(f"{name}:width=4:norm=instance", size), images(size)
    depth = 2 if "18" in name else 1
    planted = [{"stride": 3 - formula["stride"]}, {"pooled": not formula["pooled"]}, {"step": 1}]
    planted += [{"pool": pool} for pool in POOLS if pool != formula["pool"]]
    with torch.no_grad():
        logits = network(x)
        torch.testing.assert_close(logits, residual_network(network, x, depth, **formula), rtol=1e-10, atol=1e-10)
        for wrong in planted:
            assert differs(logits, residual_network(network, x, depth, **{**formula, **wrong})), wrong


def dense_network(network: nn.Module, x: Tensor, blocks: tuple[int, ...], pool: int = 2) -> Tensor:
    """Compute a 3x3 convolution, layers of norm, ReLU, 1x1, norm, ReLU, 3x3, whose maps come first, and transitions."""
    weights = iter(network.parameters())
    x = conv(x, next(weights))
    for block, depth in enumerate(blocks):
        if block:
            x = F.avg_pool2d(conv(F.relu(instance(x, next(weights), next(weights))), next(weights)), pool)
        for _ in range(depth):
            y = conv(F.relu(instance(x, next(weights), next(weights))), next(weights))
            y = conv(F.relu(instance(y, next(weights), next(weights))), next(weights))
            x = torch.cat([y, x], dim=1)
    x = F.relu(instance(x, next(weights), next(weights))).mean(dim=(2, 3))
    return x @ next(weights).T + next(weights)


def test_densenet() -> None:
    network, x = prepared("densenet121:growth=2:norm=instance", 32), images(32)
    with torch.no_grad():
        logits = network(x)
        torch.testing.assert_close(logits, dense_network(network, x, (6, 12, 24, 16)), rtol=1e-10, atol=1e-10)
        assert differs(logits, dense_network(network, x, (6, 12, 24, 16), pool=1))


STAGES = [(1, 3, 1, 1), (6, 3, 2, 2), (6, 5, 2, 2), (6, 3, 2, 3), (6, 5, 1, 3), (6, 5, 2, 4), (6, 3, 1, 1)]
"""Stages of EfficientNet-B0: expansion, side of the kernel, stride, blocks."""


def efficient_network(network: nn.Module, x: Tensor, epsilon: float = 1e-3, odd_one_last: bool = True) -> Tensor:
    """Compute Tan and Le's table 1, inverted bottlenecks with squeeze and excitation, with the norms' averages."""
    weights = iter(network.parameters())
    buffers = (value for name, value in network.named_buffers() if not name.endswith("num_batches_tracked"))

    def norm(y: Tensor) -> Tensor:
        mean, variance = (next(buffers).view(1, -1, 1, 1) for _ in range(2))
        scaled = (y - mean) / (variance + epsilon).sqrt() * next(weights).view(1, -1, 1, 1)
        return scaled + next(weights).view(1, -1, 1, 1)

    def same(y: Tensor, stride: int, groups: int = 1) -> Tensor:
        weight = next(weights)
        total = max((-(-y.shape[-1] // stride) - 1) * stride + weight.shape[-1] - y.shape[-1], 0)
        pad = (total // 2, total - total // 2) if odd_one_last else (total - total // 2, total // 2)
        return F.conv2d(F.pad(y, (*pad, *pad)), weight, stride=stride, groups=groups)

    x = F.silu(norm(same(x, 2)))
    for expansion, _, first_stride, blocks in STAGES:
        for block in range(blocks):
            stride = first_stride if block == 0 else 1
            y = F.silu(norm(same(x, 1))) if expansion > 1 else x
            y = F.silu(norm(same(y, stride, groups=y.shape[1])))
            gate = y.mean(dim=(2, 3), keepdim=True)
            gate = F.silu(F.conv2d(gate, next(weights), next(weights)))
            y = norm(same(y * F.conv2d(gate, next(weights), next(weights)).sigmoid(), 1))
            x = x + y if block else y
    x = F.silu(norm(same(x, 1))).mean(dim=(2, 3))
    return x @ next(weights).T + next(weights)


@pytest.mark.parametrize("size", [33, 64])
def test_efficientnet(size: int) -> None:
    network, x = prepared("efficientnet_b0", size), images(size)
    with torch.no_grad():
        logits = network(x)
        torch.testing.assert_close(logits, efficient_network(network, x), rtol=1e-9, atol=1e-9)
        assert differs(logits, efficient_network(network, x, epsilon=1e-5))
        assert size % 2 or differs(logits, efficient_network(network, x, odd_one_last=False))
        symmetric = networks.build("torchvision_efficientnet_b0", channels=3, size=size, classes=CLASSES, seed=1)
        assert differs(logits, symmetric.double().eval()(x))


def test_running_averages_of_efficientnet_move_by_a_hundredth() -> None:
    network, x = networks.build("efficientnet_b0", channels=3, size=32, classes=CLASSES, seed=1).double(), images(32)
    stem = next(iter(network.parameters()))
    with torch.no_grad():
        network.train()(x)
        mean = F.conv2d(F.pad(x, (0, 1, 0, 1)), stem, stride=2).mean(dim=(0, 2, 3))
    moved = next(value for name, value in network.named_buffers() if name.endswith("running_mean"))
    torch.testing.assert_close(moved, 0.01 * mean)


STARTS = {
    "idc": ["resnet10:width=16", "resnet18:width=16", "resnet10_cifar", "resnet10_ap:width=16", "resnet18_ap:width=16"],
    "torch": ["resnet18_cifar:width=16", "densenet121", "efficientnet_b0", "convnet", "alexnet", "vgg11:width=16"],
}


@pytest.mark.parametrize(("start", "text"), [(start, text) for start, texts in STARTS.items() for text in texts])
def test_start_of_the_convolutions(start: str, text: str) -> None:
    """IDC's: variance 2 / (k k out); torch's: uniform within 1 / sqrt(k k in), so variance 1 / (3 k k in)."""
    network = networks.build(text, channels=3, size=64, classes=CLASSES, seed=1)
    weights = [p.detach() for p in network.parameters() if p.dim() == 4 and p.numel() > 4000]
    assert weights
    for weight in weights:
        fan_in, fan_out = weight[0].numel(), weight.numel() // weight.shape[1]
        variances = {"idc": 2 / fan_out, "torch": 1 / (3 * fan_in)}
        right = variances.pop(start)
        assert weight.var().item() == pytest.approx(right, rel=0.12)
        others = [
            wrong for wrong in variances.values() if wrong != pytest.approx(right, rel=0.3)
        ]  # equal where 6 in = out
        assert all(weight.var().item() != pytest.approx(wrong, rel=0.12) for wrong in others)
        assert (weight.abs().max() <= fan_in**-0.5) == (start == "torch")
