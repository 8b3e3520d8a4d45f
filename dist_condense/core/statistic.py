"""Statistics phi of a batch of one class: the quantity that is matched.

``phi(network, images, labels)`` returns a list of tensors that is differentiable in ``images`` but not in the network,
which is not changed. ``images`` are ``[n, C, H, W]`` in normalised space; ``labels`` are int64 ``[n]``, or class
probabilities ``[n, classes]``, in which phi is differentiable, too. Each statistic is a mean over the images, so phi of
a batch is the sum of its microbatches' phi with weights n_i / n.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Parameters = Callable[[str, Tensor], bool]

PARAMETERS: dict[str, Parameters] = {
    # DC, DSA, DCC: biases and norms contribute 0 to the layerwise cosine, so omitting them changes nothing.
    "matrices": lambda name, parameter: parameter.ndim >= 2,
    # IDC: without biases, norms and the classifier.
    "convolutions": lambda name, parameter: parameter.ndim == 4,
    "all": lambda name, parameter: True,
}


class Statistic(Protocol):
    """Statistic phi: a map from a batch of one class to a list of tensors."""

    @property
    def batch_statistics(self) -> bool:
        """Whether BatchNorm layers must be in training mode, which couples all images of a batch."""
        ...

    @property
    def reads_labels(self) -> bool:
        """Whether phi depends on the labels, so that labels can be learnt."""
        ...

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor) -> list[Tensor]: ...

    def dimensions(self, network: nn.Module) -> list[int]:
        """Return the number of dimensions of each tensor of phi, without images; empty if phi selects nothing."""
        ...

    def value(self, network: nn.Module, images: Tensor, labels: Tensor) -> list[Tensor]:
        """Return phi of real images, without an autograd graph to them."""
        ...

    def along(self, network: nn.Module, images: Tensor, labels: Tensor, *, v: Sequence[Tensor]) -> Tensor:
        """Return <phi, v>, ``[]``, without computing phi where that is possible; differentiable like phi."""
        ...


@dataclass(frozen=True)
class Gradient:
    """Gradient of the mean cross-entropy with respect to the selected parameters (DC eq. 5, IDC eq. 3)."""

    parameters: Parameters
    batch_statistics: bool = False
    reads_labels: bool = True

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor) -> list[Tensor]:
        selected, others = self._parameters(network)
        return list(torch.func.grad(_loss)(selected, others, network, images=images, labels=labels).values())

    def value(self, network: nn.Module, images: Tensor, labels: Tensor) -> list[Tensor]:
        """Compute the gradient by an ordinary backward pass.

        A functional gradient rounds differently in the last bit because it records its own graph. A compiler, which
        cannot trace a backward pass, is given the functional one.
        """
        if torch.compiler.is_compiling():
            return self(network, images, labels)
        selected, others = self._parameters(network)
        selected = {name: p.requires_grad_() for name, p in selected.items()}
        with torch.enable_grad():
            loss = _loss(selected, others, network, images=images, labels=labels)
        return list(torch.autograd.grad(loss, list(selected.values())))

    def along(self, network: nn.Module, images: Tensor, labels: Tensor, *, v: Sequence[Tensor]) -> Tensor:
        """Return the derivative of the loss in theta along v, by forward differentiation.

        Its gradient in the images is one backward pass over it (reverse over forward; MixFlow-MG, arXiv 2505.00793),
        which needs no double backward of a convolution.
        """
        selected, others = self._parameters(network)

        def loss(selected: dict[str, Tensor]) -> Tensor:
            return _loss(selected, others, network, images=images, labels=labels)

        derivative: Tensor = torch.func.jvp(loss, (selected,), (dict(zip(selected, v, strict=True)),))[1]
        return derivative

    def dimensions(self, network: nn.Module) -> list[int]:
        return [p.ndim for p in self._parameters(network)[0].values()]

    def _parameters(self, network: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the detached parameters by name: (selected parameters, all other parameters)."""
        parameters = {name: p.detach() for name, p in network.named_parameters()}
        selected = {name: p for name, p in parameters.items() if self.parameters(name, p)}
        return selected, {name: p for name, p in parameters.items() if name not in selected}


@dataclass(frozen=True)
class Embedding:
    """Mean feature before the classifier (DM eq. 5): one tensor ``[features]``."""

    batch_statistics: bool = True
    reads_labels: bool = False

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor) -> list[Tensor]:
        embed: Callable[[Tensor], Tensor] = network.embed  # type: ignore[assignment]
        return [embed(images).mean(0)]

    value = __call__

    def along(self, network: nn.Module, images: Tensor, labels: Tensor, *, v: Sequence[Tensor]) -> Tensor:
        """Return <phi, v>; phi is no derivative."""
        return (self(network, images, labels)[0] * v[0]).sum()

    def dimensions(self, network: nn.Module) -> list[int]:
        return [1]


STATISTICS: dict[str, Callable[[Parameters], Statistic]] = {
    "gradient": Gradient,
    "embedding": lambda parameters: Embedding(),
}
"""Constructors of the statistics by name; their argument selects the parameters for a gradient."""


def _loss(
    selected: dict[str, Tensor], others: dict[str, Tensor], network: nn.Module, *, images: Tensor, labels: Tensor
) -> Tensor:
    logits = torch.func.functional_call(network, {**others, **selected}, (images,))
    return F.cross_entropy(logits, labels)
