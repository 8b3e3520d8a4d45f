"""Callbacks that receive each worker's measurements with each entry of metrics.jsonl."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Measurements that accompany one entry of metrics.jsonl.

    Measurements of the run are equal on all workers, except for times; measurements of one worker (``waited``,
    ``reduced``) cover the time since the previous entry.
    """

    step: int
    """Number of completed units."""
    planned: int
    """Number of units of the whole run."""
    measures: Mapping[str, float]
    """Measures of the last unit; see :meth:`dist_condense.engine.procedure.Procedure.measured`."""
    seconds: float
    steps_per_second: float
    waited: float
    """Seconds that this worker waited for images since the previous entry."""
    reduced: int
    """Bytes that this worker passed to reductions since the previous entry."""


Observer = Callable[[Measured], None]
"""Function that is called between units, in the thread that computes them; it must neither wait nor raise."""


def unobserved(measured: Measured) -> None:
    """Ignore the measurements."""
