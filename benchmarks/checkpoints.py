"""Cost of a checkpoint: the time that it interrupts and slows stepping, and the time until it is committed.

    python -m benchmarks.checkpoints [--classes 100] [--ipc 10] [--size 224] [--repeat 5] [--folder DIR]

Pixels and momentum of a run's size are written in the background, as by the journal, while the main thread computes
matrix products. The time of the same products without a checkpoint is subtracted.
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
"""Default number of seconds between two checkpoints."""


def main() -> None:
    """Measure and print the table."""
    arguments = _arguments()
    shape = (arguments.ipc, 3, arguments.size, arguments.size)
    names = [f"{kind}.{c}" for kind in ("pixels", "buffer") for c in range(arguments.classes)]
    tensors = {name: torch.randn(shape) for name in names}
    size = sum(x.numel() * 4 for x in tensors.values()) / 2**20
    print(f"{arguments.classes} classes x {arguments.ipc} images of {arguments.size} px, with momentum: {size:.0f} MiB")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        times = [_once(tensors, Path(folder), i) for i in range(arguments.repeat)]
    copies, commits, slower = zip(*times, strict=True)
    lost = [copy + extra for copy, extra in zip(copies, slower, strict=True)]
    print(f"| stepping interrupted by the copy | {median(copies):.2f} s | {100 * median(copies) / INTERVAL:.2f} % |")
    print(f"| stepping slowed by the writing | {median(slower):.2f} s | {100 * median(slower) / INTERVAL:.2f} % |")
    print(f"| both | {median(lost):.2f} s (most {max(lost):.2f}) | {100 * median(lost) / INTERVAL:.2f} % |")
    print(f"| until it is committed | {median(commits):.2f} s | |")


def _once(tensors: dict[str, torch.Tensor], folder: Path, number: int) -> tuple[float, float, float]:
    """Write one checkpoint; return the seconds of copying, until the commit, and of delay of the concurrent work."""
    writer = CheckpointWriter(Folder(folder), LocalCoordinator(), kept=1)
    state = State(steps=number, updates=0, identity={}, tracking_run=None, torch=torch.__version__, device="cpu")
    pace = min(_work(1) for _ in range(5))
    start = time.perf_counter()
    own = {name: x.to("cpu", copy=True) for name, x in tensors.items()}
    copied = time.perf_counter()
    writer.begin(state, own, {})
    del own
    turns = 0
    while writer.busy:
        _work(1)
        turns += 1
    committed = time.perf_counter()
    assert writer.problem is None, writer.problem
    return copied - start, committed - start, committed - copied - turns * pace


def _work(turns: int) -> float:
    start = time.perf_counter()
    x = torch.ones(512, 512)
    for _ in range(turns * 4):
        x = (x @ x).clamp(-1, 1)
    return time.perf_counter() - start


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("--classes", 100), ("--ipc", 10), ("--size", 224), ("--repeat", 5)):
        parser.add_argument(name, type=int, default=default)
    parser.add_argument("--folder", help="folder of the checkpoints; by default the temporary folder")
    return parser.parse_args()


if __name__ == "__main__":
    main()
