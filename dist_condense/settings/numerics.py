"""Numerics of a worker's process: the threads and kernels that the config states."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dist_condense.settings.schema import ComputeConfig
from dist_condense.system.processor import gpu_kernels, on_threads


@contextmanager
def numerics(compute: ComputeConfig) -> Iterator[None]:
    """Select threads and kernels within the context.

    :param compute: config whose null values are replaced (:func:`dist_condense.settings.resolve.resolved`); those that
        are not are taken as on the CPU.
    """
    kernels = gpu_kernels(
        tf32=compute.tf32, benchmark=bool(compute.cudnn_benchmark), deterministic=bool(compute.reproducible)
    )
    with on_threads(compute.threads), kernels:
        yield
