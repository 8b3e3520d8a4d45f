"""Matching step of groups that may span workers: two passes around ONE reduction of the sums of all groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field

import torch
from torch import Tensor, nn

from dist_condense.core.image_rule import Learnt
from dist_condense.engine.coordinator import Coordinator, Placement
from dist_condense.engine.finite import Quantity
from dist_condense.engine.matching.alone import Matched
from dist_condense.engine.matching.draws import Drawn
from dist_condense.engine.matching.two_passes import TwoPasses


@dataclass(frozen=True)
class Inputs:
    """Inputs of one matching step for the owned classes, by label."""

    learnt: Mapping[int, Learnt]
    drawn: Mapping[int, Drawn]
    stored: Callable[[int], Tensor]
    """Function that returns the real minibatch of a class as stored, ``[n, C, H, W]``; called once per class."""


@dataclass
class Shared:
    """Matching step of groups. Every worker calls it with the same groups, even if it owns none of their classes.

    :param shape: (C, H, W) of an image.
    """

    passes: TwoPasses
    coordinator: Coordinator
    _: KW_ONLY
    shape: tuple[int, int, int]
    placement: Placement
    _shapes: list[torch.Size] = field(default_factory=list, init=False)

    def __call__(self, network: nn.Module, groups: Sequence[Sequence[int]], inputs: Inputs) -> dict[int, Matched]:
        """Return the results of the owned classes of ``groups``, by label, each with the loss of its group."""
        group_of = {c: g for g, group in enumerate(groups) for c in group}
        owned = [c for c in inputs.learnt if c in group_of]
        parts = [(group_of[c], self._flat(network, c, inputs)) for c in owned]
        shapes, place = self.shapes(network), self.placement
        length = 2 * sum(s.numel() for s in shapes)
        total = torch.zeros(len(groups), length, dtype=place.dtype, device=place.device)
        sums = self.coordinator.sum(parts, total, terms=max(map(len, groups)))
        distances = [self._distance(row / len(group), shapes) for row, group in zip(sums, groups, strict=True)]
        matched = {}
        for c, (g, flat) in zip(owned, parts, strict=True):
            loss, cotangent = distances[g]
            v = [x / len(groups[g]) for x in cotangent]
            gradient = self.passes.pull_back(network, inputs.learnt[c], inputs.drawn[c], v)
            finite = {Quantity.STATISTIC: flat.isfinite().all(), Quantity.LOSS: loss.isfinite()}
            matched[c] = Matched(loss, gradient, finite)
        return matched

    def shapes(self, network: nn.Module) -> list[torch.Size]:
        """Return the shapes of phi's tensors, which are determined with one zero image at the first step.

        A worker without classes needs the shapes, too, because it takes part in the sum.
        """
        if not self._shapes:
            blank = torch.zeros(1, *self.shape, dtype=self.placement.dtype, device=self.placement.device)
            labels = torch.zeros(1, dtype=torch.int64, device=self.placement.device)
            phi = self.passes.objective.statistic(network, {"images": blank, "labels": labels})
            self._shapes = [x.shape for x in phi]
        return self._shapes

    def _flat(self, network: nn.Module, c: int, inputs: Inputs) -> Tensor:
        a, b = self.passes.statistics(network, inputs.learnt[c], inputs.stored(c), inputs.drawn[c])
        return torch.cat([x.flatten() for x in (*a, *b)])

    def _distance(self, mean: Tensor, shapes: Sequence[torch.Size]) -> tuple[Tensor, list[Tensor]]:
        a, b = (_unflatten(half, shapes) for half in mean.chunk(2))
        return self.passes.objective.cotangent(a, b)


def _unflatten(flat: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    parts = flat.split([s.numel() for s in shapes])
    return [x.view(s) for x, s in zip(parts, shapes, strict=True)]
