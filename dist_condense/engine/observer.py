"""Who watches a run is handed, on every worker, what was measured with each line of metrics.jsonl."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Measured:
    """Of the run, the same on all workers but for the clock; and of one worker, since the line before."""

    step: int
    """Units done."""
    planned: int
    """Units of the whole run."""
    measures: Mapping[str, float]
    """Of the last unit, added up over all workers; see :meth:`dist_condense.engine.procedure.Procedure.measures`."""
    seconds: float
    steps_per_second: float
    waited: float
    """Seconds that this worker waited for images."""
    reduced: int
    """Bytes that this worker handed to reductions."""


Observer = Callable[[Measured], None]
"""Called between steps, in the thread that steps; it must neither wait nor raise."""


def unobserved(measured: Measured) -> None:
    """Nobody watches."""
