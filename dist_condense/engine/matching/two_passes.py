"""Matching step in two passes over microbatches: statistics, then the pull-back of the distance's gradient.

Each microbatch is decoded, augmented, passed through the network and pulled back before the next one, so that besides
phi and the gradient of the class nothing is stored for all of its images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
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
        at = self.view.taking_part(learnt, drawn)
        a = self.objective.mean(network, len(at), lambda rows: self.view.some(learnt, drawn, at[rows]))
        return a, self.objective.mean(network, len(stored), lambda rows: self.view.real(stored[rows], drawn))

    def pull_back(self, network: nn.Module, learnt: Learnt, drawn: Drawn, v: Sequence[Tensor]) -> Learnt:
        """Return the gradient of <phi(synthetic examples), v> with respect to the learnt tensors, by name."""
        gradient = {name: torch.zeros_like(x) for name, x in learnt.items()}
        every = self.view.taking_part(learnt, drawn)
        for weight, rows in self.objective.microbatches(len(every)):
            at = every[rows]
            examples, back = self.view.pull_back_some(learnt, drawn, at)
            seen = self.objective.pull_back(network, examples, v)
            for name, x in back({name: weight * y for name, y in seen.items()}).items():
                gradient[name].index_add_(0, at.source, x)
        return self._of_scores(learnt, gradient)

    def _of_scores(self, learnt: Learnt, gradient: Learnt) -> Learnt:
        """Replace the gradient with respect to label probabilities, if any, by that with respect to the scores."""
        if "labels" not in learnt:
            return gradient
        result = torch.func.vjp(lambda scores: scores.softmax(1), learnt["labels"])
        back = cast("Callable[[Tensor], tuple[Tensor]]", result[1])
        return gradient | {"labels": back(gradient["labels"])[0]}
