"""Result of ``dist-condense plan``, before it is formatted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dist_condense.engine.procedure import Units
from dist_condense.planning.cluster import Cluster
from dist_condense.planning.forecast import Forecast, StepEfficiency
from dist_condense.planning.rates import Calibration
from dist_condense.planning.workload import Workload
from dist_condense.settings.config import RunConfig
from dist_condense.system.plugins import Plugin


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Estimates for a run, with the work, rates and cluster on which they are based."""

    config: RunConfig
    units: Units
    load: Workload
    rates: Calibration
    cluster: Cluster
    forecast: Forecast
    steps: StepEfficiency
    others: list[tuple[Forecast, float]]
    """Forecasts for several numbers of workers, each with its efficiency."""
    best: Forecast
    size: int
    data_here: bool
    """Whether the data set was opened; otherwise its size is assumed."""
    room: int | None
    """Memory available to a worker in bytes; None if unknown."""
    problems: list[str]
    """Messages that name parts that do not fit into memory, and what to change; empty if the run fits."""
    checkpoint: int
    """Bytes of a checkpoint: the learnt images, theta and their momentum."""
    tested: int
    """Number of test images; 0 without an evaluation."""
    plugins: Sequence[Plugin] = ()
    """Loaded plug-ins."""
    microbatch: int = 0
    """Microbatch that a run would choose (``compute.microbatch``), for which the estimates are; 0: all images fit."""
    why: str = ""
    """Reason why it would choose one."""
    unsaved: str = ""
    """Reason why the measured rates could not be saved, followed by the rates; empty if they were, or need not be."""
