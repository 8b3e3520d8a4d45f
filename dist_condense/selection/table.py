"""Every selection by its name."""

from __future__ import annotations

from dataclasses import dataclass

from dist_condense.selection.candidates import Choose
from dist_condense.selection.herding import herding
from dist_condense.selection.random import random


@dataclass(frozen=True)
class Selection:
    """A way to choose images of a class, and what it needs."""

    choose: Choose
    features: bool = False
    """Whether it reads features of a network that is trained on the whole set first."""
    varies: bool = False
    """Whether each evaluation network is trained on a new draw, as in the papers' rows."""


SELECTIONS = {"random": Selection(random, varies=True), "herding": Selection(herding, features=True)}
