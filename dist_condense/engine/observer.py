"""Who watches a run is handed, on every worker, what was measured with each line of metrics.jsonl."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Measured:
    """Of the run, the same on all workers but for the clock; and of one worker, since the line before."""

    step: int
    """Matching steps done."""
    planned: int
    """Matching steps of the whole run."""
    loss: float
    """Matching loss of this step, summed over all classes."""
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
