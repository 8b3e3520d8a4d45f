"""The workers of a planned run, the network that connects them, and what they exchange."""

from __future__ import annotations

from dataclasses import dataclass

from dist_condense.planning.workload import Workload
from dist_condense.settings.schema import CUDA

FLOAT, INTEGER = 4, 8
"""Bytes of a number, and of a number in an exact sum."""


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
    """Size in bytes of each kind of all-reduce between workers; all 0 for one worker."""

    shared_step: int = 0
    """Statistics in a matching step that averages them over several classes."""
    update: int = 0
    """Gradient of theta in an update whose slices are divided among the workers."""
    theta: int = 0
    """theta and its momentum, copied from the first worker after each training in which every worker computes all
    slices; 0 on CPUs, where all workers have identical values."""
    batch: int = 0
    """Images of the largest training batch, gathered from the workers that own their classes."""


def traffic(load: Workload, cluster: Cluster, workers: int) -> Traffic:
    """Estimate the bytes that ``workers`` workers exchange."""
    if workers == 1:
        return Traffic()
    return Traffic(
        shared_step=cluster.sum_bytes(2 * load.statistic, load.groups) if load.shared_steps else 0,
        update=cluster.sum_bytes(load.parameters) if load.updates else 0,
        theta=2 * FLOAT * load.parameters if cluster.on_gpu else 0,
        batch=max(load.updates, default=0) * load.image * (1 if load.real_updates else FLOAT),
    )
