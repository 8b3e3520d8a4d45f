"""What a checkpoint costs: the time that stepping stands still for it, and the time until it is committed.

    python -m benchmarks.checkpoints [--classes 100] [--ipc 10] [--size 224] [--repeat 5] [--folder DIR]

Pixels and momentum of the size of a run's, written in the background as the journal does, while the main thread goes on
with matrix products; beside it the same products without a checkpoint.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

from dist_condense.engine.coordinator import LocalCoordinator
from dist_condense.job.checkpoint import State
from dist_condense.job.checkpoint_writer import CheckpointWriter
from dist_condense.system.storage import Folder

INTERVAL = 300.0
"""Seconds between two checkpoints by default."""


def main() -> None:
    """Print the table."""
    given = _arguments()
    shape = (given.ipc, 3, given.size, given.size)
    held = {f"{kind}.{c}": torch.randn(shape) for kind in ("pixels", "buffer") for c in range(given.classes)}
    size = sum(x.numel() * 4 for x in held.values()) / 2**20
    print(f"{given.classes} classes x {given.ipc} images of {given.size} px, with momentum: {size:.0f} MiB")
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        copies, commits, slower = zip(*(_once(held, Path(folder), i) for i in range(given.repeat)), strict=True)
    lost = [copy + extra for copy, extra in zip(copies, slower, strict=True)]
    print(f"| copying, stepping stands still | {median(copies):.2f} s | {100 * median(copies) / INTERVAL:.2f} % |")
    print(f"| stepping slowed while it is written | {median(slower):.2f} s | {100 * median(slower) / INTERVAL:.2f} % |")
    print(f"| both | {median(lost):.2f} s (most {max(lost):.2f}) | {100 * median(lost) / INTERVAL:.2f} % |")
    print(f"| until it is committed | {median(commits):.2f} s | |")


def _once(held: dict[str, torch.Tensor], folder: Path, number: int) -> tuple[float, float, float]:
    """Seconds of copying, until the commit, and by which the work beside it took longer."""
    writer = CheckpointWriter(Folder(folder), LocalCoordinator(), kept=1)
    state = State(steps=number, updates=0, identity={}, tracking_run=None, torch=torch.__version__, device="cpu")
    pace = min(_work(1) for _ in range(5))
    began = time.perf_counter()
    own = {name: x.to("cpu", copy=True) for name, x in held.items()}
    copied = time.perf_counter()
    writer.begin(state, own, {})
    del own
    turns = 0
    while writer.busy:
        _work(1)
        turns += 1
    committed = time.perf_counter()
    assert writer.problem is None, writer.problem
    return copied - began, committed - began, committed - copied - turns * pace


def _work(turns: int) -> float:
    began = time.perf_counter()
    x = torch.ones(512, 512)
    for _ in range(turns * 4):
        x = (x @ x).clamp(-1, 1)
    return time.perf_counter() - began


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("--classes", 100), ("--ipc", 10), ("--size", 224), ("--repeat", 5)):
        parser.add_argument(name, type=int, default=default)
    parser.add_argument("--folder", help="where to write; by default the temporary folder")
    return parser.parse_args()


if __name__ == "__main__":
    main()
