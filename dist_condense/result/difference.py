"""Differences between the top-1 of two sets, paired by the seeds of the networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import fmean, stdev
from typing import TypeVar

Difference = tuple[float, float | None]
"""Mean difference in points, and the standard error of the mean; None for a single pair."""
Seed = TypeVar("Seed", int, str)


def paired(top1: Mapping[Seed, float], other: Mapping[Seed, float]) -> list[float]:
    """Return the difference ``top1 - other`` of each seed that both have, in the order of the seeds."""
    return [top1[seed] - other[seed] for seed in sorted(top1.keys() & other.keys())]


def mean_of(differences: Sequence[float]) -> Difference | None:
    """Return the mean of differences and its standard error; None if there are none."""
    if not differences:
        return None
    count = len(differences)
    return fmean(differences), stdev(differences) / sqrt(count) if count > 1 else None


def text_of(difference: Difference | None) -> str:
    """Return a difference as text: ``+19.5 ± 0.5``, ``+19.5`` for a single pair; empty if there is none."""
    if difference is None:
        return ""
    mean, error = difference
    return f"{mean:+.1f}" + ("" if error is None else f" ± {error:.1f}")
