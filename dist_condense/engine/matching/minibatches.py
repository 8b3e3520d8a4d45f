"""Real minibatches of a worker's classes, read one matching step ahead where they are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from dist_condense.core import randomness
from dist_condense.data.normalise import ChannelStatistics
from dist_condense.data.reading.read_ahead import ReadAhead, Ticket
from dist_condense.engine.coordinator import Placement
from dist_condense.engine.matching.recipe import MatchingRecipe
from dist_condense.engine.matching.representative import POSITIONS, RepresentativeDraw
from dist_condense.networks import batch_norms

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

    Representative minibatches that are new at a step depend on theta at this step, so that they are announced with it.

    :param counts: number of real images of every class, owned or not.
    :param labels: labels of the owned classes.
    """

    source: ReadAhead
    recipe: MatchingRecipe
    seed: int
    counts: Sequence[int]
    labels: Sequence[int]
    statistics: ChannelStatistics
    placement: Placement
    representative: RepresentativeDraw | None = field(default=None, init=False)
    """Choice of representative minibatches; None: they are drawn at random."""
    _next: Reads | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if options := self.recipe.representatives:
            self.representative = RepresentativeDraw(
                options=options,
                recipe=self.recipe,
                source=self.source,
                seed=self.seed,
                counts=self.counts,
                labels=self.labels,
                statistics=self.statistics,
                placement=self.placement,
            )

    def of(self, visit: int, network: nn.Module) -> Reads:
        """Return the reads of a matching step, and announce those of the next step if they do not depend on theta then.

        :param visit: number of matching steps before this one, over all networks.
        :param network: theta at this step, in evaluation mode.
        """
        statistics, reads = bool(batch_norms(network)), self._next
        if reads is None or reads.visit != visit:
            for ticket in (*reads.statistics.values(), *reads.real.values()) if reads else ():
                self.source.forget(ticket)
            if self.representative and self.representative.is_renewed(visit):
                self.representative.renew(network, visit)
            reads = self._announce(visit, statistics)
        waits = self.representative and self.representative.is_renewed(visit + 1)
        self._next = None if waits else self._announce(visit + 1, statistics)
        return reads

    @property
    def state(self) -> dict[str, Tensor]:
        """Positions of the minibatches, by ``NAME.LABEL``, if the steps until the next choice depend on them."""
        return {f"{POSITIONS}.{c}": x for c, x in self.representative.state.items()} if self.representative else {}

    def check(self) -> None:
        """Raise RunFailed if a checkpoint has filled :attr:`state` with impossible positions."""
        if self.representative:
            self.representative.check()

    def _announce(self, visit: int, statistics: bool) -> Reads:
        first = {c: self.source.announce(c, self._for_statistics(c, visit)) for c in self.labels if statistics}
        return Reads(visit, first, {c: self.source.announce(c, self._positions(c, visit)) for c in self.labels})

    def _positions(self, c: int, visit: int) -> Tensor:
        if self.representative:
            return self.representative.positions(c)
        return self.recipe.real_draw(self.counts[c], self.recipe.real_batch, seed=self.seed, label=c, visit=visit)

    def _for_statistics(self, c: int, visit: int) -> Tensor:
        batch = self.recipe.statistics_batch
        return randomness.draw_without_replacement(self.counts[c], batch, self.seed, "running statistics", visit, c)
