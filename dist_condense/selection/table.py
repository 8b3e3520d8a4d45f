"""Table of the selection methods, by name."""

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
    """Whether the selection needs features, for which a network is first trained on all images."""
    varies: bool = False
    """Whether each evaluation network is trained on a new draw of images, as in the papers' results."""


SELECTIONS = {"random": Selection(random, varies=True), "herding": Selection(herding, features=True)}
