"""The parts of a method that stand on the image side of a matching step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field

from torch import Tensor

from dist_condense.core import randomness
from dist_condense.core.augmentation import Strategy
from dist_condense.core.grouping import Grouping
from dist_condense.core.image_rule import ImageRule
from dist_condense.core.objective import Objective
from dist_condense.core.parameterisation import MultiFormation

RealDraw = Callable[[int, int, int, int, int], Tensor]
"""(count, batch, seed, class, visit) -> positions of the real minibatch within its class."""


def fresh_draw(count: int, batch: int, seed: int, label: int, visit: int) -> Tensor:
    """DC, DSA, DCC, DM: a fresh random draw at each step, without replacement within it; a class of fewer images than
    ``batch`` gives each once (as in the program).
    """
    return randomness.draw_without_replacement(count, batch, seed, "real class batch", label, visit)


def epoch_draw(count: int, batch: int, seed: int, label: int, visit: int) -> Tensor:
    """IDC: passes over the class without replacement, the incomplete batch of a pass dropped; a class of fewer images
    than ``batch`` gives each once (as in the program).
    """
    return randomness.epoch_batch(count, batch, visit, seed, "real class batch", label)


DRAWS: dict[str, RealDraw] = {"fresh": fresh_draw, "epochs": epoch_draw}


@dataclass(frozen=True)
class MatchingRecipe:
    """A method's choices for the images."""

    objective: Objective
    grouping: Grouping
    rules: Mapping[str, ImageRule]
    """How each learnt tensor moves, by its name."""
    _: KW_ONLY
    parameterisation: MultiFormation = field(default_factory=MultiFormation)
    strategy: Strategy = field(default_factory=Strategy)
    unit_space: bool = False
    """Pixels are in [0, 1] and clamped when a network begins (IDC); else normalised and never clamped (DC)."""
    real_batch: int = 256
    """Real images of a class in one step; all of a class that has fewer."""
    real_draw: RealDraw = fresh_draw
    synthetic_limit: int = 128
    """Decoded images of a class in one step; beyond it a random subset."""
    statistics_batch: int = 16
    """Real images per class that move the running averages of BatchNorm before a step (DC)."""
