"""Inputs of a selection: the images of one class from which it selects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

from torch import Tensor


@dataclass(frozen=True)
class Candidates:
    """All inputs of a selection from one class; equal inputs give the same selection on every worker."""

    label: int
    _: KW_ONLY
    features: Tensor
    """Features ``[N, d]`` on the CPU, one row per image of the class in the data set's order; d = 0 if unused."""
    ipc: int
    """Number of images to select, at most N."""
    seed: int
    """Seed of the run."""
    draw: int = 0
    """Index of the draw, from 0; only a selection that varies between draws depends on it."""


Select = Callable[[Candidates], Tensor]
"""Function that returns the positions of the selected images within the class, int64 ``[ipc]``, without duplicates."""
