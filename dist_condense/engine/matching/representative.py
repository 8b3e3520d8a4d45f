"""Representative real minibatches of a worker's classes, which depend on theta and are kept for several steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dist_condense.core import randomness
from dist_condense.core.clustering import nearest_to_centres
from dist_condense.data.normalise import ChannelStatistics
from dist_condense.data.reading.read_ahead import ReadAhead
from dist_condense.engine.class_features import embeddings
from dist_condense.engine.coordinator import Placement
from dist_condense.engine.errors import RunFailed
from dist_condense.engine.matching.recipe import MatchingRecipe, Representatives

POSITIONS = "real_positions"
"""Name of the positions of a class's minibatch in a checkpoint."""
NONE = -1
"""Placeholder in the positions of a class that has fewer images than a minibatch, and before the first minibatch."""


@dataclass(kw_only=True)
class RepresentativeDraw:
    """Minibatches of the images nearest to the centres of a class's features (DREAM, Liu et al. 2023, 2302.14416).

    Every ``interval`` matching steps, the images of a class are embedded by the present theta (features before the
    classifier, without augmentation) and clustered by k-means into as many clusters as the minibatch has images; the
    image nearest to each centre is taken. The minibatch stays the same until the next renewal. Only the features of one
    class are in memory at a time, and no worker needs the images of another.

    Deviations from the authors' program:

    * Images are normalised before they are embedded, as wherever theta is used; the program embeds values in [0, 1].
    * theta is in evaluation mode; BatchNorm uses the running averages from before the step.
    * The interval is counted over all networks; the program counts from the first step of each network. This is the
      same if the interval divides T. Otherwise a minibatch may be kept when a network begins.
    * K-means takes a fixed number of iterations; the program stops when the centres move little, after at most 100.
    * With ``images``, a random part of the class, drawn at each renewal, is embedded; the program embeds all images.

    :param counts: number of real images of every class, owned or not.
    :param labels: labels of the owned classes.
    """

    options: Representatives
    recipe: MatchingRecipe
    source: ReadAhead
    seed: int
    counts: Sequence[int]
    labels: Sequence[int]
    statistics: ChannelStatistics
    placement: Placement
    state: dict[int, Tensor] = field(init=False)
    """Positions of the present minibatch within each owned class, int64 ``[real_batch]``, filled with :data:`NONE`."""

    def __post_init__(self) -> None:
        self.state = {c: torch.full((self.recipe.real_batch,), NONE) for c in self.labels}

    def is_renewed(self, visit: int) -> bool:
        """Return whether the minibatches of matching step ``visit`` are new; they then depend on theta at this step."""
        return visit % self.options.interval == 0

    def renew(self, network: nn.Module, visit: int) -> None:
        """Choose the minibatches from matching step ``visit`` on, by theta at this step; waits for the device."""
        for c in self.labels:
            candidates = self._candidates(c, visit)
            features = embeddings(
                network,
                self.source,
                c,
                candidates,
                statistics=self.statistics,
                placement=self.placement,
                autocast=self.recipe.objective.autocast,
            )
            keyed = randomness.generator(self.seed, "representative minibatch", visit, c)
            chosen = candidates[nearest_to_centres(features, self.recipe.real_batch, keyed)]
            self.state[c].fill_(NONE)[: len(chosen)] = chosen

    def positions(self, c: int) -> Tensor:
        """Return the positions of the present minibatch within class ``c``, int64 ``[n]``."""
        return self.state[c][self.state[c] != NONE]

    def check(self) -> None:
        """Raise RunFailed if positions, which a checkpoint may have filled, are not those of images of their class."""
        for c, positions in self.state.items():
            if positions.min() < NONE or positions.max() >= self.counts[c]:
                raise RunFailed(
                    f"class {c}: {POSITIONS} of the checkpoint are not positions of its {self.counts[c]} images; "
                    "delete this checkpoint, so that the run continues from the one before"
                )

    def _candidates(self, c: int, visit: int) -> Tensor:
        """Return the positions of the images of a class that are embedded, in a random order."""
        images = self.options.images or self.counts[c]
        return self.recipe.real_draw(self.counts[c], images, seed=self.seed, label=c, visit=visit)
