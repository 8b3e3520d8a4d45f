"""Estimates of a run's time, traffic and memory from its work and the rates of a device. All functions are pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dist_condense.data.reading import read_ahead
from dist_condense.data.reading.tiers import share
from dist_condense.engine.matching.shared import STORED
from dist_condense.planning.rates import Calibration
from dist_condense.planning.workload import Workload
from dist_condense.settings.schema import CPU, CUDA

ENOUGH = 0.8
"""Lowest parallel efficiency, from 0 to 1, at which a number of workers is recommended."""
FLOAT, INTEGER = 4, 8
FORWARD = 3
"""Operations of a real image's statistic, a forward and a backward pass, relative to those of its features."""
PROCESS, NETWORK, PIXELS = "the process", "network, gradient, momentum", "pixels, momentum, decoded"
STATISTICS, MINIBATCHES, REAL = "statistics of groups", "minibatches", "real images, decoded"
AT_ONCE = "images in the network at once"
HELD = {CPU: 2**30, CUDA: 3 * 2**29}
"""Bytes that a process needs besides its tensors, by device. Measured on a CPU (Python, torch, Ray, MLflow); assumed on
a GPU (its context, workspaces of kernels)."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Identical workers and the network that connects them."""

    device: str
    """`cpu` or `cuda`."""
    exact: bool
    """Value of ``compute.reproducible``."""
    bandwidth: float
    """Network bandwidth of each worker in bytes per second."""
    resident: bool = False
    """Whether the memory estimate includes decoded real images: those in RAM on CPUs, those of ``data.tier=gpu`` on
    GPUs."""
    latency: float = 5e-4
    """Latency of a collective in seconds."""

    @property
    def on_gpu(self) -> bool:
        """Whether workers compute on GPUs. Only CPU workers are assumed to get identical bits from the same work."""
        return self.device == CUDA

    def all_reduce(self, size: int, workers: int) -> float:
        """Estimate the seconds of a ring all-reduce of ``size`` bytes; 0 if there are no bytes or one worker."""
        return self.latency + 2 * (workers - 1) / workers * size / self.bandwidth if size and workers > 1 else 0.0

    def sum_bytes(self, values: int, slots: int = 1) -> int:
        """Return the size in bytes of ``slots`` sums of ``values`` numbers each in an all-reduce.

        Reproducible sums consist of 64-bit integers and a maximum per slot; other sums consist of 32-bit floats.
        """
        return slots * INTEGER + slots * values * INTEGER if self.exact else slots * values * FLOAT


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Size in bytes of each kind of all-reduce between workers."""

    shared_step: int
    """Statistics in a matching step that averages them over several classes."""
    update: int
    """Gradient of theta in an update whose slices are divided among the workers."""
    theta: int
    """theta and its momentum, copied from the first worker after each training in which every worker computes all
    slices; 0 on CPUs, where all workers have identical values."""
    batch: int
    """Images of the largest training batch, gathered from the workers that own their classes."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Estimates for a run on ``workers`` workers, excluding startup (opening data, compiling) and evaluation."""

    workers: int
    most: int
    """Number of classes of the worker with the most classes, for which the other workers wait."""
    least: int
    """Number of classes of the worker with the fewest classes."""
    matching: float
    """Seconds of all matching steps, including the features from which representative minibatches are chosen."""
    training: float
    """Seconds of computing all updates of theta."""
    shared: float
    """Seconds of all updates of theta, including collectives, if slices are divided among the workers."""
    everywhere: float
    """Seconds of all updates of theta, including collectives, if every worker computes all slices. A run uses the
    faster of the two ways."""
    talking: float
    """Seconds of all collectives."""
    drawing: float
    """Seconds of drawing all networks."""
    traffic: Traffic
    memory: dict[str, int]
    """Bytes of the worker with the most classes, by purpose."""

    @property
    def seconds(self) -> float:
        """Estimated duration of the run in seconds."""
        return self.matching + self.training + self.talking + self.drawing

    @property
    def device_hours(self) -> float:
        """Estimated hours of the run, summed over all workers."""
        return self.workers * self.seconds / 3600

    @property
    def bytes(self) -> int:
        """Estimated memory in bytes of the worker with the most classes."""
        return sum(self.memory.values())


def forecast(load: Workload, rates: Calibration, cluster: Cluster, workers: int) -> Forecast:
    """Estimate a run on ``workers`` workers.

    The worker with the most classes determines the time of matching and the memory.
    """
    most, least = -(-load.classes // workers), load.classes // workers  # as `assign` divides classes of equal cost
    sent = traffic(load, cluster)
    updates = sum(load.updates.values())
    divided = _updating(load, rates, workers), updates * cluster.all_reduce(sent.update, workers)
    repeated = _updating(load, rates, 1), load.segments * cluster.all_reduce(sent.theta, workers)
    training, gradients = divided if sum(divided) <= sum(repeated) else repeated
    return Forecast(
        workers=workers,
        most=most,
        least=least,
        matching=_matching(load, rates, most),
        training=training,
        shared=sum(divided),
        everywhere=sum(repeated),
        talking=gradients + _talking(load, cluster, sent, workers),
        drawing=load.networks * rates.draw,
        traffic=sent,
        memory=memory(load, rates, cluster, workers),
    )


def traffic(load: Workload, cluster: Cluster) -> Traffic:
    """Estimate the bytes that workers exchange."""
    return Traffic(
        shared_step=cluster.sum_bytes(2 * load.statistic, load.groups) if load.shared_steps else 0,
        update=cluster.sum_bytes(load.parameters) if load.updates else 0,
        theta=2 * FLOAT * load.parameters if cluster.on_gpu else 0,
        batch=max(load.updates, default=0) * load.image * (1 if load.real_updates else FLOAT),
    )


def _matching(load: Workload, rates: Calibration, classes: int) -> float:
    """Estimate the seconds of all matching steps on a worker with ``classes`` classes."""
    if rates.alone is None or not load.steps:
        return 0.0
    alone, shared = (
        rate.seconds(classes, load.real, load.synthetic) for rate in (rates.alone, rates.shared or rates.alone)
    )
    embedding = load.embedded * classes * rates.alone.real / FORWARD
    return (load.steps - load.shared_steps) * alone + load.shared_steps * shared + embedding


def _updating(load: Workload, rates: Calibration, workers: int) -> float:
    """Estimate the seconds of computing all updates of theta on the worker with the most slices."""
    updating = rates.updating
    return sum(n * updating.seconds(b, load.slices, workers) for b, n in load.updates.items()) if updating else 0.0


def _talking(load: Workload, cluster: Cluster, sent: Traffic, workers: int) -> float:
    """Estimate the seconds of the run's collectives for averaging statistics and gathering synthetic batches.

    Gathering real images takes no extra time, because it runs ahead of need.
    """
    statistics = load.shared_steps * cluster.all_reduce(sent.shared_step, workers)
    gathered = 0 if load.real_updates else sum(load.updates.values())
    return statistics + gathered * cluster.all_reduce(sent.batch, workers)


def memory(load: Workload, rates: Calibration, cluster: Cluster, workers: int) -> dict[str, int]:
    """Estimate the memory in bytes of the worker with the most classes, by purpose."""
    most = -(-load.classes // workers)
    images = [count * load.image for count in load.counts] if cluster.resident else []
    return {
        PROCESS: HELD[cluster.device],
        NETWORK: 3 * FLOAT * load.parameters,
        PIXELS: FLOAT * most * (load.pixels + load.decoded),
        STATISTICS: _statistics(load, cluster, most) if load.groups else 0,
        MINIBATCHES: load.real * load.image * (2 * FLOAT + read_ahead.HELD),
        REAL: share(images, workers, 1) if cluster.resident else 0,
        AT_ONCE: max(at_once(load, rates).values(), default=0),
    }


def _statistics(load: Workload, cluster: Cluster, classes: int) -> int:
    """Estimate the bytes of the statistics of groups, synthetic and real, in a step that averages them over classes.

    They are added to the sum of their group as the classes pass. Exact sums store the statistics of a few classes.
    """
    stored = min(classes, STORED) if cluster.exact else 0
    passing = 2 * FLOAT  # a class's tensors, and the same as a flat one
    each = FLOAT * stored + passing + load.groups * (FLOAT + INTEGER if cluster.exact else FLOAT)
    gradients = 0 if cluster.exact else load.groups * FLOAT * load.statistic  # else smaller than the integers before
    return 2 * load.statistic * each + gradients


def at_once(load: Workload, rates: Calibration) -> dict[str, int]:
    """Estimate the peak bytes of each pass through the network: ``real``, ``synthetic`` and ``training`` images.

    The passes take turns, so a worker needs memory only for the largest of them.
    """
    most = load.microbatch or max(load.real, load.synthetic)
    pieces = {}
    if rates.real and rates.synthetic and load.steps:
        pieces["real"] = rates.real.bytes(min(load.real, most))
        pieces["synthetic"] = rates.synthetic.bytes(min(load.synthetic, most))
    if rates.training and load.updates:
        pieces["training"] = rates.training.bytes(-(-max(load.updates) // load.slices))
    return pieces


def efficiency(load: Workload, rates: Calibration, cluster: Cluster, on: Forecast) -> float:
    """Return the parallel efficiency of a forecast: the time on one worker, divided by ``on.workers * on.seconds``.

    :param on: forecast for the number of workers in question.
    """
    return forecast(load, rates, cluster, 1).seconds / (on.workers * on.seconds) if on.seconds else 1.0


def best(load: Workload, rates: Calibration, cluster: Cluster) -> Forecast:
    """Return the forecast with the most workers, at most one per class, whose efficiency is at least :data:`ENOUGH`."""
    timed = replace(cluster, resident=False)  # real images change no time, and are many
    alone = forecast(load, rates, timed, 1).seconds
    seconds = ((workers, forecast(load, rates, timed, workers).seconds) for workers in range(load.classes, 0, -1))
    workers = next(n for n, taken in seconds if n == 1 or not taken or alone / (n * taken) >= ENOUGH)
    return forecast(load, rates, cluster, workers)
