"""What follows of the work and the rates, for any number of workers: pure functions."""

from __future__ import annotations

from dataclasses import dataclass

from dist_condense.data.reading import read_ahead
from dist_condense.data.reading.tiers import share
from dist_condense.planning.rates import Calibration
from dist_condense.planning.workload import Workload

ENOUGH = 0.8
"""Efficiency below which more workers are not worth it."""
FLOAT, INTEGER = 4, 8
PROCESS, NETWORK, PIXELS = "the process", "network, gradient, momentum", "learnt pixels, momentum, decoded"
STATISTICS, MINIBATCHES, REAL = "statistics of classes and sums", "minibatches", "real images, decoded"
AT_ONCE = "images in the network at once"
HELD = {"cpu": 2**30, "cuda": 3 * 2**29}
"""Bytes that a process holds besides tensors: on a CPU as measured (Python, torch, Ray, MLflow); of a GPU assumed
(its context, workspaces of kernels)."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Like workers, and the line between them."""

    device: str
    """`cpu` or `cuda`."""
    exact: bool
    """``compute.reproducible``"""
    bandwidth: float
    """Bytes per second of each worker."""
    resident: bool = False
    """Whether the real images are decoded in the memory that is counted: RAM on CPUs, ``data.tier=gpu`` on GPUs."""
    latency: float = 5e-4
    """Seconds that each collective takes at least."""

    @property
    def alike(self) -> bool:
        """Whether like workers compute the same bits (:func:`dist_condense.system.processor.kind`)."""
        return self.device == "cpu"

    def all_reduce(self, size: int, workers: int) -> float:
        """Seconds to add up so many bytes over workers in a ring; none for nothing."""
        return self.latency + 2 * (workers - 1) / workers * size / self.bandwidth if size and workers > 1 else 0.0

    def sum_bytes(self, values: int, slots: int = 1) -> int:
        """Bytes of a sum: 64-bit integers after the maximum of each slot, or floats."""
        return slots * INTEGER + slots * values * INTEGER if self.exact else slots * values * FLOAT


@dataclass(frozen=True)
class Traffic:
    """Bytes that are all-reduced; nothing where there is one worker."""

    shared_step: int
    """The statistics of a step in which classes are averaged."""
    update: int
    """The gradient of theta, where slices are shared out."""
    theta: int
    """theta and its momentum after each stretch of training, where every worker computes all slices and workers may
    differ in the last bits: GPUs."""
    batch: int
    """The images of the largest batch, gathered."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """A run on so many workers, without its start (opening data, compiling) and without evaluation."""

    workers: int
    most: int
    """Classes of the worker with most, which the others wait for."""
    least: int
    matching: float
    """Seconds."""
    training: float
    shared: float
    """Updates of theta in all, collectives included, with slices shared out among the workers."""
    everywhere: float
    """The same with all slices computed by every worker; a run takes the shorter way."""
    talking: float
    """Of collectives."""
    drawing: float
    traffic: Traffic
    memory: dict[str, int]
    """What a worker holds: its bytes."""

    @property
    def seconds(self) -> float:
        """In all."""
        return self.matching + self.training + self.talking + self.drawing

    @property
    def device_hours(self) -> float:
        """Paid for, over all workers."""
        return self.workers * self.seconds / 3600

    @property
    def bytes(self) -> int:
        """Of a worker."""
        return sum(self.memory.values())


def forecast(load: Workload, rates: Calibration, cluster: Cluster, workers: int) -> Forecast:
    """On so many workers; the slowest sets the pace."""
    most, least = -(-load.classes // workers), load.classes // workers  # as `assign` shares out classes of equal cost
    in_groups = rates.shared or rates.alone
    alone_steps = load.steps - load.shared_steps
    matching = alone_steps * rates.alone.seconds(most, load.real, load.synthetic)
    matching += load.shared_steps * in_groups.seconds(most, load.real, load.synthetic)
    sent = traffic(load, cluster)
    updates = sum(load.updates.values())
    parted = _updating(load, rates, workers), updates * cluster.all_reduce(sent.update, workers)
    repeated = _updating(load, rates, 1), load.stretches * cluster.all_reduce(sent.theta, workers)
    training, gradients = parted if sum(parted) <= sum(repeated) else repeated
    return Forecast(
        workers=workers,
        most=most,
        least=least,
        matching=matching,
        training=training,
        shared=sum(parted),
        everywhere=sum(repeated),
        talking=gradients + _talking(load, cluster, sent, workers),
        drawing=load.networks * rates.draw,
        traffic=sent,
        memory=memory(load, rates, cluster, workers),
    )


def traffic(load: Workload, cluster: Cluster) -> Traffic:
    """What the workers tell each other."""
    return Traffic(
        cluster.sum_bytes(2 * load.statistic, load.groups) if load.shared_steps else 0,
        cluster.sum_bytes(load.parameters) if load.updates else 0,
        0 if cluster.alike else 2 * FLOAT * load.parameters,
        max(load.updates, default=0) * load.image * (1 if load.real_updates else FLOAT),
    )


def _updating(load: Workload, rates: Calibration, workers: int) -> float:
    """Seconds of computing all updates of theta, on the worker with most slices."""
    updating = rates.updating
    return sum(n * updating.seconds(b, load.slices, workers) for b, n in load.updates.items()) if updating else 0.0


def _talking(load: Workload, cluster: Cluster, sent: Traffic, workers: int) -> float:
    """All but gradients of theta. Real images are gathered ahead of need, so that nothing waits for them."""
    statistics = load.shared_steps * cluster.all_reduce(sent.shared_step, workers)
    gathered = 0 if load.real_updates else sum(load.updates.values())
    return statistics + gathered * cluster.all_reduce(sent.batch, workers)


def memory(load: Workload, rates: Calibration, cluster: Cluster, workers: int) -> dict[str, int]:
    """Bytes of the worker with most classes; names of what holds them."""
    most = -(-load.classes // workers)
    sums = load.groups * 2 * load.statistic * (FLOAT + 2 * INTEGER if cluster.exact else 2 * FLOAT)
    images = [count * load.image for count in load.counts]
    return {
        PROCESS: HELD[cluster.device],
        NETWORK: 3 * FLOAT * load.parameters,
        PIXELS: 3 * FLOAT * most * load.pixels + FLOAT * most * load.decoded,
        STATISTICS: (FLOAT * 2 * load.statistic * most + sums) if load.groups else 0,
        MINIBATCHES: load.real * load.image * (2 * FLOAT + read_ahead.HELD),
        REAL: share(images, workers, 1) if cluster.resident else 0,
        AT_ONCE: max(at_once(load, rates).values()),
    }


def at_once(load: Workload, rates: Calibration) -> dict[str, int]:
    """Bytes of the three pieces that take turns: real images, synthetic ones, a slice of a training batch."""
    matched = load.microbatch or max(load.real, load.synthetic)
    found = {
        "real": rates.real.bytes(min(load.real, matched)),
        "synthetic": rates.synthetic.bytes(min(load.synthetic, matched)),
    }
    if rates.training and load.updates:
        found["training"] = rates.training.bytes(-(-max(load.updates) // load.slices))
    return found


def efficiency(load: Workload, rates: Calibration, cluster: Cluster, found: Forecast) -> float:
    """The share of the paid time that a single worker would need."""
    return forecast(load, rates, cluster, 1).seconds / (found.workers * found.seconds)


def best(load: Workload, rates: Calibration, cluster: Cluster) -> Forecast:
    """The most workers, up to one per class, of whose paid time :data:`ENOUGH` is well spent."""
    every = (forecast(load, rates, cluster, workers) for workers in range(load.classes, 0, -1))
    return next(found for found in every if efficiency(load, rates, cluster, found) >= ENOUGH)
