"""Statistics phi of a batch of one class, the second choice of the equation: what is matched.

``phi(network, images, labels)`` is a list of tensors, differentiable in ``images`` and not in the network, which
is read and left as it is. ``images`` are ``[n, C, H, W]`` in normalised space; ``labels`` are int64 ``[n]``, or
class probabilities ``[n, classes]``, in which phi is differentiable, too. Both statistics are means over the
images, so microbatches add up with weights n_i / n.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Parameters = Callable[[str, Tensor], bool]

PARAMETERS: dict[str, Parameters] = {
    # DC, DSA, DCC: bias and norm give 0 in the layerwise cosine; not computing them gives the same number.
    "matrices": lambda name, parameter: parameter.ndim >= 2,
    # IDC: neither bias and norm nor the classifier.
    "convolutions": lambda name, parameter: parameter.ndim == 4,
    "all": lambda name, parameter: True,
}


class Statistic(Protocol):
    """phi: a class batch to a list of tensors."""

    @property
    def batch_statistics(self) -> bool:
        """Whether a BatchNorm layer would be read in training mode, which couples all images of a batch."""
        ...

    @property
    def reads_labels(self) -> bool:
        """Whether phi depends on the labels, so that these can be learnt."""
        ...

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor) -> list[Tensor]: ...

    def value(self, network: nn.Module, images: Tensor, labels: Tensor) -> list[Tensor]:
        """The same numbers without a way back to the images, for real images."""
        ...


@dataclass(frozen=True)
class Gradient:
    """Gradient of the mean cross-entropy with respect to the selected parameters (DC eq. 5, IDC eq. 3)."""

    parameters: Parameters
    batch_statistics: bool = False
    reads_labels: bool = True

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor) -> list[Tensor]:
        chosen, rest = self._parameters(network)
        return list(torch.func.grad(_loss)(chosen, rest, network, images, labels).values())

    def value(self, network: nn.Module, images: Tensor, labels: Tensor) -> list[Tensor]:
        """By an ordinary backward: a functional one also records itself, and rounds differently in the last bit."""
        chosen, rest = self._parameters(network)
        chosen = {name: p.requires_grad_() for name, p in chosen.items()}
        with torch.enable_grad():
            loss = _loss(chosen, rest, network, images, labels)
        return list(torch.autograd.grad(loss, list(chosen.values())))

    def _parameters(self, network: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Those that count and the others, detached."""
        parameters = {name: p.detach() for name, p in network.named_parameters()}
        chosen = {name: p for name, p in parameters.items() if self.parameters(name, p)}
        return chosen, {name: p for name, p in parameters.items() if name not in chosen}


@dataclass(frozen=True)
class Embedding:
    """Mean feature before the classifier (DM eq. 5). One tensor of shape ``[features]``."""

    batch_statistics: bool = True
    reads_labels: bool = False

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor) -> list[Tensor]:
        embed: Callable[[Tensor], Tensor] = network.embed  # type: ignore[assignment]
        return [embed(images).mean(0)]

    value = __call__


STATISTICS: dict[str, Callable[[Parameters], Statistic]] = {
    "gradient": Gradient,
    "embedding": lambda parameters: Embedding(),
}
"""By the parameters that a gradient is taken of."""


def _loss(
    chosen: dict[str, Tensor], rest: dict[str, Tensor], network: nn.Module, images: Tensor, labels: Tensor
) -> Tensor:
    logits = torch.func.functional_call(network, {**rest, **chosen}, (images,))
    return F.cross_entropy(logits, labels)
