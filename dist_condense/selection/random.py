"""Random selection of images, the baseline of every table in the papers."""

from __future__ import annotations

from torch import Tensor

from dist_condense.core import randomness
from dist_condense.selection.candidates import Candidates


def random(candidates: Candidates) -> Tensor:
    """Draw images without replacement; the seed, the draw index and the label determine the result."""
    key = randomness.key(candidates.seed, "random baseline", candidates.draw)
    return randomness.permutation(len(candidates.features), key, "random set", candidates.label)[: candidates.ipc]
