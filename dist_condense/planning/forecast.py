"""Estimates of a run's time, traffic and memory from its work and the rates of a device. All functions are pure."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dist_condense.data.reading import read_ahead
from dist_condense.data.reading.tiers import share
from dist_condense.engine.matching.shared import STORED
from dist_condense.planning.rates import Calibration, Updating
from dist_condense.planning.workload import Trials, Workload
from dist_condense.settings import microbatch
from dist_condense.settings.schema import CUDA

ENOUGH = 0.8
"""Lowest parallel efficiency, from 0 to 1, at which a number of workers is recommended."""
FLOAT, INTEGER = 4, 8
FORWARD = 3
"""Operations of a real image's statistic, a forward and a backward pass, relative to those of its features."""
PROCESS, NETWORK, PIXELS = "the process", "network, gradient, momentum", "pixels, momentum, decoded"
STATISTICS, MINIBATCHES, REAL = "statistics of groups", "minibatches", "real images, decoded"
AT_ONCE = "images in the network at once"
BACKWARD = 2 / 3
"""Share of an update of theta that is its backward pass, during which gradients of later layers can be summed."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Identical workers and the network that connects them."""

    device: str
    """`cpu` or `cuda`."""
    exact: bool
    """Value of ``compute.reproducible``."""
    bandwidth: float
    """Network bandwidth of each worker in bytes per second; between nodes, if ``inside`` is given."""
    resident: bool = False
    """Whether the memory estimate includes decoded real images: those in RAM on CPUs, those of ``data.tier=gpu`` on
    GPUs."""
    latency: float = 5e-4
    """Latency of a collective in seconds."""
    inside: float | None = None
    """Bandwidth of each worker in bytes per second if all workers are in one node; None: ``bandwidth``."""
    node: int = 8
    """Number of workers in a node."""
    overlap: float = 0.0
    """Share, from 0 to 1, of the time of computing an update of theta during which the sum of its gradients can run, if
    slices are divided; 0: the sum starts when all gradients are computed."""

    @property
    def on_gpu(self) -> bool:
        """Whether workers compute on GPUs. Only CPU workers are assumed to get identical bits from the same work."""
        return self.device == CUDA

    def all_reduce(self, size: int, workers: int) -> float:
        """Estimate the seconds of a ring all-reduce of ``size`` bytes; 0 if there are no bytes or one worker."""
        if not size or workers == 1:
            return 0.0
        bandwidth = self.inside if self.inside and workers <= self.node else self.bandwidth
        return self.latency + 2 * (workers - 1) / workers * size / bandwidth

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
    """Estimates for a run on ``workers`` workers, excluding startup (opening data, compiling)."""

    workers: int
    most: int
    """Number of classes of the worker with the most classes, for which the other workers wait."""
    least: int
    """Number of classes of the worker with the fewest classes."""
    matching: float
    """Seconds of all matching steps, including the features from which representative minibatches are chosen."""
    training: float
    """Seconds of computing all updates of theta."""
    pretraining: float
    """Seconds of the updates of theta that pretrain networks, including collectives; a part of the other times."""
    shared: float
    """Seconds of all updates of theta, including collectives, if slices are divided among the workers."""
    everywhere: float
    """Seconds of all updates of theta, including collectives, if every worker computes all slices. A run uses the
    faster of the two ways."""
    talking: float
    """Seconds of all collectives, as far as no computation overlaps with them."""
    drawing: float
    """Seconds of drawing all networks."""
    evaluating: float | None
    """Seconds of training and testing all networks of the evaluation, of which each worker trains one at a time; None:
    there are no rates of training."""
    traffic: Traffic
    memory: dict[str, int]
    """Bytes of the worker with the most classes, by purpose."""

    @property
    def seconds(self) -> float:
        """Estimated duration of condensing in seconds, without the evaluation."""
        return self.matching + self.training + self.talking + self.drawing

    @property
    def total(self) -> float:
        """Estimated duration in seconds, with the evaluation if that is known."""
        return self.seconds + (self.evaluating or 0.0)

    @property
    def device_hours(self) -> float:
        """Estimated hours of the run, with its evaluation, summed over all workers."""
        return self.workers * self.total / 3600

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
    ways = Ways.of(load, rates, cluster, workers)
    steps = Ways.of(load.steps_only, rates, cluster, workers)
    return Forecast(
        workers=workers,
        most=most,
        least=least,
        matching=_matching(load, rates, most),
        training=ways.chosen[0],
        pretraining=sum(ways.chosen) - sum(steps.divided if ways.divides else steps.repeated),
        shared=sum(ways.divided),
        everywhere=sum(ways.repeated),
        talking=ways.chosen[1] + _talking(load, cluster, sent, workers),
        drawing=load.networks * rates.draw,
        evaluating=evaluating(load.trials, rates.updating, workers),
        traffic=sent,
        memory=memory(load, rates, cluster, workers),
    )


@dataclass(frozen=True)
class Ways:
    """Seconds of (computing all updates of theta, collectives that nothing overlaps) in the two ways to train theta."""

    divided: tuple[float, float]
    """Slices are divided among the workers, and gradients are summed in each update."""
    repeated: tuple[float, float]
    """Every worker computes all slices."""

    @classmethod
    def of(cls, load: Workload, rates: Calibration, cluster: Cluster, workers: int) -> Ways:
        """Estimate both ways."""
        sent = traffic(load, cluster)
        own, number = _updating(load, rates, workers), sum(load.updates.values())
        waited = max(0.0, number * cluster.all_reduce(sent.update, workers) - cluster.overlap * own)
        theta = load.segments * cluster.all_reduce(sent.theta, workers)
        return cls((own, waited), (_updating(load, rates, 1), theta))

    @property
    def divides(self) -> bool:
        """Whether dividing the slices is faster, so that a run does it."""
        return sum(self.divided) <= sum(self.repeated)

    @property
    def chosen(self) -> tuple[float, float]:
        """The faster way."""
        return self.divided if self.divides else self.repeated


def evaluating(trials: Sequence[Trials], updating: Updating | None, workers: int) -> float | None:
    """Estimate the seconds until all trials have ended, of which each worker runs one at a time, in order.

    :param updating: rates of training theta in slices; a trial has one slice. None: unknown, which is returned.
    """
    ends = [0.0] * workers
    for each in trials:
        if updating is None:
            return None
        trained = sum(n * updating.seconds(batch, 1, 1) for batch, n in each.updates.items())
        seconds = each.training * trained + each.tested * (updating.batch + updating.own)
        for _ in range(each.seeds):
            heapq.heapreplace(ends, ends[0] + seconds)
    return max(ends)


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
        PROCESS: microbatch.PROCESS[cluster.device],
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
    most, classes = load.microbatch or max(load.real, load.synthetic), min(load.captured, load.classes)
    pieces = {}
    if rates.real and rates.synthetic and load.steps:
        pieces["real"] = classes * rates.real.bytes(min(load.real, most))
        pieces["synthetic"] = classes * rates.synthetic.bytes(min(load.synthetic, most))
    if rates.training and load.updates:
        pieces["training"] = rates.training.bytes(-(-max(load.updates) // load.slices))
    return pieces


def efficiency(load: Workload, rates: Calibration, cluster: Cluster, on: Forecast) -> float:
    """Return the parallel efficiency of a forecast: the time on one worker, divided by ``on.workers * on.seconds``.

    The evaluation, which needs few workers, is not included.

    :param on: forecast for the number of workers in question.
    """
    return forecast(_untested(load), rates, cluster, 1).seconds / (on.workers * on.seconds) if on.seconds else 1.0


@dataclass(frozen=True, kw_only=True)
class StepEfficiency:
    """Parallel efficiency of the matching steps and the training between them, without pretraining."""

    divided: float
    """If slices are divided among the workers."""
    overlapped: float
    """Likewise, if the sum of the gradients overlaps with the backward pass."""
    everywhere: float
    """If every worker computes all slices."""

    @classmethod
    def of(cls, load: Workload, rates: Calibration, cluster: Cluster, workers: int) -> StepEfficiency:
        """Estimate the efficiencies on ``workers`` workers."""
        steps = load.steps_only
        alone, on = (forecast(steps, rates, cluster, n) for n in (1, workers))
        ways = Ways.of(steps, rates, cluster, workers)
        hidden = Ways.of(steps, rates, replace(cluster, overlap=max(BACKWARD, cluster.overlap)), workers)
        rest = on.seconds - sum(ways.chosen)

        def efficiency(way: tuple[float, float]) -> float:
            return alone.seconds / (workers * (rest + sum(way)) or 1.0)

        divided, overlapped, everywhere = map(efficiency, (ways.divided, hidden.divided, ways.repeated))
        return cls(divided=divided, overlapped=overlapped, everywhere=everywhere)


def _untested(load: Workload) -> Workload:
    return replace(load, trials=())


def best(load: Workload, rates: Calibration, cluster: Cluster) -> Forecast:
    """Return the forecast with the most workers, at most one per class, whose efficiency is at least :data:`ENOUGH`."""
    timed, work = replace(cluster, resident=False), _untested(load)  # real images change no time, and are many
    alone = forecast(work, rates, timed, 1).seconds
    seconds = ((workers, forecast(work, rates, timed, workers).seconds) for workers in range(load.classes, 0, -1))
    workers = next(n for n, taken in seconds if n == 1 or not taken or alone / (n * taken) >= ENOUGH)
    return forecast(load, rates, cluster, workers)
