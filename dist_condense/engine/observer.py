"""Callbacks that receive each worker's measurements with each entry of metrics.jsonl."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Measurements of the run, equal on all workers but for the clock, and of one worker since the previous entry."""

    step: int
    """Units completed."""
    planned: int
    """Units of the whole run."""
    measures: Mapping[str, float]
    """Measures of the last unit, summed over workers; see :meth:`dist_condense.engine.procedure.Procedure.measures`."""
    seconds: float
    steps_per_second: float
    waited: float
    """Seconds that this worker waited for images."""
    reduced: int
    """Bytes that this worker passed to reductions."""


Observer = Callable[[Measured], None]
"""Called between steps, in the thread that computes them; it must neither wait nor raise."""


def unobserved(measured: Measured) -> None:
    """Ignore the measurements."""
