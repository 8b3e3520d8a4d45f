"""Real minibatches of a worker's classes, read one matching step ahead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from dist_condense.core import randomness
from dist_condense.data.reading.read_ahead import ReadAhead, Ticket
from dist_condense.engine.matching.recipe import MatchingRecipe

Tickets = dict[int, Ticket]
"""Tickets of reads, by class."""


@dataclass(frozen=True)
class Reads:
    """Tickets of the reads that were announced for one matching step."""

    visit: int
    statistics: Tickets
    """Reads of the images that update the running averages of BatchNorm; empty for other networks."""
    real: Tickets


@dataclass(kw_only=True)
class Minibatches:
    """Reads of real images of a worker's classes, announced one matching step ahead.

    :param counts: number of real images of every class, owned or not.
    :param labels: labels of the owned classes.
    """

    source: ReadAhead
    recipe: MatchingRecipe
    seed: int
    counts: Sequence[int]
    labels: Sequence[int]
    _next: Reads | None = field(default=None, init=False)

    def of(self, visit: int, statistics: bool) -> Reads:
        """Return the reads of a matching step, and announce those of the next step.

        :param visit: number of matching steps before this one, over all networks.
        :param statistics: whether the network has running averages.
        """
        reads = self._next
        if reads is None or reads.visit != visit:
            for ticket in (*reads.statistics.values(), *reads.real.values()) if reads else ():
                self.source.forget(ticket)
            reads = self._announce(visit, statistics)
        self._next = self._announce(visit + 1, statistics)
        return reads

    def _announce(self, visit: int, statistics: bool) -> Reads:
        first = {c: self.source.announce(c, self._for_statistics(c, visit)) for c in self.labels if statistics}
        return Reads(visit, first, {c: self.source.announce(c, self._positions(c, visit)) for c in self.labels})

    def _positions(self, c: int, visit: int) -> Tensor:
        return self.recipe.real_draw(self.counts[c], self.recipe.real_batch, seed=self.seed, label=c, visit=visit)

    def _for_statistics(self, c: int, visit: int) -> Tensor:
        batch = self.recipe.statistics_batch
        return randomness.draw_without_replacement(self.counts[c], batch, self.seed, "running statistics", visit, c)
