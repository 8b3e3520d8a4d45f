"""Selections by name."""

from __future__ import annotations

from dataclasses import dataclass

from dist_condense.selection.candidates import Select
from dist_condense.selection.herding import herding
from dist_condense.selection.random import random


@dataclass(frozen=True)
class Selection:
    """A selection method and its requirements."""

    select: Select
    features: bool = False
    """Whether the selection reads features of a network that is first trained on all images."""
    varies: bool = False
    """Whether each evaluation network is trained on a new draw, as in the papers' rows."""


SELECTIONS = {"random": Selection(random, varies=True), "herding": Selection(herding, features=True)}
