"""The answer of ``dist-condense plan``, before it is formatted."""

from __future__ import annotations

from dataclasses import dataclass

from dist_condense.engine.procedure import Units
from dist_condense.planning.forecast import Cluster, Forecast
from dist_condense.planning.rates import Calibration
from dist_condense.planning.workload import Workload
from dist_condense.settings.config import RunConfig


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Estimates for a run, with the work, rates and cluster on which they are based."""

    config: RunConfig
    units: Units
    load: Workload
    rates: Calibration
    cluster: Cluster
    forecast: Forecast
    others: list[tuple[Forecast, float]]
    """Forecasts for other numbers of workers, with their efficiency."""
    best: Forecast
    size: int
    data_here: bool
    """Whether the data set was opened."""
    room: int | None
    """Memory of a worker in bytes; None: unknown."""
    problems: list[str]
    """Lines about parts that do not fit into memory, and what to change."""
