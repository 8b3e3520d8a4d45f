"""Options of a method for its matching steps, and ways to draw real minibatches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Protocol

from torch import Tensor

from dist_condense.core import randomness
from dist_condense.core.augmentation import Strategy
from dist_condense.core.grouping import Grouping
from dist_condense.core.image_rule import ImageRule
from dist_condense.core.objective import Objective
from dist_condense.core.parameterisation import MultiFormation


class RealDraw(Protocol):
    """Function that draws the positions of a real minibatch within its class of ``count`` images."""

    def __call__(self, count: int, batch: int, *, seed: int, label: int, visit: int) -> Tensor: ...


def fresh_draw(count: int, batch: int, *, seed: int, label: int, visit: int) -> Tensor:
    """Draw a minibatch anew at each step, without replacement within the step (DC, DSA, DCC, DM).

    A class with fewer images than ``batch`` gives each of them once, as in the authors' programs.
    """
    return randomness.draw_without_replacement(count, batch, seed, "real class batch", label, visit)


def epoch_draw(count: int, batch: int, *, seed: int, label: int, visit: int) -> Tensor:
    """Return minibatch ``visit`` (from 0) of shuffled passes over the class, without their incomplete batches (IDC).

    A class with fewer images than ``batch`` gives each of them once, as in the authors' program.
    """
    return randomness.epoch_batch(count, batch, visit, seed, "real class batch", label)


@dataclass(frozen=True)
class DrawChoice:
    """Way to draw the real minibatches of a class."""

    draw: RealDraw
    _: KW_ONLY
    representative: bool = False
    """Whether ``draw`` draws candidates only, of which those nearest to k-means centres are taken for several steps."""


DRAWS: dict[str, DrawChoice] = {
    "fresh": DrawChoice(fresh_draw),
    "epochs": DrawChoice(epoch_draw),
    "representative": DrawChoice(fresh_draw, representative=True),
}


@dataclass(frozen=True, kw_only=True)
class Representatives:
    """Options of representative minibatches, see :class:`dist_condense.engine.matching.representative`."""

    interval: int = 10
    """Number of matching steps between two choices of minibatches."""
    images: int | None = None
    """Maximum number of images of a class that are clustered; None: all."""


@dataclass(frozen=True)
class MatchingRecipe:
    """Options of a method for matching: objective, grouping, update rules, decoding, augmentation and batches."""

    objective: Objective
    grouping: Grouping
    rules: Mapping[str, ImageRule]
    """Update rule of each learnt tensor, by name."""
    _: KW_ONLY
    parameterisation: MultiFormation = field(default_factory=MultiFormation)
    strategy: Strategy = field(default_factory=Strategy)
    real_batch: int = 256
    """Maximum number of real images of a class in one step."""
    real_draw: RealDraw = fresh_draw
    representatives: Representatives | None = None
    """Options of representative minibatches, for which ``real_draw`` draws the candidates; None: random minibatches."""
    synthetic_limit: int = 128
    """Maximum number of decoded images of a class in one step; if there are more, a random subset is used."""
    statistics_batch: int = 16
    """Number of real images per class that update the running averages of BatchNorm before a step (DC)."""
