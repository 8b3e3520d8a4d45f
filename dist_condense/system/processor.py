"""What the last bits of a number depend on besides the program."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

FACTS = ("vendor_id", "cpu family", "model", "model name", "stepping", "cache size", "flags")
"""Lines of /proc/cpuinfo by which libraries choose their kernels and how they cut the work."""


def kind(device: torch.device) -> str | None:
    """A text that is the same on two machines where the same program gives the same bits; None: not known, as on GPUs,
    whose kernels may add in any order.
    """
    if device.type != "cpu":
        return None
    info = Path("/proc/cpuinfo")
    first = info.read_text().partition("\n\n")[0].splitlines() if info.exists() else []
    facts = [line for line in first if line.partition(":")[0].strip() in FACTS]
    return "\n".join([torch.__version__, platform.machine(), torch.backends.cpu.get_cpu_capability(), *facts])


@contextmanager
def on_threads(threads: int | None) -> Iterator[None]:
    """Compute with so many CPU threads meanwhile; None: with as many as before. They change the last bits of sums."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
