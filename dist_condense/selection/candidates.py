"""Images of one class, from which a selection selects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

from torch import Tensor


@dataclass(frozen=True)
class Candidates:
    """All inputs of a selection; equal inputs give the same selection on every worker."""

    label: int
    _: KW_ONLY
    features: Tensor
    """Features ``[N, d]`` on the CPU, one row per image of the class in the data set's order; d = 0 if unused."""
    ipc: int
    """Number of images to select, at most N."""
    seed: int
    """Seed of the run."""
    draw: int = 0
    """Number of the draw, for a selection that varies between draws."""


Select = Callable[[Candidates], Tensor]
"""Function that returns positions within the class, int64 ``[ipc]``, all different."""
