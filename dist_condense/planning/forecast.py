"""Estimates of a run's time, traffic and memory from its work and the rates of a device. All functions are pure."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dist_condense.data.reading import read_ahead
from dist_condense.data.reading.tiers import share
from dist_condense.engine.trajectory import faster_at_once
from dist_condense.planning.cluster import FLOAT, Cluster, Traffic, traffic
from dist_condense.planning.rates import Calibration, Launching, Updating
from dist_condense.planning.workload import Trials, Workload
from dist_condense.settings import microbatch, needs

ENOUGH = 0.8
"""Lowest parallel efficiency, from 0 to 1, at which a number of workers is recommended."""
FORWARD = 3
"""Operations of a real image's statistic, a forward and a backward pass, relative to those of its features."""
PROCESS, NETWORK, PIXELS = "the process", "network, gradient, momentum", "pixels, momentum, decoded"
STATISTICS, MINIBATCHES, REAL = "statistics of groups", "minibatches", "real images, decoded"
AT_ONCE = "images in the network at once"
BACKWARD = 2 / 3
"""Share of an update of theta that is its backward pass, during which gradients of later layers can be summed."""


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
    sent = traffic(load, cluster, workers)
    steps = Ways.of(load.steps_only, rates, cluster, workers)
    ways = steps.plus(Ways.of_pretraining(load, rates, cluster, workers))
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
        evaluating=evaluating(load.trials, rates.updating, workers, rates.launching.kernel),
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
        sent = traffic(load, cluster, workers)
        own, number = _updating(load, rates, workers), sum(load.updates.values())
        waited = max(0.0, number * cluster.all_reduce(sent.update, workers) - cluster.overlap * own)
        theta = load.segments * cluster.all_reduce(sent.theta, workers)
        return cls((own, waited), (_updating(load, rates, 1), theta))

    @classmethod
    def of_pretraining(cls, load: Workload, rates: Calibration, cluster: Cluster, workers: int) -> Ways:
        """Estimate both ways for the pretraining of networks.

        The networks of a pool are trained in turns of one on each worker, and those that remain likewise or, if they
        are few, one after the other.
        """
        own, number = load.pretraining_only, load.pretrained
        ways = cls.of(own, rates, cluster, workers)
        if not load.pooled or workers == 1 or not number:
            return ways
        turns, remaining = divmod(number, workers)
        if faster_at_once(remaining, workers, load.slices):
            turns, remaining = turns + 1, 0
        at_once = turns / number * _updating(own, rates, 1), 0.0
        return cls(at_once, at_once).plus(ways.times(remaining / number))

    def plus(self, others: Ways) -> Ways:
        """Return the sums of the seconds."""
        return Ways(_added(self.divided, others.divided), _added(self.repeated, others.repeated))

    def times(self, factor: float) -> Ways:
        """Return multiples of the seconds."""
        (a, b), (c, d) = self.divided, self.repeated
        return Ways((factor * a, factor * b), (factor * c, factor * d))

    @property
    def divides(self) -> bool:
        """Whether dividing the slices is faster, so that a run does it."""
        return sum(self.divided) <= sum(self.repeated)

    @property
    def chosen(self) -> tuple[float, float]:
        """The faster way."""
        return self.divided if self.divides else self.repeated


def _added(first: tuple[float, float], second: tuple[float, float]) -> tuple[float, float]:
    return first[0] + second[0], first[1] + second[1]


def evaluating(trials: Sequence[Trials], updating: Updating | None, workers: int, kernel: float = 0.0) -> float | None:
    """Estimate the seconds until all trials have ended, of which each worker runs one at a time, in order.

    :param updating: rates of training theta in slices; a trial has one slice. None: unknown, which is returned.
    :param kernel: least seconds of a kernel.
    """
    ends = [0.0] * workers
    for each in trials:
        if updating is None:
            return None
        least = each.launches * kernel
        trained = sum(n * max(least, each.training * updating.seconds(b, 1, 1)) for b, n in each.updates.items())
        seconds = trained + each.tested * (updating.batch + updating.own)
        for _ in range(each.seeds):
            heapq.heapreplace(ends, ends[0] + seconds)
    return max(ends)


def _matching(load: Workload, rates: Calibration, classes: int) -> float:
    """Estimate the seconds of all matching steps on a worker with ``classes`` classes."""
    if rates.alone is None or not load.steps:
        return 0.0
    alone, shared = (
        max(rate.seconds(classes, load.real, load.synthetic), classes * rates.launching.step)
        for rate in (rates.alone, rates.shared or rates.alone)
    )
    embedding = load.embedded * classes * rates.alone.real / FORWARD
    return (load.steps - load.shared_steps) * alone + load.shared_steps * shared + embedding


def _updating(load: Workload, rates: Calibration, workers: int) -> float:
    """Estimate the seconds of computing all updates of theta on the worker with the most slices."""
    updating, least = rates.updating, rates.launching
    if updating is None:
        return 0.0
    launching = least.update + least.slice * -(-load.slices // workers)
    return sum(n * max(launching, updating.seconds(b, load.slices, workers)) for b, n in load.updates.items())


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
    statistics = needs.of_statistics(load.statistic, groups=load.groups, classes=most, exact=cluster.exact)
    return {
        PROCESS: microbatch.PROCESS[cluster.device],
        NETWORK: 3 * FLOAT * load.parameters,
        PIXELS: FLOAT * (most * (load.pixels + load.decoded) + load.gradient),
        STATISTICS: statistics if load.groups else 0,
        MINIBATCHES: load.real * load.image * (2 * FLOAT + read_ahead.HELD),
        REAL: share(images, workers, 1) if cluster.resident else 0,
        AT_ONCE: max(at_once(load, rates).values(), default=0),
    }


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


LAUNCHES, ARITHMETIC = "launches", "arithmetic"
NOTICED = 1.1
"""Ratio of the time with launches to that of arithmetic alone above which launches are said to bound it."""


def bounds(load: Workload, rates: Calibration, cluster: Cluster, on: Forecast) -> dict[str, str]:
    """Return whether launches of kernels or arithmetic bounds the matching, the training and the evaluation, by field.

    :param on: forecast with these rates.
    :returns: {} if the rates were measured, so that the two cannot be told apart.
    """
    if rates.launching == Launching():
        return {}
    computed = forecast(load, replace(rates, launching=Launching()), cluster, on.workers)

    def bound(name: str) -> str:
        seconds, arithmetic = (getattr(each, name) or 0.0 for each in (on, computed))
        return LAUNCHES if seconds > NOTICED * arithmetic else ARITHMETIC

    return {name: bound(name) for name in ("matching", "training", "evaluating")}


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
