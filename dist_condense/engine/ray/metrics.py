"""What Prometheus sees of a run: every node of a Ray cluster exports it, with ``ray_`` before each name and ``_total``
after each counter's.
"""

from __future__ import annotations

from ray.util.metrics import Counter, Gauge

from dist_condense.engine.observer import Measured

GAUGES = {
    "step": ("dist_condense_step", "Matching steps done"),
    "planned": ("dist_condense_steps_planned", "Matching steps of the whole run"),
    "loss": ("dist_condense_matching_loss", "Matching loss of a step, summed over all classes"),
    "steps_per_second": ("dist_condense_steps_per_second", "Matching steps per second since the line before"),
}
COUNTERS = {
    "waited": ("dist_condense_waiting_seconds", "Seconds that this worker waited for images"),
    "reduced": ("dist_condense_reduced_bytes", "Bytes that this worker handed to reductions"),
}
"""By the field of :class:`Measured`."""
TAGS = ("run", "rank")


class RayMetrics:
    """An Observer in a worker of Ray. Setting a number takes microseconds; Ray sends them on by itself."""

    def __init__(self, run: str, rank: int) -> None:
        tags = {"run": run, "rank": str(rank)}
        self.gauges = {field: Gauge(*told, TAGS).set_default_tags(tags) for field, told in GAUGES.items()}
        self.counters = {field: Counter(*told, TAGS).set_default_tags(tags) for field, told in COUNTERS.items()}

    def __call__(self, measured: Measured) -> None:
        """Take what one line of metrics.jsonl says, and what this worker adds to it."""
        for field, gauge in self.gauges.items():
            gauge.set(getattr(measured, field))
        for field, counter in self.counters.items():
            if more := getattr(measured, field):  # Ray refuses a zero
                counter.inc(more)
