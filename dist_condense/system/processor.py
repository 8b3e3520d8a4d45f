"""Properties of the processor that the last bits of a result depend on: its kind and the number of threads."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

FACTS = ("vendor_id", "cpu family", "model", "model name", "stepping", "cache size", "flags")
"""Lines of /proc/cpuinfo by which libraries select their kernels and partition the work."""


def kind(device: torch.device) -> str | None:
    """Return a text that is equal on machines where the same program computes the same bits.

    None if that is unknown, as on GPUs, whose kernels may add in any order.
    """
    if device.type != "cpu":
        return None
    info = Path("/proc/cpuinfo")
    first = info.read_text().partition("\n\n")[0].splitlines() if info.exists() else []
    facts = [line for line in first if line.partition(":")[0].strip() in FACTS]
    return "\n".join([torch.__version__, platform.machine(), torch.backends.cpu.get_cpu_capability(), *facts])


@contextmanager
def on_threads(threads: int | None) -> Iterator[None]:
    """Set the number of CPU threads of torch within the context; None keeps the present number.

    The number of threads changes the last bits of sums.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
