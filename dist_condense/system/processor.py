"""Properties of the processor that determine speed and last bits: kind, bfloat16, compilers, threads and kernels."""

from __future__ import annotations

import os
import platform
import shutil
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch

FACTS = ("vendor_id", "cpu family", "model", "model name", "stepping", "cache size", "flags")
"""Keys of /proc/cpuinfo whose values determine which kernels libraries select and how they partition the work."""
CPU_INFO = Path("/proc/cpuinfo")
BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}
"""Flags of CPUs (x86, Arm) with products of bfloat16 numbers."""


def kind(device: torch.device) -> str | None:
    """Return a description of the processor, equal on machines where the same code computes the same bits.

    Returns None for devices other than CPUs, because GPU kernels, for example, may add in any order.
    """
    if device.type != "cpu":
        return None
    first = CPU_INFO.read_text().partition("\n\n")[0].splitlines() if CPU_INFO.exists() else []
    facts = [line for line in first if line.partition(":")[0].strip() in FACTS]
    return "\n".join([torch.__version__, platform.machine(), torch.backends.cpu.get_cpu_capability(), *facts])


def has_bfloat16(device: str, info: Path = CPU_INFO) -> bool:
    """Return whether the GPU (``cuda``) or else the CPU here has instructions for products of bfloat16 numbers.

    True for a CPU that does not say so.
    """
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return not info.exists() or not BFLOAT16.isdisjoint(info.read_text().split())


def lacks_compiler(device: str) -> str | None:
    """Return what torch.compile lacks here to compile for a device, ``cuda`` or ``cpu``; None if it lacks nothing."""
    names = (os.environ.get("CC"), "gcc", "clang") if device == "cuda" else (os.environ.get("CXX"), "g++")
    if not any(name and shutil.which(name.split()[0]) for name in names):
        return "a C compiler (gcc, or CC)" if device == "cuda" else "a C++ compiler (g++, or CXX)"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "the headers of Python (Python.h, in Debian's python3-dev)"
    return None


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
    :param deterministic: whether all operations add in a fixed order (:func:`deterministic_kernels`).
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul  # cudnn.flags() would turn cuDNN off
    before = cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
    cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = benchmark, tf32, tf32
    try:
        with deterministic_kernels() if deterministic else nullcontext():
            yield
    finally:
        cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before


CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
"""Variable that cuBLAS reads at the first matrix product of a process."""


@contextmanager
def deterministic_kernels(warn: bool = False) -> Iterator[None]:
    """Select operations whose results do not differ from run to run within the context, on one kind of GPU.

    An operation without such a form raises RuntimeError on a GPU, or is a warning if ``warn``. cuDNN must not time its
    algorithms, because it could select others at the next start.
    """
    os.environ.setdefault(CUBLAS, ":4096:8")
    cudnn, memory = torch.backends.cudnn, cast(Any, torch.utils.deterministic)
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    others = cudnn.deterministic, memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=warn)  # those of compiled code, too
    cudnn.deterministic, memory.fill_uninitialized_memory = True, False  # nothing is filled to find faults
    try:
        yield
    finally:
        cudnn.deterministic, memory.fill_uninitialized_memory = others
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
