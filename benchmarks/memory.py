"""Memory, bytes and time of a matching step against ipc, classes and workers; start, checkpoint and export by classes.

    python -m benchmarks.memory                                  # 16 px, ConvNet-3 of width 16, on this machine's CPU
    python -m benchmarks.memory --sections classes --methods dcc --classes 10 100 1000 --workers 0 2
    python -m benchmarks.memory --sections ipc --microbatch 16
    python -m benchmarks.memory --width 128 --size 32 --real 64 --json outputs/memory.json

Images are random bytes. Every case runs in processes of its own, in one thread. Steps by ipc are those of two classes
of 32 px with ConvNet-3 of width 64, by microbatches.

The peak of a step is the largest sum of the tensors that exist in it besides its result: the state of the worker's
classes (learnt tensors and momentum) and of theta. It may contain the gradient of one class, but with a microbatch it
grows by at most a tenth in ipc from 10 to 100, and in the classes of a worker from 10 to 1,000 with one network;
tests/engine/test_microbatches.py counts both on tensors without values. The columns:

* resident: growth of the process's largest resident size since its modules were imported and a network was run once, in
  MiB; the largest of the workers. It includes the state.
* state: learnt images, their momentum, and the real images, in MiB: what grows by itself with ipc and classes.
* tensors: the peak, in MiB. It is counted, so it is the same on every machine; the workspaces of kernels are not in it.
* phi: the same in units of the statistic of one class, which grows with the classes of the classifier.
* reduced: bytes that a worker passes to all-reduces in a step, in MiB.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch
import torch.distributed as dist

from benchmarks.cases import Engine, Settings, engine
from benchmarks.step import machine
from dist_condense.engine.coordinator import Coordinator, LocalCoordinator, ProcessGroupCoordinator
from dist_condense.job import checkpoint
from dist_condense.job.checkpoint import State
from dist_condense.job.checkpoint_writer import CheckpointWriter
from dist_condense.result.card import Card, CardClass, form_of
from dist_condense.result.synthetic_set import load_set, write_set
from dist_condense.system.memory import keep_freed_memory
from dist_condense.system.peak_bytes import PeakBytes
from dist_condense.system.storage import Folder

MIB = 2**20
Row = dict[str, str | int | float]


def step(settings: Settings, coordinator: Coordinator) -> Row:
    """Measure the matching steps of this worker, after one with which the libraries are loaded."""
    engine(replace(settings, classes=2, ipc=1, per_class=2)).match()
    before = _resident()
    start = time.perf_counter()
    run = engine(settings, coordinator)
    assembled = time.perf_counter()
    run.match()
    times = [time.perf_counter()]
    reduced = coordinator.reduced()
    for _ in range(settings.repeat):
        run.match()
        times.append(time.perf_counter())
    reduced = (coordinator.reduced() - reduced) // settings.repeat
    resident = _resident() - before
    theta = run.trajectory.network.parameters()
    with PeakBytes([*run.shard.learnt.values(), *run.shard.momentum.values(), *theta]) as tensors:
        run.match()
    phi = sum(s.numel() for s in run.shard.shared.shapes(run.trajectory.network)) * 4
    return {
        "assemble s": assembled - start,
        "first s": times[0] - assembled,
        "step s": median(later - earlier for earlier, later in pairwise(times)),
        "resident MiB": resident / MIB,
        "state MiB": _state(run, settings) / MIB,
        "tensors MiB": tensors.most / MIB,
        "phi": tensors.most / phi,
        "reduced MiB": reduced / MIB,
    }


def stored(settings: Settings, coordinator: Coordinator) -> Row:
    """Measure the start of a worker, its first checkpoint, and the export and opening of the set."""
    start = time.perf_counter()
    shard = engine(settings, coordinator).shard
    times = {"assemble s": time.perf_counter() - start}
    names = [CardClass(c, f"class {c}") for c in range(settings.classes)]
    form = form_of(shard.space, shard.shape, shard.recipe.parameterisation)
    card = Card(
        method=settings.method,
        dataset="random",
        classes=names,
        ipc=settings.ipc,
        **form,
        seed=0,
        steps=1,
        complete=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        writer = CheckpointWriter(store := Folder(Path(folder, "checkpoints")), coordinator)
        state = State(steps=1, updates=0, identity={}, tracking_run=None, torch=torch.__version__, device="cpu")

        def save() -> None:
            writer.begin(state, shard.state_dict(), {})
            writer.wait()
            assert writer.problem is None, writer.problem

        def export() -> None:
            opened = checkpoint.opened(store, checkpoint.name_of(1, 0))
            files = [entry for entry in opened.entries if entry.labels]
            tensors = {name: x for part in opened.read(files).values() for name, x in part.items()}
            pixels = torch.cat([tensors[f"pixels.{c}"] for c in range(settings.classes)])
            write_set(Path(folder, "set"), pixels, torch.arange(settings.classes).repeat_interleave(settings.ipc), card)

        def load() -> None:
            load_set(Path(folder, "set"))

        for name, function in (("checkpoint s", save), ("export s", export), ("open s", load)):
            start = time.perf_counter()
            function()
            times[name] = time.perf_counter() - start
    return dict(times)


def _state(run: Engine, settings: Settings) -> int:
    shard = run.shard
    tensors = [*shard.learnt.values(), *shard.momentum.values()]
    real = len(shard.labels) * settings.per_class * torch.Size(shard.shape).numel()
    return sum(x.nbytes for x in tensors) + real


def _resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# --- processes ----------------------------------------------------------------------------------------------------

Measure = Callable[[Settings, Coordinator], Row]


def on_workers(measured: Measure, settings: Settings, workers: int) -> Row:
    """Measure on new processes; return the largest of the workers' values. 0 workers: without a process group."""
    spawn = torch.multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(max(1, workers), mp_context=spawn) as pool:
        run = partial(_worker, measured, settings, workers, Path(folder, "rendezvous").as_uri())
        rows = list(pool.map(run, range(max(1, workers))))
    return {name: max(row[name] for row in rows) for name in rows[0]}


def _worker(measured: Measure, settings: Settings, workers: int, address: str, rank: int) -> Row:
    keep_freed_memory()
    torch.set_num_threads(1)
    if not workers:
        return measured(settings, LocalCoordinator())
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=workers)
    row = measured(settings, ProcessGroupCoordinator())
    dist.destroy_process_group()
    return row


# --- sections -----------------------------------------------------------------------------------------------------


def ipc(arguments: argparse.Namespace) -> Iterator[Row]:
    """Measure steps by ipc, for each method, by microbatches."""
    keys = (*arguments.keys, f"compute.microbatch={arguments.microbatch}")
    larger = argparse.Namespace(**{**vars(arguments), "size": 32, "width": 64, "keys": keys})
    for method in arguments.methods:
        for n in arguments.ipc:
            yield _case(step, larger, method=method, classes=2, ipc=n)


def classes(arguments: argparse.Namespace) -> Iterator[Row]:
    """Measure steps by workers and classes, for each method."""
    for method in arguments.methods:
        for workers in arguments.workers:
            for n in arguments.classes:
                yield _case(step, arguments, method=method, classes=n, workers=workers)


def files(arguments: argparse.Namespace) -> Iterator[Row]:
    """Measure start, checkpoint and export by classes."""
    for n in arguments.classes:
        yield _case(stored, arguments, method="dc", classes=n)


SECTIONS = {"ipc": ipc, "classes": classes, "files": files}


def _case(
    measured: Measure, arguments: argparse.Namespace, *, method: str, classes: int, ipc: int = 1, workers: int = 0
) -> Row:
    sizes = {name: getattr(arguments, name) for name in ("size", "width", "depth", "real", "repeat")}
    settings = Settings(
        method=method, classes=classes, ipc=ipc, per_class=max(arguments.real, ipc), **sizes, overrides=arguments.keys
    )
    case: Row = {"method": method, "classes": classes, "ipc": ipc, "workers": workers}
    return case | on_workers(measured, settings, workers) | {"load": os.getloadavg()[0]}


def _line(cells: Iterable[str | int | float]) -> str:
    return "| " + " | ".join(f"{x:.3g}" if isinstance(x, float) else str(x) for x in cells) + " |"


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--methods", nargs="+", default=["dc", "dcc", "idc_i"])
    for name, several in (("ipc", [10, 30, 100]), ("classes", [10, 100, 1000]), ("workers", [0, 2])):
        parser.add_argument(f"--{name}", nargs="+", type=int, default=several)
    for name, default in (("size", 16), ("width", 16), ("depth", 3), ("real", 16), ("repeat", 2), ("microbatch", 10)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--keys", nargs="+", default=(), metavar="KEY=VALUE", help="further keys of the configuration")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    """Measure and print section by section, and write the rows as JSON if requested."""
    arguments, result = parse(words), {}
    for name in arguments.sections:
        result[name] = rows = list[Row]()
        for row in SECTIONS[name](arguments):
            if not rows:
                print(f"\n{name}\n{_line(row)}\n{_line('---' for _ in row)}")
            print(_line(row.values()), flush=True)
            rows.append(row)
    if arguments.json:
        words = {name: str(value) for name, value in vars(arguments).items()}
        arguments.json.write_text(
            json.dumps({"machine": machine("cpu"), "arguments": words, **result}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
