"""What ``dist-condense plan`` tells, before it is shown."""

from __future__ import annotations

from dataclasses import dataclass

from dist_condense.planning.forecast import Cluster, Forecast
from dist_condense.planning.rates import Calibration
from dist_condense.planning.workload import Workload
from dist_condense.settings.config import RunConfig


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that is told."""

    config: RunConfig
    load: Workload
    rates: Calibration
    cluster: Cluster
    chosen: Forecast
    others: list[tuple[Forecast, float]]
    """Other numbers of workers, with their efficiency."""
    best: Forecast
    size: int
    data_here: bool
    room: int | None
    """Bytes of a worker, where they are known."""
    problems: list[str]
    """What does not fit, and what to change."""
