"""Matching step of a class that is a group of its own, by one double backward through all its images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from dist_condense.core.image_rule import Learnt
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


class MatchAlone(Protocol):
    """Function that computes the matching step of a class that is a group of its own, from tensors alone."""

    def __call__(self, network: nn.Module, learnt: Learnt, stored: Tensor, drawn: Drawn) -> Matched:
        """Return the result of the matching step.

        :param stored: real minibatch of the class as stored, ``[n, C, H, W]``.
        """
        ...


@dataclass(frozen=True)
class Whole:
    """Matching step by one double backward through all images of the class."""

    objective: Objective
    view: View

    def __call__(self, network: nn.Module, learnt: Learnt, stored: Tensor, drawn: Drawn) -> Matched:
        b = self.objective.statistic(network, self.view.real(stored, drawn))
        examples, back = self.view.synthetic(learnt, drawn)
        loss, gradient = self.objective.match(network, examples, b)
        return Matched(loss, back(gradient), {Quantity.LOSS: loss.isfinite()})
