"""Metrics of a run for Prometheus, exported by every node of a Ray cluster.

Ray adds the prefix ``ray_`` to every name, and the suffix ``_total`` to the name of every counter.
"""

from __future__ import annotations

from ray.util.metrics import Counter, Gauge

from dist_condense.engine.observer import Measured

GAUGES = {
    "step": ("dist_condense_step", "Steps done"),
    "planned": ("dist_condense_steps_planned", "Steps of the whole run"),
    "steps_per_second": ("dist_condense_steps_per_second", "Steps per second since the previous entry"),
}
MEASURES = {
    "loss": ("dist_condense_matching_loss", "Matching loss of a step, summed over all classes"),
    "gradient_norm": ("dist_condense_gradient_norm", "Euclidean norm of the loss's gradient in all learnt tensors"),
}
"""Names and descriptions of metrics, by measure; others are exported under their own name."""
COUNTERS = {
    "waited": ("dist_condense_waiting_seconds", "Seconds that this worker waited for images"),
    "reduced": ("dist_condense_reduced_bytes", "Bytes that this worker passed to reductions"),
}
"""Names and descriptions of counters, by field of :class:`Measured`."""
TAGS = ("run", "rank")


class RayMetrics:
    """Observer that exports the measurements of a Ray worker.

    Setting a metric takes microseconds; Ray exports it in the background.
    """

    def __init__(self, run: str, rank: int) -> None:
        self.tags = {"run": run, "rank": str(rank)}
        self.gauges = {field: self._gauge(*names) for field, names in GAUGES.items()}
        self.measures: dict[str, Gauge] = {}
        self.counters = {field: Counter(*names, TAGS).set_default_tags(self.tags) for field, names in COUNTERS.items()}

    def __call__(self, measured: Measured) -> None:
        """Export the measurements of one entry of metrics.jsonl: those of the run and those of this worker."""
        for field, gauge in self.gauges.items():
            gauge.set(getattr(measured, field))
        for name, value in measured.measures.items():
            if name not in self.measures:
                self.measures[name] = self._gauge(*MEASURES.get(name, (f"dist_condense_{name}", f"{name}, of a step")))
            self.measures[name].set(value)
        for field, counter in self.counters.items():
            if more := getattr(measured, field):  # Ray refuses a zero
                counter.inc(more)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, TAGS).set_default_tags(self.tags)
