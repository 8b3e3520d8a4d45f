"""Steps on a GPU: their times in every variant, a profile, and whether two runs of one seed are equal."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import KW_ONLY, dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.cases import Engine, ImagesOnDevice, assembled, plain_idc, random_images
from benchmarks.gpu_task import GIB, TERA, Row, Task, measured
from dist_condense.engine.coordinator import Placement
from dist_condense.settings import assembly
from dist_condense.settings.config import RunConfig, load
from dist_condense.system.memory import keep_freed_memory
from dist_condense.system.processor import gpu_kernels


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
    """Number of classes in a CUDA graph, which keeps the memory of their steps."""

    def made(self, task: Task, *more: str) -> tuple[RunConfig, ImagesOnDevice]:
        """Return the config and its random images."""
        keys = ["cluster.workers=0", f"cluster.device={task.device.type}", "trajectory.start=fresh", *EAGER]
        config = load(f"configs/{self.config}", [*keys, *self.keys, *(self.tiny if task.smoke else ()), *more])
        if task.smoke:
            return config, random_images(task.classes, 16, 16)
        return config, random_images(task.classes, self.size, self.per_class)


EAGER = ("compute.compile=false", "compute.autocast=false")
"""Keys of a shipped config that every variant replaces or leaves."""
SMALL = ("ipc=1", "method.real_batch=4", "training.images=8", "training.batch=4", "network.width=4")
SHAPES: dict[str, dict[str, Shape]] = {
    "step32": {
        "32 px, 64 real + 40 decoded": Shape(
            config="cifar10_idc.yaml", size=32, per_class=500, tiny=(*SMALL, "network.depth=1")
        )
    },
    "step224": {
        "224 px, 64 real + 90 decoded": Shape(
            config="imagenet10_idc.yaml", size=224, per_class=128, tiny=SMALL, graphs=1
        ),
        "224 px, 16 real + 18 decoded": Shape(
            config="imagenet10_idc.yaml", size=224, per_class=128, keys=("ipc=2", "method.real_batch=16"), tiny=SMALL
        ),
    },
}
"""Shapes of the steps that each part measures: the published ones of CIFAR-10 and of ImageNet-10, and a small one."""

FLOAT32, BF16 = ("compute.tf32=false",), ("compute.autocast=true",)
COMPILED, FORWARD, FIXED = "compute.compile=true", "compute.second_derivative=forward", "compute.deterministic=true"


@dataclass(frozen=True)
class Variant:
    """A way to compute a step, by keys of the config."""

    keys: tuple[str, ...] = ()
    _: KW_ONLY
    plain: bool = False
    """Whether the plain loop computes the step, instead of the engine."""
    captured: bool = False
    """Whether the step is captured in CUDA graphs."""
    needs_gpu: bool = False

    @property
    def compiled(self) -> bool:
        """Whether the step is compiled, which takes long before the first step."""
        return COMPILED in self.keys

    def all_keys(self, shape: Shape) -> tuple[str, ...]:
        """Return the keys of the config for a shape."""
        return (*self.keys, f"compute.cuda_graphs={shape.graphs}") if self.captured else self.keys


VARIANTS: dict[str, Variant] = {
    "plain loop, TF32": Variant(plain=True, needs_gpu=True),
    "plain loop, float32": Variant(FLOAT32, plain=True),
    "engine, captured, bf16": Variant(BF16, captured=True),
    "engine, compiled, captured, bf16": Variant((*BF16, COMPILED), captured=True),
    "engine, compiled, bf16": Variant((*BF16, COMPILED)),
    "engine, eager, float32": Variant(FLOAT32),
    "engine, eager, TF32": Variant(needs_gpu=True),
    "engine, eager, TF32, forward": Variant((FORWARD,), needs_gpu=True),
    "engine, eager, bf16": Variant(BF16),
    "engine, eager, bf16, deterministic": Variant((*BF16, FIXED)),
    "engine, compiled, captured, NHWC, bf16": Variant((*BF16, COMPILED, "compute.channels_last=true"), captured=True),
    "engine, compiled, captured, TF32": Variant((COMPILED,), captured=True),
    "engine, compiled, captured, TF32, forward": Variant((COMPILED, FORWARD), captured=True),
    "engine, compiled, float32": Variant((*FLOAT32, COMPILED)),
}
"""Measured variants by name, in this order: those that matter most come first, because time may end. All are compared
with the first that runs. The published programs run with torch's default, TF32 convolutions."""


def steps(task: Task) -> None:
    """Measure the matching step of all classes, and the training of theta after it, in every variant.

    A variant is skipped if the time left is less than what another one took. Raises RuntimeError at the end if any
    failed.
    """
    keep_freed_memory()
    for title, shape in task.some(SHAPES[task.part]).items():
        operations = step_operations(*shape.made(task))
        _head(task, title, f"{task.classes} classes, {operations / TERA:.4g} TFLOP a step")
        for name, variant in VARIANTS.items():
            work = partial(_measured, task, title, shape, variant=variant, operations=operations)
            task.attempt({"name": name, "shape": title}, work, _skipped(task, variant))
    _advise(task)
    task.check()


def _head(task: Task, name: str, text: str) -> None:
    row = {"name": name, "heading": text}
    if row not in task.rows:
        task.add(row)


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
    """Return why a variant is not measured, else None: also if the time left is less than the longest of its kind took,
    compiled or not, in this part and step32.
    """
    if lacking := _impossible(task, variant):
        return lacking
    rows = [row for row in measured(task, ["step32"]) if ("compiled" in row["name"]) == variant.compiled]
    name = "another variant that is compiled" if variant.compiled else "another variant"
    return task.lacks(max((row["took s"] for row in rows), default=0.0), name)


def _impossible(task: Task, variant: Variant) -> Row | None:
    """Return why a variant cannot be computed here, else None."""
    if (variant.captured or variant.needs_gpu) and not task.on_gpu:
        return {"skipped_because": "needs a CUDA device"}
    if variant.compiled and task.smoke:
        return {"skipped_because": "not in the smoke test"}
    return None


def preparing(task: Task) -> float:
    """Return the longest seconds until the first compiled step in this part and step32; 0: none was measured."""
    rows = (row for row in measured(task, ["step32"]) if "compiled" in row["name"])
    return max((row["prepare s"] for row in rows), default=0.0)


def _measured(task: Task, title: str, shape: Shape, *, variant: Variant, operations: float) -> Row:
    """Return the numbers of a variant."""
    start = task.left
    config, data = shape.made(task, *variant.all_keys(shape))
    _forget(task)
    with kernels(config, task), closing(_opened(config, data, task)) as opened:
        engine = opened.engine
        work: Callable[[], None] = plain_idc(config, data, engine).match if variant.plain else engine.match
        prepared = task.took(work)
        times = task.timed(work, warm=2, least=7)
        row: Row = {"ms": 1e3 * median(times), "least ms": 1e3 * min(times)}
        if not variant.plain:
            prepared += task.took(engine.train_on)
            row["training ms"] = 1e3 * median(task.timed(engine.train_on, warm=0, least=3))
            row["prepare s"] = prepared
            if (microbatch := engine.shard.steps.objective.microbatch) != (config.compute.microbatch or 0):
                row["halved to images"] = microbatch  # memory was exhausted
    row["TFLOP/s"] = operations / median(times) / TERA
    if task.rate:
        row["% of bf16 products"] = 100 * row["TFLOP/s"] / task.rate
    if task.on_gpu:
        row["peak GiB"] = torch.cuda.max_memory_allocated(task.device) / GIB
    base = next((x["ms"] for x in task.rows if x.get("shape") == title and "ms" in x), row["ms"])
    return {**row, "x plain": base / row["ms"], "took s": start - task.left}


def _advise(task: Task) -> None:
    """Say for each pair of variants that differ in the second derivative which is faster, and the key to set."""
    of = {(row["shape"], row["name"]): row["ms"] for row in task.rows if "ms" in row and "shape" in row}
    pairs = [(key, (key[0], f"{key[1]}, forward")) for key in of if (key[0], f"{key[1]}, forward") in of]
    for reverse, forward in pairs:
        gain = of[reverse] / of[forward]
        advice = f"set {FORWARD}" if gain > 1 else "leave compute.second_derivative null"
        name = f"{': '.join(reverse)}, with the other second derivative"
        task.add({"name": name, "heading": f"{gain:.3g} x as fast; {advice}"})


@dataclass(frozen=True)
class _Opened:
    """An engine whose source of images is closed in the end."""

    engine: Engine

    def close(self) -> None:
        """Close the source of real images."""
        self.engine.shard.source.close()


def _opened(config: RunConfig, data: ImagesOnDevice, task: Task) -> _Opened:
    return _Opened(assembled(config, data, Placement(task.device)))


def kernels(config: RunConfig, task: Task) -> Any:
    """Return the context with the kernels of a run; cuDNN times its algorithms, as in the published programs."""
    fixed = bool(config.compute.deterministic)
    return gpu_kernels(tf32=config.compute.tf32, benchmark=not fixed, deterministic=fixed)


def _forget(task: Task) -> None:
    """Release the memory of earlier variants."""
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()  # it keeps the networks of what it compiled, and compiles a function only a few times
    if task.on_gpu:
        gc.collect()  # an engine refers to itself
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(task.device)


# --- two runs -----------------------------------------------------------------------------------------------------

TWICE: dict[str, tuple[Variant, bool]] = {
    "compiled, captured, bf16": (Variant((*BF16, FIXED, COMPILED), captured=True), True),
    "eager, bf16": (Variant((*BF16, FIXED)), True),
    "eager, float32": (Variant((*FLOAT32, FIXED)), True),
    "captured, bf16": (Variant((*BF16, FIXED), captured=True), True),
    "eager, bf16, not deterministic": (Variant(BF16), False),
}
"""Variants that run twice, and whether the two runs must be equal."""
STEPS = 5
COMPILED_TWICE = 1.1
"""Seconds of compiling for both runs, divided by those of step32. Deterministic kernels make other programs than those
that step32 left in torch's cache, and the second run finds those of the first: on a busy CPU, 16 s instead of 149."""


def twice(task: Task) -> None:
    """Take some steps and updates twice from one seed, and compare pixels and theta bit by bit.

    Raises RuntimeError if runs with deterministic kernels differ.
    """
    shape = SHAPES["step32"]["32 px, 64 real + 40 decoded"]
    for name, (variant, _) in TWICE.items():
        expected = COMPILED_TWICE * preparing(task) if variant.compiled else 0.0
        skipped = _impossible(task, variant) or task.lacks(expected, f"{COMPILED_TWICE} x compiling")
        task.attempt({"name": name}, partial(_compared, task, shape, variant), skipped)
    task.check()
    differing = [row["name"] for row in task.rows if TWICE[row["name"]][1] and row.get("that differ")]
    if differing:
        raise RuntimeError(f"two runs with compute.deterministic=true differ: {'; '.join(differing)}")


def _compared(task: Task, shape: Shape, variant: Variant) -> Row:
    (one, seconds), (other, again) = (_state_after(task, shape, variant) for _ in range(2))
    differing = sum(int((x.view(torch.uint8) != y.view(torch.uint8)).sum()) for x, y in zip(one, other, strict=True))
    numbers = {"steps": STEPS, "bytes compared": sum(x.nbytes for x in one), "that differ": differing}
    return {**numbers, "ms a step and its training": 1e3 * min(seconds, again)}


def _state_after(task: Task, shape: Shape, variant: Variant) -> tuple[list[Tensor], float]:
    """Return pixels and theta after some steps, and the seconds of the fastest step with its training."""
    config, data = shape.made(task, *variant.all_keys(shape))
    _forget(task)
    with kernels(config, task), closing(_opened(config, data, task)) as opened:
        engine = opened.engine

        def step() -> None:
            engine.match()
            engine.train()

        seconds = min(task.took(step) for _ in range(STEPS))
        state = [*engine.shard.pixels.values(), *engine.trajectory.state_dict().values()]
        return [x.detach().cpu().contiguous().flatten() for x in state], seconds


# --- a profile ----------------------------------------------------------------------------------------------------

TOP = 12
"""Number of kernels that are reported."""


def profile(task: Task) -> None:
    """Profile matching steps of each size: the longest kernels, and the share of time in which the GPU is idle."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if task.on_gpu else [])]
    longest = 0.0
    for shapes in SHAPES.values():
        title, shape = next(iter(shapes.items()))
        if lacking := task.lacks(longest, "the profile of another size"):
            task.add({"name": title, **lacking})
            continue
        start = task.left
        config, data = shape.made(task, *BF16)
        with kernels(config, task), closing(_opened(config, data, task)) as opened:
            engine = opened.engine
            task.timed(engine.match, warm=3, least=1, longest=0)
            with profiler(activities=activities) as profiled:
                engine.match()
                task.wait()
        task.add({"name": title, "heading": "a matching step of the engine, eager, bf16"})
        task.add(*_kernels(profiled.events(), task.on_gpu))
        longest = start - task.left


def _kernels(events: Any, on_gpu: bool) -> Iterator[Row]:
    """Yield the longest kernels (operators on a CPU), after a row with the times in which the GPU works and idles."""
    if on_gpu:
        kernels = [x for x in events if x.device_type == torch.autograd.DeviceType.CUDA and not x.is_user_annotation]
        spans = sorted((x.time_range.start, x.time_range.end) for x in kernels)
        yield from gaps(spans)
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


def gaps(spans: Sequence[tuple[float, float]]) -> Iterator[Row]:
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
