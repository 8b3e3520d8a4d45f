"""Matching step in two passes over microbatches: statistics, then the pull-back of the distance's gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from dist_condense.core.image_rule import Learnt
from dist_condense.core.objective import Objective
from dist_condense.engine.finite import Quantity
from dist_condense.engine.matching.alone import Matched
from dist_condense.engine.matching.draws import Drawn
from dist_condense.engine.matching.view import View


@dataclass(frozen=True)
class TwoPasses:
    """The two passes of a matching step, taken separately for groups, or together for a class that is its own group."""

    objective: Objective
    view: View

    def __call__(self, network: nn.Module, learnt: Learnt, stored: Tensor, drawn: Drawn) -> Matched:
        a, b = self.statistics(network, learnt, stored, drawn)
        loss, v = self.objective.cotangent(a, b)
        return Matched(loss, self.pull_back(network, learnt, drawn, v), {Quantity.LOSS: loss.isfinite()})

    def statistics(
        self, network: nn.Module, learnt: Learnt, stored: Tensor, drawn: Drawn
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return phi of the synthetic and of the real examples."""
        examples, _ = self.view.synthetic(learnt, drawn)
        a = self.objective.statistic(network, examples)
        return a, self.objective.statistic(network, self.view.real(stored, drawn))

    def pull_back(self, network: nn.Module, learnt: Learnt, drawn: Drawn, v: Sequence[Tensor]) -> Learnt:
        """Return the gradient of <phi(synthetic examples), v> with respect to the learnt tensors, by name."""
        examples, back = self.view.synthetic(learnt, drawn)
        return back(self.objective.pull_back(network, examples, v))
