"""Matching step of a class that is a group of its own: one program from theta and tensors to new tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dist_condense.core.image_rule import ImageRule, Learnt, updated
from dist_condense.core.objective import Objective
from dist_condense.engine.finite import Quantity
from dist_condense.engine.matching.draws import Drawn
from dist_condense.engine.matching.view import View


@dataclass(frozen=True)
class Matched:
    """Result of a matching step for one class, entirely on the device."""

    loss: Tensor
    """Loss of the class's group, ``[]``."""
    gradient: Learnt
    finite: dict[Quantity, Tensor]
    """Whether all numbers of a kind are finite, by kind: boolean tensors ``[]``."""

    @property
    def squared_norm(self) -> Tensor:
        """Squared Euclidean norm of the gradient with respect to all learnt tensors of the class, ``[]``."""
        of_images = torch.cat([x.flatten(1).norm(dim=1) for x in self.gradient.values()])
        return of_images.square().sum()


class MatchAlone(Protocol):
    """Function that computes the matching step of a class that is a group of its own, from tensors alone."""

    def __call__(self, network: nn.Module, learnt: Learnt, stored: Tensor, drawn: Drawn) -> Matched:
        """Return the result of the matching step.

        :param stored: real minibatch of the class as stored, ``[n, C, H, W]``.
        """
        ...


@dataclass(frozen=True)
class Whole:
    """Matching step by one double backward through all images of the class, without microbatches."""

    objective: Objective
    view: View

    def __call__(self, network: nn.Module, learnt: Learnt, stored: Tensor, drawn: Drawn) -> Matched:
        b = self.objective.statistic(network, self.view.real(stored, drawn))
        examples, back = self.view.synthetic(learnt, drawn)
        loss, gradient = self.objective.match(network, examples, b)
        return Matched(loss, back(gradient), {Quantity.LOSS: loss.isfinite()})


@dataclass(frozen=True)
class Stepped:
    """State of a class after a matching step, entirely on the device."""

    learnt: Learnt
    momentum: Learnt
    loss: Tensor
    """Loss of the class's group, ``[]``."""
    squared_norm: Tensor
    """Squared Euclidean norm of the gradient, ``[]``."""
    finite: dict[Quantity, Tensor]
    """Whether all numbers of a kind are finite, by kind: boolean tensors ``[]``."""


@dataclass(frozen=True)
class Step:
    """Matching step and update of a class, as a pure function of tensors.

    :param rules: update rule of each learnt tensor, by name.
    """

    match: MatchAlone
    rules: Mapping[str, ImageRule]

    def __call__(self, network: nn.Module, learnt: Learnt, momentum: Learnt, stored: Tensor, drawn: Drawn) -> Stepped:
        """Return the state after  S <- S - lr_S dL/dS."""
        matched = self.match(network, learnt, stored, drawn)
        finite = matched.finite[Quantity.LOSS]
        learnt, momentum, made = updated(self.rules, learnt, momentum, gradients=matched.gradient, finite=finite)
        finite_by_kind = {**matched.finite, Quantity.UPDATE: made}
        return Stepped(learnt, momentum, matched.loss, matched.squared_norm, finite_by_kind)


pytree.register_dataclass(Stepped)
