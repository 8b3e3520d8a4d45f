"""Properties of the processor that determine the last bits of a result: its kind, number of threads and kernels."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

FACTS = ("vendor_id", "cpu family", "model", "model name", "stepping", "cache size", "flags")
"""Keys of /proc/cpuinfo whose values determine which kernels libraries select and how they partition the work."""


def kind(device: torch.device) -> str | None:
    """Return a description of the processor, equal on machines where the same code computes the same bits.

    Returns None for devices other than CPUs, because GPU kernels, for example, may add in any order.
    """
    if device.type != "cpu":
        return None
    info = Path("/proc/cpuinfo")
    first = info.read_text().partition("\n\n")[0].splitlines() if info.exists() else []
    facts = [line for line in first if line.partition(":")[0].strip() in FACTS]
    return "\n".join([torch.__version__, platform.machine(), torch.backends.cpu.get_cpu_capability(), *facts])


@contextmanager
def on_threads(threads: int | None) -> Iterator[None]:
    """Set torch's number of CPU threads within the context; None leaves it unchanged.

    The last bits of sums depend on the number of threads.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def gpu_kernels(*, tf32: bool, benchmark: bool, deterministic: bool) -> Iterator[None]:
    """Select the kernels of GPUs within the context; the parameters are those of ``torch.backends.cudnn``.

    :param tf32: whether products of float32 matrices, too, may be rounded to TF32.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul  # cudnn.flags() would turn cuDNN off
    before = cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32
    cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32 = benchmark, deterministic, tf32, tf32
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32 = before
