"""The images of one class, from which a selection chooses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

from torch import Tensor


@dataclass(frozen=True)
class Candidates:
    """Everything that a choice depends on; two equal ones give the same choice on every worker."""

    label: int
    _: KW_ONLY
    features: Tensor
    """``[N, d]`` on the CPU, one row per image of the class in the data set's order; d = 0 where none are needed."""
    ipc: int
    """Images to choose, at most N."""
    seed: int
    """Of the run."""
    draw: int = 0
    """Number of the draw, for a selection that varies between draws."""


Choose = Callable[[Candidates], Tensor]
"""Positions within the class, int64 ``[ipc]``, all different."""
