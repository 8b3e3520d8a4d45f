"""The methods' formulas in plain torch, written from the papers, without dist_condense.

theta is a list of tensors, in the order of a ConvNet's ``parameters()``: for each block the weight and bias of its
convolution and of its norm, then the weight and bias of the linear layer.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

Theta = list[Tensor]
Averages = list[tuple[Tensor, Tensor]]
"""Running mean and variance of each block's BatchNorm, moved in place."""


def fresh_averages(theta: Theta) -> Averages:
    """Return mean 0 and variance 1 for each block."""
    return [(torch.zeros_like(bias), torch.ones_like(bias)) for bias in theta[1:-2:4]]


def features(theta: Theta, x: Tensor, averages: Averages | None = None, training: bool = False) -> Tensor:
    """Compute a ConvNet with sigmoid and average pooling; instance norm, or BatchNorm where ``averages`` are given."""
    for b in range(len(theta) // 4):
        weight, bias, scale, shift = (p for p in theta[4 * b : 4 * b + 4])
        x = F.conv2d(x, weight, bias, padding=1)
        mean, var = moments(x, averages[b] if averages else None, training)
        x = (x - mean) / (var + 1e-5).sqrt() * scale[:, None, None] + shift[:, None, None]
        x = 1 / (1 + (-x).exp())
        x = (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4
    return x.flatten(1)


def moments(x: Tensor, average: tuple[Tensor, Tensor] | None, training: bool) -> tuple[Tensor, Tensor]:
    """Return the mean and variance of a norm; BatchNorm in training moves its averages by 0.1, variance unbiased."""
    if average is None:
        mean = x.mean((2, 3), keepdim=True)
        return mean, (x - mean).square().mean((2, 3), keepdim=True)
    if not training:
        return average[0][:, None, None], average[1][:, None, None]
    mean = x.mean((0, 2, 3), keepdim=True)
    var = (x - mean).square().mean((0, 2, 3), keepdim=True)
    count = x.numel() / x.shape[1]
    average[0].mul_(0.9).add_(0.1 * mean.detach().flatten())
    average[1].mul_(0.9).add_(0.1 * var.detach().flatten() * count / (count - 1))
    return mean, var


def logits(theta: Theta, x: Tensor, averages: Averages | None = None, training: bool = False) -> Tensor:
    return features(theta, x, averages, training) @ theta[-2].T + theta[-1]


def cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of each image, ``[n]``."""
    return scores.exp().sum(1).log() - scores[torch.arange(len(labels)), labels]


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Map [0, 1] to normalised space, channel by channel."""
    channels = [(images[:, c] - m) / s for c, (m, s) in enumerate(zip(mean, std, strict=True))]
    return torch.stack(channels, 1)


# --- training -----------------------------------------------------------------------------------------------------


@dataclass
class SGD:
    """theta <- theta - lr * b,  b <- m * b + g + decay * theta."""

    lr: float
    momentum: float = 0.0
    decay: float = 0.0
    buffers: list[Tensor] = field(default_factory=list)

    def step(self, theta: Theta, gradients: list[Tensor]) -> None:
        self.buffers = self.buffers or [torch.zeros_like(p) for p in theta]
        for p, g, b in zip(theta, gradients, self.buffers, strict=True):
            b.copy_(self.momentum * b + g + self.decay * p)
            p.sub_(self.lr * b)


Box = tuple[int, int, int, int]
"""Rows from and to, columns from and to."""


def update(
    theta: Theta,
    optimiser: SGD,
    images: Tensor,
    labels: Tensor,
    mix: tuple[Tensor, Box] | None = None,
    averages: Averages | None = None,
) -> None:
    """Take a step on the mean cross-entropy of a batch; with CutMix (partners, box) weighted by the box's true area."""
    leaves = [p.clone().requires_grad_() for p in theta]
    if mix is None:
        loss = cross_entropy(logits(leaves, images, averages, training=True), labels)
    else:
        partner, (top, bottom, left, right) = mix
        mixed = images.clone()
        for i, j in enumerate(partner.tolist()):
            mixed[i, :, top:bottom, left:right] = images[j, :, top:bottom, left:right]
        share = (bottom - top) * (right - left) / images[0, 0].numel()
        scores = logits(leaves, mixed, averages, training=True)
        loss = (1 - share) * cross_entropy(scores, labels) + share * cross_entropy(scores, labels[partner])
    optimiser.step(theta, list(torch.autograd.grad(loss.mean(), leaves)))


# --- augmentation and decoding ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Augmentation:
    """Parameters of one augmentation for each of n images, or of one for all."""

    brightness: list[float]
    saturation: list[float]
    contrast: list[float]
    warp: list[list[list[float]]]
    """Map from output to input coordinates in [-1, 1]."""
    cut: list[list[list[int]]]
    """Rows from and to; columns from and to."""

    def __call__(self, images: Tensor) -> Tensor:
        n = len(self.brightness)
        assert n in (1, len(images)), f"{n} augmentations for {len(images)} images"
        return torch.cat([self._of_one(x[None], i % n) for i, x in enumerate(images)])

    def _of_one(self, x: Tensor, i: int) -> Tensor:
        x = x + self.brightness[i]
        grey = x.mean(1, keepdim=True)
        x = (x - grey) * self.saturation[i] + grey
        x = (x - x.mean()) * self.contrast[i] + x.mean()
        grid = F.affine_grid(torch.tensor([self.warp[i]], dtype=x.dtype), list(x.shape), align_corners=False)
        x = F.grid_sample(x, grid, align_corners=False)
        (top, bottom), (left, right) = self.cut[i]
        keep = torch.ones_like(x)
        keep[..., top:bottom, left:right] = 0
        return x * keep


def tiles(images: Tensor, factor: int) -> Tensor:
    """Cut images for multi-formation: all images' first tile, then all second tiles; the factor divides the side."""
    side = images.shape[-1]
    small = side // factor
    cuts = [slice(i * small, (i + 1) * small) for i in range(factor)]
    cut = [images[:, :, rows, columns] for rows in cuts for columns in cuts]
    return F.interpolate(torch.cat(cut), size=(side, side), mode="bilinear", align_corners=False)


# --- matching -----------------------------------------------------------------------------------------------------


def gradients(
    theta: Theta, images: Tensor, label: int, dimensions: tuple[int, ...], averages: Averages | None, graph: bool
) -> list[Tensor]:
    """Return the gradient of a class's mean cross-entropy by the parameters with these numbers of dimensions."""
    leaves = [p.clone().requires_grad_() for p in theta]
    selected = [p for p in leaves if p.ndim in dimensions]
    labels = torch.full((len(images),), label)
    loss = cross_entropy(logits(leaves, images, averages), labels).mean()
    return list(torch.autograd.grad(loss, selected, create_graph=graph))


def mean_of(statistics: list[list[Tensor]]) -> list[Tensor]:
    """Average the statistics of the classes of a group, layer by layer."""
    return [sum(layers[1:], layers[0]) / len(layers) for layers in zip(*statistics, strict=True)]


def layerwise_cosine(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """Sum 1 - <a, b> / (|a| |b| + 1e-6) over layers and over their rows, the output channels."""
    total = torch.zeros((), dtype=torch.float64)
    for x, y in zip(a, b, strict=True):
        u, v = x.reshape(len(x), -1), y.reshape(len(y), -1)
        lengths = ((u * u).sum(1) * (v * v).sum(1)).sqrt()
        total = total + (1 - (u * v).sum(1) / (lengths + 1e-6)).sum()
    return total


def sum_squared(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """Sum (a - b)^2 over everything."""
    return torch.stack([(x - y).pow(2).sum() for x, y in zip(a, b, strict=True)]).sum()


def sum_absolute(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """Sum |a - b| over everything."""
    return torch.stack([(x - y).abs().sum() for x, y in zip(a, b, strict=True)]).sum()
