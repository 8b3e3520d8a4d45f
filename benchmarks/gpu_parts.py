"""Parts of the check of a machine, each a function of a Task; benchmarks/gpu_check.py runs each in its own process.

    python -m benchmarks.gpu_parts PART --device cuda --seconds 60 --json part.json --work FOLDER

A part writes its JSON after every measurement, so that what was measured before it is stopped is kept.
"""

from __future__ import annotations

import argparse
import gc
import gzip
import json
import os
import shutil
import threading
import time
import traceback
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import partial
from io import StringIO
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.cases import ImagesOnDevice, assembled, plain_idc, random_images
from dist_condense.commands import cli
from dist_condense.engine.coordinator import Placement
from dist_condense.job.job import Job
from dist_condense.job.stop import Terminated
from dist_condense.result import metrics_file
from dist_condense.result.environment import environment
from dist_condense.result.synthetic_set import load_set
from dist_condense.settings import assembly
from dist_condense.settings.config import RunConfig, load
from dist_condense.settings.run_folder import RunFolder
from dist_condense.system.files import write_atomically
from dist_condense.system.memory import keep_freed_memory
from dist_condense.system.processor import gpu_kernels

ROOT = Path(__file__).parents[1]
GIB, TERA = 2**30, 1e12
Row = dict[str, Any]
"""Row of a table: ``name``, then numbers by the name of their column, or ``skipped_because`` or ``failed_because`` with
a reason."""


class Skipped(Exception):
    """Exception that ends a part that cannot run here; the message is the reason."""


@dataclass
class Task:
    """What a part is given, and the result that it writes."""

    part: str
    _: KW_ONLY
    device: torch.device
    seconds: float
    """Limit of the part, after which its process is ended."""
    json: Path
    work: Path
    """Folder for files that are not results."""
    data: Path | None = None
    smoke: bool = False
    """Whether tiny shapes are used, which only shows that every part runs."""
    keys: Sequence[str] = ()
    """Further keys of the run."""
    rate: float | None = None
    """Measured operations per second of a bf16 matrix product on this device, in units of 1e12."""
    result: dict[str, Any] = field(default_factory=dict)
    start: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds until the limit."""
        return self.seconds - (time.monotonic() - self.start)

    @property
    def classes(self) -> int:
        """Number of classes in the measured steps."""
        return 2 if self.smoke else 10

    def some(self, cases: dict[str, Any]) -> dict[str, Any]:
        """Return all cases, or the first one in the smoke test."""
        return dict(list(cases.items())[: 1 if self.smoke else None])

    def timed(self, work: Callable[[], object], *, warm: int, least: int, longest: float = 3.0) -> list[float]:
        """Return the seconds of each of at least ``least`` calls, and of more within ``longest`` seconds.

        :param warm: calls before the timed ones. In the smoke test, there is one of each.
        """
        if self.smoke:
            warm, least, longest = 1, 1, 0
        wait = partial(torch.cuda.synchronize, self.device) if self.device.type == "cuda" else lambda: None
        for _ in range(warm):
            work()
        times: list[float] = []
        while len(times) < least or (sum(times) < longest / 2 and len(times) < 50):
            wait()
            start = time.perf_counter()
            work()
            wait()
            times.append(time.perf_counter() - start)
            if sum(times) > longest and len(times) >= min(3, least):
                break
        return times

    def add(self, *rows: Row, **facts: Any) -> None:
        """Add rows and facts to the result, and write it."""
        self.result.setdefault("rows", []).extend(rows)
        self.result |= facts
        write_atomically(self.json, (json.dumps(self.result, indent=1) + "\n").encode())

    def finish(self, status: str, reason: str = "") -> None:
        """Write how the part ended."""
        self.add(status=status, reason=reason, seconds=round(time.monotonic() - self.start, 1))


# --- the machine --------------------------------------------------------------------------------------------------


def machine(task: Task) -> None:
    """Describe the machine, and measure the rates of matrix products and of a copy on the device."""
    facts = environment()
    if task.device.type == "cuda":
        properties = torch.cuda.get_device_properties(task.device)
        facts |= {
            "gpu": properties.name,
            "gpu_gib": properties.total_memory / GIB,
            "cudnn": torch.backends.cudnn.version(),
        }
    task.add(machine=facts)
    side = 256 if task.smoke else 8192 if task.device.type == "cuda" else 2048
    for name, dtype, is_tf32 in PRODUCTS:
        if is_tf32 and task.device.type != "cuda":
            task.add({"name": f"{name} matrix product", "skipped_because": "needs a CUDA device"})
            continue
        with gpu_kernels(tf32=is_tf32, benchmark=True, deterministic=False):
            square = torch.randn(side, side, device=task.device, dtype=dtype)
            seconds = median(task.timed(lambda x=square: x @ x, warm=2, least=10))
        task.add({"name": f"{name} matrix product of side {side}", "TFLOP/s": 2 * side**3 / seconds / TERA})
        if name == "bf16":
            task.add(rate=2 * side**3 / seconds / TERA)
    source = torch.randint(256, (2**20 if task.smoke else 2**28,), device=task.device, dtype=torch.uint8)
    target = torch.empty_like(source)
    seconds = median(task.timed(lambda: target.copy_(source), warm=2, least=10))
    task.add({"name": "copy on the device, read and written", "GB/s": 2 * source.nbytes / seconds / 1e9})


PRODUCTS = (("bf16", torch.bfloat16, False), ("float32", torch.float32, False), ("TF32", torch.float32, True))


# --- the GPU tests ------------------------------------------------------------------------------------------------


def tests(task: Task) -> None:
    """Run the tests that need a CUDA device, without plugins and without the settings of pyproject.toml."""
    import pytest

    files = sorted(str(x) for x in ROOT.glob("tests/**/test_*.py") if "mark.gpu" in x.read_text())
    if not files:
        raise Skipped("there are no tests here; the check needs a checkout")
    report = task.work / "tests.xml"
    words = ["-c", os.devnull, "--rootdir", str(ROOT), "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    code = pytest.main([*words, f"--junitxml={report}", f"--basetemp={task.work / 'pytest'}", *files])
    if not report.is_file():
        raise RuntimeError(f"pytest ended with {int(code)} and without a report")
    cases = list(ET.parse(report).iter("testcase"))
    ended = {kind: [case.get("name") for case in cases if case.find(kind) is not None] for kind in KINDS}
    bad = [*ended["failure"], *ended["error"]]
    counts = {
        "passed": len(cases) - sum(map(len, ended.values())),
        "failed": len(bad),
        "skipped": len(ended["skipped"]),
    }
    task.add({"name": "GPU tests", **counts}, *({"name": name, "failed": 1} for name in bad))
    if bad or code not in (0, 5):
        raise RuntimeError(f"{len(bad)} of {len(cases)} GPU tests failed, pytest ended with {int(code)}")
    if counts["passed"] == 0:
        raise Skipped(f"all {len(cases)} GPU tests were skipped: {_reason(cases)}")


KINDS = ("failure", "error", "skipped")


def _reason(cases: Sequence[ET.Element]) -> str:
    return next((str(x.get("message")) for case in cases for x in case.iter("skipped")), "there are none")


# --- steps --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Matching step of a shipped config on random images of its size."""

    config: str
    size: int
    per_class: int
    keys: tuple[str, ...] = ()
    tiny: tuple[str, ...] = ()
    """Keys of the smoke test."""
    graphs: int = 5
    """Number of CUDA graphs, each of which keeps the memory of a class's step."""

    def made(self, task: Task, *more: str) -> tuple[RunConfig, ImagesOnDevice]:
        """Return the config and its random images."""
        keys = ["cluster.workers=0", f"cluster.device={task.device.type}", "trajectory.start=fresh"]
        config = load(f"configs/{self.config}", [*keys, *self.keys, *(self.tiny if task.smoke else ()), *more])
        if task.smoke:
            return config, random_images(task.classes, 16, 16)
        return config, random_images(task.classes, self.size, self.per_class)


_SMALL = ("ipc=1", "method.real_batch=4", "training.images=8", "training.batch=4", "network.width=4")
SHAPES: dict[str, dict[str, Shape]] = {
    "step32": {
        "32 px, 64 real + 40 decoded": Shape(
            config="cifar10_idc.yaml", size=32, per_class=500, tiny=(*_SMALL, "network.depth=1")
        )
    },
    "step224": {
        "224 px, 64 real + 90 decoded": Shape(
            config="imagenet10_idc.yaml", size=224, per_class=128, tiny=_SMALL, graphs=1
        ),
        "224 px, 16 real + 18 decoded": Shape(
            config="imagenet10_idc.yaml", size=224, per_class=128, keys=("ipc=2", "method.real_batch=16"), tiny=_SMALL
        ),
    },
}
"""Shapes of the steps that each part measures: the published ones of CIFAR-10 and of ImageNet-10, and a small one."""


@dataclass(frozen=True, kw_only=True)
class Precision:
    """Keys of the config, and whether what stays float32 uses TF32 on a GPU."""

    keys: tuple[str, ...] = ()
    tf32: bool = False
    needs_gpu: bool = False


FLOAT32, TF32 = Precision(), Precision(tf32=True, needs_gpu=True)
BF16 = Precision(keys=("compute.autocast=true",), tf32=True)
COMPILED = ("compute.compile=true",)


@dataclass(frozen=True)
class Variant:
    """A way to compute a step."""

    precision: Precision
    keys: tuple[str, ...] = ()
    """Further keys of the config."""
    _: KW_ONLY
    plain: bool = False
    """Whether the plain loop computes the step, instead of the engine."""
    captured: bool = False
    """Whether the step is captured in CUDA graphs."""
    needs: float = 0.0
    """Seconds on a GPU before it can be timed; it is skipped where fewer are left, and in the smoke test."""


VARIANTS: dict[str, Variant] = {
    "plain loop, TF32": Variant(TF32, plain=True),
    "plain loop, float32": Variant(FLOAT32, plain=True),
    "engine, eager, float32": Variant(FLOAT32),
    "engine, eager, TF32": Variant(TF32),
    "engine, eager, bf16": Variant(BF16),
    "engine, captured, bf16": Variant(BF16, captured=True),
    "engine, compiled, bf16": Variant(BF16, COMPILED, needs=25),
    "engine, compiled, captured, bf16": Variant(BF16, COMPILED, captured=True, needs=25),
    "engine, compiled, NHWC, bf16": Variant(BF16, (*COMPILED, "compute.channels_last=true"), needs=25),
    "engine, compiled, forward, bf16": Variant(BF16, (*COMPILED, "compute.second_derivative=forward"), needs=25),
    "engine, compiled, TF32": Variant(TF32, COMPILED, needs=25),
    "engine, compiled, float32": Variant(FLOAT32, COMPILED, needs=25),
}
"""Measured variants by name, in this order; all are compared with the first that runs. The published programs run with
torch's default, TF32 convolutions."""


def steps(task: Task) -> None:
    """Measure the matching step of all classes, and the training of theta after it, in every variant.

    Variants that take long to prepare come after the others of all shapes. Raises RuntimeError at the end if any
    failed.
    """
    keep_freed_memory()
    base: dict[str, float] = {}
    failed: list[str] = []
    for late, (title, shape) in product((False, True), task.some(SHAPES[task.part]).items()):
        operations = step_operations(*shape.made(task))
        which = ", variants that take long to prepare" if late else ""
        task.add({"name": title, "heading": f"{task.classes} classes, {operations / TERA:.4g} TFLOP a step{which}"})
        for name, variant in ((name, x) for name, x in VARIANTS.items() if bool(x.needs) == late):
            row = _skipped(task, variant) or _tried(task, shape, variant, operations)
            if "ms" in row:
                row["x plain"] = base.setdefault(title, row["ms"]) / row["ms"]
            failed += [f"{title}: {name}"] if "failed_because" in row else []
            task.add({"name": name, **row})
    if failed:
        raise RuntimeError(f"not measured: {'; '.join(failed)}")


def step_operations(config: RunConfig, data: ImagesOnDevice) -> float:
    """Return the floating-point operations that a matching step of all classes must do, 2 per multiply-add.

    A real image costs a forward and a backward pass, 3 F with F of a forward pass, and a decoded one twice as many for
    its statistic and 2 F more for the gradient, 8 F in all.
    """
    network = assembly.network_builder(config, data)(0).eval()  # type: ignore[arg-type]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, *data.shape))
    decoded = min(assembly.parameterisation_of(config).count(config.ipc), config.method.synthetic_limit)
    return float(counter.get_total_flops() * len(data.classes) * (3 * config.method.real_batch + 8 * decoded))


def _skipped(task: Task, variant: Variant) -> Row | None:
    """Return why a variant is not measured, else None."""
    if (variant.captured or variant.precision.needs_gpu) and task.device.type != "cuda":
        return {"skipped_because": "needs a CUDA device"}
    if variant.needs and task.smoke:
        return {"skipped_because": "not in the smoke test"}
    if task.left < variant.needs:
        return {"skipped_because": f"fewer than {variant.needs:.0f} s were left"}
    return None


def _tried(task: Task, shape: Shape, variant: Variant, operations: float) -> Row:
    """Return the numbers of a variant, or why it failed."""
    try:
        return _measured(task, shape, variant, operations)
    except Exception as error:
        traceback.print_exc()
        return {"failed_because": _first_line(error)}


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"


def _measured(task: Task, shape: Shape, variant: Variant, operations: float) -> Row:
    """Return the numbers of a variant."""
    on_gpu, precision = task.device.type == "cuda", variant.precision
    graphs = (f"compute.cuda_graphs={shape.graphs}",) if variant.captured else ()
    config, data = shape.made(task, *precision.keys, *variant.keys, *graphs)
    if on_gpu:
        gc.collect()  # an engine refers to itself
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(task.device)
    with gpu_kernels(tf32=precision.tf32, benchmark=True, deterministic=False):  # as in runs and published programs
        engine = assembled(config, data, Placement(task.device))
        try:
            work: Callable[[], None] = plain_idc(config, data, engine).match if variant.plain else engine.match
            times = task.timed(work, warm=3, least=7)
            row: Row = {"ms": 1e3 * median(times), "least ms": 1e3 * min(times)}
            if not variant.plain:
                row["training ms"] = 1e3 * median(task.timed(engine.train_on, warm=1, least=3))
                if (microbatch := engine.shard.steps.objective.microbatch) != (config.compute.microbatch or 0):
                    row["halved to images"] = microbatch  # memory was exhausted
        finally:
            engine.shard.source.close()
    row["TFLOP/s"] = operations / median(times) / TERA
    if task.rate:
        row["% of bf16 products"] = 100 * row["TFLOP/s"] / task.rate
    if on_gpu:
        row["peak GiB"] = torch.cuda.max_memory_allocated(task.device) / GIB
    return row


# --- a profile ----------------------------------------------------------------------------------------------------

TOP = 12
"""Number of kernels that are reported."""


def profile(task: Task) -> None:
    """Profile matching steps of each size: the longest kernels, and the share of time in which the GPU is idle."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    on_gpu = task.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    for shapes in SHAPES.values():
        title, shape = next(iter(shapes.items()))
        config, data = shape.made(task, *BF16.keys)
        with gpu_kernels(tf32=BF16.tf32, benchmark=True, deterministic=False):
            engine = assembled(config, data, Placement(task.device))
            task.timed(engine.match, warm=3, least=1, longest=0)
            with profiler(activities=activities) as profiled:
                engine.match()
                if on_gpu:
                    torch.cuda.synchronize()
        engine.shard.source.close()
        task.add({"name": title, "heading": "a matching step of the engine, eager, bf16"})
        task.add(*_kernels(profiled.events(), on_gpu))


def _kernels(events: Any, on_gpu: bool) -> Iterator[Row]:
    """Yield the longest kernels (operators on a CPU), after a row with the times in which the GPU works and idles."""
    if on_gpu:
        kernels = [x for x in events if x.device_type == torch.autograd.DeviceType.CUDA and not x.is_user_annotation]
        spans = sorted((x.time_range.start, x.time_range.end) for x in kernels)
        yield from _gaps(spans)
        costs = [(x.name, x.time_range.elapsed_us()) for x in kernels]
    else:
        yield {"name": "idle time of the GPU", "skipped_because": "needs a CUDA device"}
        costs = [(x.name, x.self_cpu_time_total) for x in events]
    total = sum(us for _, us in costs) or 1.0
    by_name: dict[str, list[float]] = {}
    for name, us in costs:
        by_name.setdefault(name, []).append(us)
    for name, times in sorted(by_name.items(), key=lambda x: -sum(x[1]))[:TOP]:
        yield {"name": name[:100], "ms": sum(times) / 1e3, "%": 100 * sum(times) / total, "calls": len(times)}


def _gaps(spans: Sequence[tuple[float, float]]) -> Iterator[Row]:
    """Yield a row with the time from the first to the last kernel, and the share in which none runs."""
    if not spans:
        yield {"name": "idle time of the GPU", "skipped_because": "the profiler saw no kernel"}
        return
    busy, end = 0.0, spans[0][0]
    for first, last in spans:
        busy += max(0.0, last - max(first, end))
        end = max(end, last)
    whole = end - spans[0][0]
    yield {"name": "first to last kernel", "ms": whole / 1e3, "idle %": 100 * (1 - busy / whole), "calls": len(spans)}


# --- rates for plan -----------------------------------------------------------------------------------------------

PLANNED = {
    f"{title}, IDC, ipc 10, {precision}": (f"{name}_idc.yaml", f"compute.autocast={autocast}")
    for precision, autocast in (("bf16", "true"), ("float32", "false"))
    for title, name in (("CIFAR-10", "cifar10"), ("ImageNet-10", "imagenet10"))
}
"""Config and key of each planned run; rates in bf16 are measured first, because docs/cluster.md plans with them."""


def rates(task: Task) -> None:
    """Measure the rates that ``dist-condense plan --calibration`` reads, and estimate the published runs by them."""
    for title, (name, key) in task.some(PLANNED).items():
        shape = next(x for shapes in SHAPES.values() for x in shapes.values() if x.config == name)
        keys = [
            key,
            "cluster.workers=0",
            f"cluster.device={task.device.type}",
            "dataset.root=null",
            f"output={task.work}/plan",
        ]
        small = [*shape.tiny, "dataset.size=16", "trajectory.start=fresh"] if task.smoke else []
        saved = task.work / f"{Path(name).stem}_{title.rpartition(' ')[2]}.json"  # for plan --calibration
        words = ["plan", f"configs/{name}", *keys, *small, "--json", "--save", str(saved)]
        with redirect_stdout(StringIO()) as printed:
            cli.main([*words, *(["--images-per-class", "16"] if task.smoke else [])])
        if not printed.getvalue():
            raise RuntimeError(f"{title}: plan refused the config or could not time a step; see the log")
        made = json.loads(printed.getvalue())
        measured = made["rates"] | ({"matrix_rate": task.rate * TERA} if task.rate else {})
        saved.write_text(json.dumps(measured, indent=1) + "\n")
        calibrations = {**task.result.get("calibrations", {}), title: measured}
        chosen = made["chosen"]
        row = {"name": title, "hours": chosen["seconds"] / 3600, "peak GiB": chosen["bytes"] / GIB}
        task.add(row, calibrations=calibrations)


# --- a run --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Known:
    """A data set with its published result.

    :param folders: names of a folder that contains it.
    :param accuracy: published top-1 accuracy in percent; None: there is none.
    """

    folders: tuple[str, ...]
    keys: tuple[str, ...]
    accuracy: float | None = None
    config: str = "cifar10_idc.yaml"


_FASHION = (
    "dataset.name=fashion_mnist",
    "training.images=500",
    "method.distance=sum_absolute",
    "method.images.lr=1e-4",
)
KNOWN = {
    "FashionMNIST, IDC, ipc 10": Known(folders=("FashionMNIST",), keys=_FASHION, accuracy=86.0),
    "CIFAR-10, IDC, ipc 10": Known(folders=("cifar10", "cifar-10-batches-py"), keys=(), accuracy=67.5),
}
"""Data sets of the run, the first that the folder of data contains; accuracies of Kim et al. 2022, factor 2."""
DIGITS = Known(folders=(), keys=("dataset.name=digits", "dataset.size=16"))
EVALUATION = 0.4
"""Share of the part's time that is kept for the evaluation."""
LEAST = 60.0
"""Seconds that are kept for the evaluation at least."""


def run(task: Task) -> None:
    """Condense with the published config for a share of the time, then train networks on the set for the rest of it."""
    title, known, root = _data_set(task)
    config = load(f"configs/{known.config}", [*known.keys, *_keys(task, root)])
    job = Job.prepare(config)
    timer = threading.Timer(max(1.0, task.left - max(EVALUATION * task.left, LEAST)), job.files.stop.touch)
    timer.start()
    try:
        job.run()
    except Terminated:
        pass  # as requested by the file; the set of the last step is exported
    finally:
        timer.cancel()
    done, planned = _steps(job.files), job.outline.units.total
    entries = [x for x in metrics_file.read(job.files.metrics) if "steps_per_second" in x][1:]
    speeds = {"steps/s": median(x["steps_per_second"] for x in entries)} if entries else {}
    of_all = "% of its steps" if known.accuracy is None else "% of the published steps"
    task.add({"name": f"{title}: condensing", "steps": done, of_all: 100 * done / planned, **speeds})
    if done == 0:
        raise RuntimeError("no step was finished within the time")
    _evaluated(task, title, job, known)


def _data_set(task: Task) -> tuple[str, Known, Path | None]:
    """Return the title and the root of the first known data set in the folder of data. Raises Skipped without one."""
    if task.smoke:
        return "digits, IDC, tiny", DIGITS, None
    for title, known in KNOWN.items() if task.data else ():
        for place in (*(task.data / name for name in known.folders), task.data):
            if place.name in known.folders and place.is_dir():
                return title, known, _unpacked(place, task.work)
    folders = " or ".join(name for known in KNOWN.values() for name in known.folders)
    raise Skipped(f"--data names no folder with {folders}")


def _unpacked(folder: Path, work: Path) -> Path:
    """Return a folder with uncompressed idx files: ``folder``, or one in ``work`` to which they are unpacked."""
    packed = [x for x in folder.glob("raw/*.gz") if not x.with_suffix("").exists()]
    for file in packed:
        target = work / folder.name / "raw" / file.stem
        target.parent.mkdir(parents=True, exist_ok=True)
        with gzip.open(file) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink)
    return work / folder.name if packed else folder


def _keys(task: Task, root: Path | None) -> Iterator[str]:
    yield from ("cluster.workers=0", f"cluster.device={task.device.type}", f"output={task.work / 'run'}")
    yield from ("tracking.uri=http://127.0.0.1:9", "evaluation.sets=[condensed]", "evaluation.seeds=1")
    if root is not None:
        yield f"dataset.root={root}"
    if task.smoke:
        yield from (*_SMALL, "network.depth=1", "evaluation.epochs=1", "trajectory.networks=2")
        yield from ("trajectory.matching_steps=2", "tracking.log_every=1")
    yield from task.keys


def _steps(files: RunFolder) -> int:
    return load_set(files.synthetic_set, verify=False).card.steps if files.synthetic_set.exists() else 0


def _evaluated(task: Task, title: str, job: Job, known: Known) -> None:
    """Train networks on the set as its protocol says, one seed after the other while there is time for another."""
    published = {} if known.accuracy is None else {"published": known.accuracy}
    for seed in range(1, 4):
        start = time.monotonic()
        config = replace(job.config, evaluation=replace(job.config.evaluation, seeds=seed))
        rows = replace(job.comparison, config=config).rows()  # those of earlier seeds are in evaluation.csv
        accuracies = [row.top1_last for row in rows]
        taken = time.monotonic() - start
        mean = sum(accuracies) / len(accuracies)
        task.result["rows"] = [x for x in task.result["rows"] if "top-1" not in x]
        task.add({"name": f"{title}: evaluation", "top-1": mean, "seeds": seed, **published, "seconds a seed": taken})
        if task.smoke or task.left < 1.3 * taken + 5:
            return


# --- the command of one part --------------------------------------------------------------------------------------

PARTS: dict[str, Callable[[Task], None]] = {
    "machine": machine,
    "tests": tests,
    "step32": steps,
    "step224": steps,
    "profile": profile,
    "rates": rates,
    "run": run,
}


def main(words: Sequence[str] | None = None) -> None:
    """Run one part, and write how it ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("keys", nargs="*", metavar="KEY=VALUE", help="further keys of the run")
    parser.add_argument("--device", type=torch.device, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--smoke", action="store_true")
    task = Task(**vars(parser.parse_intermixed_args(words)))
    task.add(status="running", reason="")
    if task.smoke:
        torch.set_num_threads(1)  # tiny shapes, beside other work
    try:
        PARTS[task.part](task)
    except Skipped as reason:
        task.finish("skipped", str(reason))
    except Exception as error:
        task.finish("failed", _first_line(error))
        raise
    else:
        task.finish("done")


if __name__ == "__main__":
    main()
