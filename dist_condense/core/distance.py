"""Distances of DC, DCC, DM and IDC between two statistics, each a list of tensors (one per layer).

``a`` is the statistic of the synthetic images, ``b`` that of the real ones. A layer of shape ``[rows, ...]`` is read as
a matrix with one row per output channel. Every distance returns a scalar.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Layers = Sequence[Tensor]
Compare = Callable[[Layers, Layers], Tensor]


def layerwise_cosine(a: Layers, b: Layers) -> Tensor:
    """Sum 1 - <a,b>/(|a||b| + 1e-6) over rows and over layers of >= 2 dimensions (DC eq. 7-8; "cos" in IDC's program).

    Layers of one dimension (bias, norm) contribute 0, as in DC's program.
    """
    return torch.stack([_cosine_rows(x, y) for x, y in zip(a, b, strict=True) if x.ndim >= 2]).sum()


def _cosine_rows(a: Tensor, b: Tensor) -> Tensor:
    a, b = a.flatten(1), b.flatten(1)
    return (1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-6)).sum()


def flat_cosine(a: Layers, b: Layers) -> Tensor:
    """Return 1 - cosine of all layers, concatenated to one vector ("cos" in DC's program)."""
    x, y = _flat(a), _flat(b)
    return 1 - (x * y).sum() / (x.norm() * y.norm() + 1e-6)


def sum_squared(a: Layers, b: Layers) -> Tensor:
    """Sum the squared differences, without a mean ("mse" in DC's and IDC's programs; DM eq. 5)."""
    return torch.stack([(x - y).square().sum() for x, y in zip(a, b, strict=True)]).sum()


def sum_absolute(a: Layers, b: Layers) -> Tensor:
    """Sum the absolute differences ("l1" in IDC's program)."""
    return torch.stack([(x - y).abs().sum() for x, y in zip(a, b, strict=True)]).sum()


def mean_absolute(a: Layers, b: Layers) -> Tensor:
    """Average the absolute differences over each row and sum over rows ("l1_mean" in IDC's program).

    A layer of one dimension is treated as one row.
    """
    return torch.stack([_rows(x - y).abs().mean(1).sum() for x, y in zip(a, b, strict=True)]).sum()


def _rows(x: Tensor) -> Tensor:
    return x.flatten(1) if x.ndim >= 2 else x.flatten()[None]


def _flat(layers: Layers) -> Tensor:
    return torch.cat([layer.flatten() for layer in layers])


@dataclass(frozen=True)
class Distance:
    """A distance, and the layers that it can compare.

    :param compare: function of the two statistics.
    :param dimensions: least number of dimensions of a layer that contributes.
    """

    compare: Compare
    dimensions: int = 1

    def __call__(self, a: Layers, b: Layers) -> Tensor:
        return self.compare(a, b)

    def applies(self, dimensions: Iterable[int]) -> bool:
        """Return whether at least one layer contributes, given the number of dimensions of each layer."""
        return any(number >= self.dimensions for number in dimensions)


DISTANCES: dict[str, Distance] = {
    "layerwise_cosine": Distance(layerwise_cosine, dimensions=2),
    "flat_cosine": Distance(flat_cosine),
    "sum_squared": Distance(sum_squared),
    "sum_absolute": Distance(sum_absolute),
    "mean_absolute": Distance(mean_absolute),
}
"""Distances by name."""
