"""Numerics of a worker's process: the threads and kernels that the config states."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dist_condense.settings.schema import ComputeConfig
from dist_condense.system.processor import gpu_kernels, on_threads


def kernels(compute: ComputeConfig, on_gpu: bool) -> dict[str, bool]:
    """Return the values that replace null in ``compute.deterministic`` and ``compute.cudnn_benchmark``."""
    deterministic = on_gpu and bool(compute.reproducible) if compute.deterministic is None else compute.deterministic
    return {"deterministic": deterministic, "cudnn_benchmark": on_gpu and not deterministic}


def contradictions(compute: ComputeConfig) -> Iterator[str]:
    """Yield an error message if two keys contradict each other."""
    if compute.deterministic and compute.cudnn_benchmark:
        yield (
            "compute.cudnn_benchmark: true selects kernels by their times, which differ from run to run, but "
            "compute.deterministic is true (null: the value of compute.reproducible); set one of them to false"
        )


@contextmanager
def numerics(compute: ComputeConfig) -> Iterator[None]:
    """Select threads and kernels within the context.

    :param compute: config whose null values are replaced (:func:`dist_condense.settings.resolve.resolved`); those that
        are not are taken as on the CPU.
    """
    benchmark, deterministic = bool(compute.cudnn_benchmark), bool(compute.deterministic)
    with (
        on_threads(compute.threads),
        gpu_kernels(tf32=compute.tf32, benchmark=benchmark, deterministic=deterministic),
    ):
        yield
