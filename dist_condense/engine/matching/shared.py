"""Matching step of groups that may span workers: two passes around ONE reduction of the sums of all groups.

Statistics are added to the sum of their group as the classes pass, so memory grows with the groups, not with the
classes: each group has a sum in floats and, while sums are exact, one in 64-bit integers; and at most :data:`STORED`
statistics of classes are stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace

import torch
from torch import Tensor, nn

from dist_condense.core.image_rule import Learnt
from dist_condense.engine.coordinator import Coordinator, Placement
from dist_condense.engine.exact_sum import largest_magnitude
from dist_condense.engine.finite import Quantity
from dist_condense.engine.matching.alone import Matched
from dist_condense.engine.matching.draws import Drawn
from dist_condense.engine.matching.halving import Halving

STORED = 10
"""Maximum number of classes whose statistics are stored until the exact scale of their sum is known.

A worker with at most this many classes, which is usual, computes each statistic once. With more, it computes some of
them twice in a step in which the largest of all values has passed a power of two since the step before.
"""


@dataclass(frozen=True)
class Inputs:
    """Inputs of one matching step for the owned classes, by label."""

    learnt: Mapping[int, Learnt]
    drawn: Mapping[int, Drawn]
    stored: Callable[[int], Tensor]
    """Function that returns the real minibatch of a class as stored, ``[n, C, H, W]``; called once per class."""
    again: Callable[[int], Tensor]
    """Function that returns the same images, read once more."""


@dataclass
class Shared:
    """Matching step of groups. Every worker calls it with the same groups, even if it owns none of their classes.

    :param shape: (C, H, W) of an image.
    """

    passes: Halving
    coordinator: Coordinator
    _: KW_ONLY
    shape: tuple[int, int, int]
    placement: Placement
    _shapes: list[torch.Size] = field(default_factory=list, init=False)
    _scale: Tensor | None = field(default=None, init=False)
    """Scale of the last sums, which is expected of the next ones."""

    def __call__(
        self, network: nn.Module, groups: Sequence[Sequence[int]], inputs: Inputs
    ) -> Iterator[tuple[int, Matched]]:
        """Yield the label and the result of each owned class of ``groups``, with the loss of its group.

        The sums are complete before the first result, so that the class may be changed once its result is there.
        """
        group_of = {c: g for g, group in enumerate(groups) for c in group}
        owned = {c: group_of[c] for c in inputs.learnt if c in group_of}
        sums, finite = self._sums(network, groups, owned, inputs)
        shapes = self.shapes(network)
        distances = {g: self._distance(sums[g], len(groups[g]), shapes) for g in sorted(set(owned.values()))}
        del sums  # which would stay in memory while the images are pulled back
        for c, g in owned.items():
            yield c, self._matched(network, c, inputs, distances[g], finite[c])

    def shapes(self, network: nn.Module) -> list[torch.Size]:
        """Return the shapes of phi's tensors, which are determined with one zero image at the first step.

        A worker without classes needs the shapes, too, because it takes part in the sum.
        """
        if not self._shapes:
            blank = torch.zeros(1, *self.shape, dtype=self.placement.dtype, device=self.placement.device)
            labels = torch.zeros(1, dtype=torch.int64, device=self.placement.device)
            plain = replace(self.passes.objective, compiled=False)
            phi = plain.statistic(network, {"images": blank, "labels": labels})
            self._shapes = [x.shape for x in phi]
        return self._shapes

    def _sums(
        self, network: nn.Module, groups: Sequence[Sequence[int]], owned: Mapping[int, int], inputs: Inputs
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Sum the statistics of each group's classes, synthetic and real, over all workers.

        :param owned: index of the group of each owned class.
        :returns: sums ``[groups, 2 values of phi]``, and whether the statistic of each owned class is finite.
        """
        place, length = self.placement, 2 * sum(s.numel() for s in self.shapes(network))
        like = torch.empty((), dtype=place.dtype, device=place.device).expand(len(groups), length)
        expected = self._scale if self._scale is not None and len(self._scale) == len(groups) else None
        sums = self.coordinator.sums(like, max(map(len, groups)), stored=STORED, expected=expected)
        finite = {}
        for c, g in owned.items():
            flat = self._flat(network, c, inputs.stored(c), inputs)
            finite[c] = largest_magnitude(flat).isfinite()
            sums.add(g, flat)
        labels = list(owned)
        for c in (labels[i] for i in sums.agree()):
            sums.add(owned[c], self._flat(network, c, inputs.again(c), inputs))
        self._scale = sums.scale
        return sums.result(), finite

    def _flat(self, network: nn.Module, c: int, stored: Tensor, inputs: Inputs) -> Tensor:
        a, b = self.passes.statistics(network, inputs.learnt[c], stored, inputs.drawn[c])
        return torch.cat([x.flatten() for x in (*a, *b)])

    def _matched(
        self, network: nn.Module, c: int, inputs: Inputs, distance: tuple[Tensor, Sequence[Tensor]], finite: Tensor
    ) -> Matched:
        """Return the result of a class, of whose gradient nothing here keeps a reference.

        :param distance: loss of its group, and the gradient of the loss with respect to the statistic of one class.
        :param finite: whether the statistic of the class is finite.
        """
        loss, v = distance
        gradient = self.passes.pull_back(network, inputs.learnt[c], inputs.drawn[c], v)
        return Matched(loss, gradient, {Quantity.STATISTIC: finite, Quantity.LOSS: loss.isfinite()})

    def _distance(self, total: Tensor, classes: int, shapes: Sequence[torch.Size]) -> tuple[Tensor, list[Tensor]]:
        """Return the distance of a group's means, and its gradient with respect to the statistic of one class.

        :param total: sum over the group's classes.
        """
        a, b = (_unflatten(half, shapes) for half in (total / classes).chunk(2))
        loss, cotangent = self.passes.objective.cotangent(a, b)
        return loss, [x / classes for x in cotangent]


def _unflatten(flat: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    parts = flat.split([s.numel() for s in shapes])
    return [x.view(s) for x, s in zip(parts, shapes, strict=True)]
