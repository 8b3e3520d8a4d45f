"""Time of one matching step and of theta's training: parts, plain loops, precision, compilation, and two workers.

    python -m benchmarks.step                        # CIFAR-10 shapes, ConvNet-3, DC, ipc 1, 256 real images
    python -m benchmarks.step --method idc --sections parts,scaling --json outputs/step.json
    python -m benchmarks.step --method idc --sections training training.images=512
    python -m benchmarks.step --device cuda
    python -m benchmarks.step method.real_batch=128  # further keys of docs/config.md

Images are random bytes, so that no data set is needed. Every section runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import KW_ONLY, asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.cases import Engine, Settings, engine, medians, plain_loop, plain_training, seconds, with_overrides
from dist_condense.engine.batches import RealBatches
from dist_condense.engine.coordinator import LocalCoordinator, ProcessGroupCoordinator
from dist_condense.system.memory import keep_freed_memory


@dataclass(frozen=True)
class Measurement:
    """A row of the table."""

    section: str
    name: str
    value: float
    unit: str
    _: KW_ONLY
    low: float | None = None
    """Minimum of the repeated measurements, where ``value`` is their median."""


def time_rows(section: str, times: dict[str, list[float]]) -> list[Measurement]:
    """Return rows with medians and minima in milliseconds."""
    return [Measurement(section, name, 1e3 * x, "ms", low=1e3 * min(times[name])) for name, x in medians(times).items()]


# --- sections -----------------------------------------------------------------------------------------------------


def parts(settings: Settings) -> list[Measurement]:
    """Measure a step and its parts for all classes together, and its GFLOP/s against a matrix product."""
    run = engine(settings)
    square = torch.randn(settings.product, settings.product, device=settings.device)
    pieces = _pieces(run, settings)
    times = seconds(
        {
            "matching step": run.match,
            **pieces,
            "network training": run.train,
            "matrix product": lambda: square @ square,
        },
        settings,
    )
    with FlopCounterMode(display=False) as counter:
        pieces["real statistic"]()
    rate = counter.get_total_flops() / medians(times)["real statistic"] / 1e9
    peak = 2 * settings.product**3 / medians(times)["matrix product"] / 1e9
    rates = {"real statistic": rate, f"matrix product {settings.product}": peak}
    rows = [Measurement("parts", name, x, "GFLOP/s") for name, x in rates.items()]
    return [*time_rows("parts", times), *rows, Measurement("parts", "statistic of the product", 100 * rate / peak, "%")]


def _pieces(run: Engine, settings: Settings) -> dict[str, Callable[[], object]]:
    shard, network = run.shard, run.trajectory.network
    objective, view, labels = shard.recipe.objective, shard.view, shard.labels
    drawn = shard.draws.of(0)
    positions = {c: torch.randperm(settings.per_class)[: settings.real] for c in labels}

    def stored(c: int) -> Tensor:
        return shard.source.redeem(shard.source.announce(c, positions[c]))

    real = {c: view.real(stored(c), drawn[c]) for c in labels}
    synthetic = {c: view.synthetic(shard.learnt_of(c), drawn[c])[0] for c in labels}
    b = {c: objective.statistic(network, real[c]) for c in labels}
    a = {c: objective.statistic(network, synthetic[c]) for c in labels}
    flat = [(0, torch.cat([x.flatten() for x in (*a[c], *b[c])])) for c in shard.labels]
    total = torch.zeros(1, len(flat[0][1]), device=settings.device)

    each: dict[str, Callable[[int], object]] = {
        "loading, normalising": lambda c: view.normalised(stored(c)),
        "loading, augmenting": lambda c: view.real(stored(c), drawn[c]),
        "decoding, augmenting": lambda c: view.synthetic(shard.learnt_of(c), drawn[c]),
        "real statistic": lambda c: objective.statistic(network, real[c]),
        "synthetic double backward": lambda c: objective.match(network, synthetic[c], b[c]),
        "distance and its gradient": lambda c: objective.cotangent(a[c], b[c]),
    }
    whole = {name: lambda f=f: [f(c) for c in shard.labels] for name, f in each.items()}
    sums = {"sums, exact": LocalCoordinator(True), "sums, plain": LocalCoordinator(False)}
    return whole | {name: lambda s=s: s.sum(flat, total, len(flat)) for name, s in sums.items()}


def plain(settings: Settings) -> list[Measurement]:
    """Compare the engine with the plain loop, per class (no sums) and pooled (reproducible and ordinary sums)."""
    rows = []
    for method in ("dc", "dcc"):
        case = replace(settings, method=method)
        runs = {f"{method} engine": engine(case).match}
        if method == "dcc":
            runs |= {"dcc engine, ordinary sums": engine(case, LocalCoordinator(False)).match}
        runs |= {f"{method} plain loop": plain_loop(case, engine(case)).match}
        times = seconds(runs, settings)
        rows += time_rows("plain", times)
        for name in list(runs)[:-1]:
            for measure, of in (("median", medians(times)), ("least", {k: min(x) for k, x in times.items()})):
                slower = 100 * (of[name] / of[f"{method} plain loop"] - 1)
                rows.append(Measurement("plain", f"{name} slower, {measure}", slower, "%"))
    return rows


def precision(settings: Settings) -> list[Measurement]:
    """Measure the error of two classes' image gradient against float64, and the time of a step in bfloat16."""
    few = replace(settings, classes=2)
    reference = _gradient(engine(few, dtype=torch.float64))
    half = with_overrides(few, "compute.autocast=true")
    rows = []
    for name, case in (("float32", few), ("bf16 autocast", half)):
        error, cosine = _compare(_gradient(engine(case)), reference)
        rows.append(Measurement("precision", f"{name}: relative gradient error", error, ""))
        rows.append(Measurement("precision", f"{name}: cosine", cosine, ""))
    runs = {"two classes, float32": engine(few).match, "two classes, bf16 autocast": engine(half).match}
    times = seconds(runs, settings)
    return [*rows, *time_rows("precision", times)]


def _gradient(run: Engine) -> Tensor:
    shard, gradients = run.shard, []
    reads = shard.minibatches.of(0, run.trajectory.network)
    match, drawn = shard.steps.step.match, shard.draws.of(0)
    for c in shard.labels:
        stored = shard.source.redeem(reads.real[c])
        gradients.append(match(run.trajectory.network, shard.learnt_of(c), stored, drawn[c]).gradient["pixels"])
    return torch.cat([g.flatten() for g in gradients]).double()


def _compare(gradient: Tensor, reference: Tensor) -> tuple[float, float]:
    """Return the relative error and the cosine similarity of two gradients."""
    cosine = torch.nn.functional.cosine_similarity(gradient, reference, dim=0)
    return float((gradient - reference).norm() / reference.norm()), float(cosine)


def compiled(settings: Settings) -> list[Measurement]:
    """Measure a step with torch.compile, in float32 and in bfloat16, after two steps that compile and warm up."""
    rows = []
    for name, keys in (("float32", []), ("bf16 autocast", ["compute.autocast=true"])):
        run = engine(with_overrides(settings, "compute.compile=true", *keys))
        rows += time_rows("compiled", seconds({f"matching step, {name}": run.match}, settings, warm=2))
    return rows


def training(settings: Settings) -> list[Measurement]:
    """Compare the updates of theta after a matching step with a plain loop of the same augmentation and CutMix.

    The plain loop indexes normalised images in memory; the engine reads, gathers and normalises stored ones.
    """
    variants = {
        "float32": [],
        "float32, one slice": ["compute.slices=1"],
        "float32, compiled": ["compute.compile=true"],
        "bf16": ["compute.autocast=true"],
        "bf16, compiled": ["compute.autocast=true", "compute.compile=true"],
    }
    settings = with_overrides(settings, "trajectory.matching_steps=1")  # nothing is read before its turn
    like, count = engine(settings), settings.updates()
    runs = {name: engine(with_overrides(settings, *keys)).train_on for name, keys in variants.items()}
    runs |= {
        f"plain loop, {name}": plain_training(settings, like, count, name == "bf16") for name in ("float32", "bf16")
    }
    times = seconds(runs, settings)
    rows = time_rows("training", times)
    for name in variants:
        base = f"plain loop, {name.split(',')[0]}"
        for measure, of in (("median", median), ("least", min)):
            ratio = of(times[base]) / of(times[name])
            rows.append(Measurement("training", f"{name} against the plain loop, {measure}", ratio, "x"))
    return [Measurement("training", "updates", count, ""), *rows]


def freed_memory_kept(settings: Settings) -> list[Measurement]:
    """Measure a step with the allocator settings of workers, which keep freed memory."""
    return time_rows("memory", seconds({"freed memory kept": engine(settings).match}, settings))


def freed_memory_returned(settings: Settings) -> list[Measurement]:
    """Measure a step with the allocator's default settings."""
    return time_rows("memory", seconds({"freed memory returned": engine(settings).match}, settings))


def scaling(settings: Settings) -> list[Measurement]:
    """Measure matching and training of the same classes on 1 and on 2 workers with one thread each, in turns.

    The speed-up in CPU seconds is the one that workers without waiting would have. Other processes disturb it less.
    """
    if settings.device == "cuda" and torch.cuda.device_count() < 2:
        print("scaling    skipped: it needs two GPUs")
        return []
    settings, rows = replace(settings, threads=1), list[Measurement]()
    with tempfile.TemporaryDirectory() as folder, _processes(2) as pool:
        run = partial(_worker, settings, rendezvous=Path(folder, "rendezvous").as_uri())
        workers = list(pool.map(run, range(2)))
    for part, clock in product(("matching", "training", "step"), ("wall", "CPU")):
        one = workers[0][part, clock, 1]
        two = [max(turn) for turn in zip(*(worker[part, clock, 2] for worker in workers), strict=True)]
        for n, times in ((1, one), (2, two)):
            name = f"{part}, {n} of one thread, {clock}"
            rows.append(Measurement("scaling", name, 1e3 * median(times), "ms", low=1e3 * min(times)))
        for name, of in (("median", median), ("least", min)):
            rows.append(Measurement("scaling", f"{part}, speed-up, {clock}, {name}", of(one) / of(two), "x"))
    return rows


Turns = dict[tuple[str, str, int], list[float]]
"""Seconds of each turn, by part, clock and number of workers."""


def _worker(settings: Settings, rank: int, *, rendezvous: str) -> Turns:
    prepare(settings)
    if settings.device == "cuda":
        torch.cuda.set_device(rank)  # NCCL refuses two ranks on one GPU
    backend = "nccl" if settings.device == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=rendezvous, rank=rank, world_size=2)
    engines = {1: engine(settings) if rank == 0 else None, 2: engine(settings, ProcessGroupCoordinator())}
    turns: Turns = defaultdict(list)
    for turn in range(1 + settings.repeat):
        for workers, run in engines.items():
            clocks = []
            for part in (run.match, run.train) if run else (_rest, _rest):
                dist.barrier()
                before = time.perf_counter(), time.process_time()
                part()
                dist.barrier()
                clocks.append((time.perf_counter() - before[0], time.process_time() - before[1]))
            if turn and run:
                for name, wall, cpu in (("matching", *clocks[0]), ("training", *clocks[1]), ("step", *_sum(clocks))):
                    turns[name, "wall", workers].append(wall)
                    turns[name, "CPU", workers].append(cpu)
    for run in engines.values():
        if run and isinstance(run.trajectory.batches, RealBatches):
            run.trajectory.batches.drop()  # a reading thread uses the process group
    dist.destroy_process_group()
    return turns


def _sum(clocks: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return sum(wall for wall, _ in clocks), sum(cpu for _, cpu in clocks)


def _rest() -> None:
    """Leave the machine to the other worker."""


# --- the command --------------------------------------------------------------------------------------------------

Section = Callable[[Settings], list[Measurement]]
SECTIONS: dict[str, tuple[Section, ...]] = {
    "parts": (parts,),
    "plain": (plain,),
    "precision": (precision,),
    "compiled": (compiled,),
    "training": (training,),
    "memory": (freed_memory_kept, freed_memory_returned),
    "scaling": (scaling,),
}
QUICK = {
    "classes": 3,
    "real": 4,
    "size": 8,
    "width": 4,
    "depth": 1,
    "per_class": 8,
    "product": 64,
    "repeat": 1,
    "threads": 1,
}
QUICK_SECTIONS = ["parts", "plain", "precision"]


def prepare(settings: Settings, keep: bool = True) -> None:
    """Set the threads and the allocator of this process."""
    if keep:
        keep_freed_memory()
    if settings.threads:
        torch.set_num_threads(settings.threads)


def run_section(function: Section, settings: Settings) -> list[Measurement]:
    """Run a function of a section in this process."""
    prepare(settings, function is not freed_memory_returned)
    return function(settings)


def measure(settings: Settings, names: Sequence[str]) -> list[Measurement]:
    """Run and print these sections, each function in a process of its own."""
    rows = []
    for function in (f for name in names for f in SECTIONS[name]):
        new = (
            scaling(settings) if function is scaling else _alone(function, settings)
        )  # scaling starts processes itself
        print(table(new), flush=True)
        rows += new
    return rows


def _alone(function: Section, settings: Settings) -> list[Measurement]:
    with _processes(1) as pool:
        return pool.submit(run_section, function, settings).result()


def _processes(n: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(n, mp_context=torch.multiprocessing.get_context("spawn"))


def machine(device: str) -> dict[str, Any]:
    """Describe the hardware and software on which the numbers depend."""
    gpu = {"gpu": torch.cuda.get_device_name()} if device == "cuda" else {}
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    return {**versions, "cpu": torch.backends.cpu.get_cpu_capability(), "cores": os.cpu_count(), **gpu}


def table(rows: Sequence[Measurement]) -> str:
    """Format rows as lines of text."""
    lines = [f"{r.section:10} {r.name:40} {r.value:12.5g} {r.unit:8}" for r in rows]
    least = [f" (least {r.low:.5g})" if r.low else "" for r in rows]
    return "\n".join((line + low).rstrip() for line, low in zip(lines, least, strict=True))


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="further keys of the configuration")
    parser.add_argument("--method", default="dc", help="default: dc")
    parser.add_argument("--real", type=int, help="real images per class (dc 256, idc 64)")
    parser.add_argument("--ipc", type=int, help="images per class (dc 1; idc 10, decoded to 40)")
    for name in ("classes", "size", "width", "depth", "repeat", "threads"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Settings, name))
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--sections", help=f"some of {','.join(SECTIONS)}; default: all")
    parser.add_argument("--quick", action="store_true", help=f"tiny shapes; by default only {','.join(QUICK_SECTIONS)}")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    return parser.parse_args(words)


def settings_of(arguments: argparse.Namespace) -> Settings:
    """Make the settings, with the defaults of the method."""
    idc = arguments.method.startswith("idc")
    sizes = {name: getattr(arguments, name) for name in ("classes", "size", "width", "depth", "repeat", "threads")}
    sizes |= {"real": arguments.real or (64 if idc else 256), "ipc": arguments.ipc or (10 if idc else 1)}
    sizes |= QUICK if arguments.quick else {}
    return Settings(method=arguments.method, **sizes, device=arguments.device, overrides=tuple(arguments.overrides))


def main(words: Sequence[str] | None = None) -> None:
    """Measure and print section by section, and write the rows as JSON if requested."""
    arguments = parse(words)
    settings = settings_of(arguments)
    default = QUICK_SECTIONS if arguments.quick else list(SECTIONS)
    rows = measure(settings, arguments.sections.split(",") if arguments.sections else default)
    if arguments.json:
        result = {"machine": machine(settings.device), "settings": asdict(settings), "rows": [asdict(r) for r in rows]}
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
