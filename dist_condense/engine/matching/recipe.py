"""Choices of a method that concern the images of a matching step."""

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
    """Draw without replacement at each step (DC, DSA, DCC, DM); as there, a smaller class gives each image once."""
    return randomness.draw_without_replacement(count, batch, seed, "real class batch", label, visit)


def epoch_draw(count: int, batch: int, *, seed: int, label: int, visit: int) -> Tensor:
    """Pass over the class, dropping incomplete batches (IDC); as there, a smaller class gives each image once."""
    return randomness.epoch_batch(count, batch, visit, seed, "real class batch", label)


DRAWS: dict[str, RealDraw] = {"fresh": fresh_draw, "epochs": epoch_draw}


@dataclass(frozen=True)
class MatchingRecipe:
    """Choices of a method for the images: objective, grouping, update rules, decoding, augmentation and batches."""

    objective: Objective
    grouping: Grouping
    rules: Mapping[str, ImageRule]
    """Update rule of each learnt tensor, by name."""
    _: KW_ONLY
    parameterisation: MultiFormation = field(default_factory=MultiFormation)
    strategy: Strategy = field(default_factory=Strategy)
    real_batch: int = 256
    """Largest number of real images of a class in one step."""
    real_draw: RealDraw = fresh_draw
    synthetic_limit: int = 128
    """Largest number of decoded images of a class in one step; a random subset where there are more."""
    statistics_batch: int = 16
    """Real images per class that update the running averages of BatchNorm before a step (DC)."""
