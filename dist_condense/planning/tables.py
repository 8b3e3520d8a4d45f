"""Output of a plan: tables on the terminal, or JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from textwrap import wrap
from typing import Any

from rich.table import Table

from dist_condense.data.reading.tiers import gib, share
from dist_condense.engine.procedure import Units
from dist_condense.planning.forecast import ENOUGH, Forecast, bounds
from dist_condense.planning.launches import CAPTURED, SLICE_COMPILED, STEP_COMPILED
from dist_condense.planning.plan import Plan
from dist_condense.result.progress import duration
from dist_condense.selection.table import SELECTIONS
from dist_condense.settings import images_per_class
from dist_condense.system import terminal

PER_NODE = 8
"""Largest number of workers on a node, for the estimate of its RAM."""

NO_GPU = "no GPU was measured: the times are a CPU's. Give --calibration that --save wrote on a GPU machine"
OR_RATE = ", or --gpu or --rate"
STATED = "the rate is stated; augmentation and decoding have no operations, so their time is that of their launches"
ASSUMED = "the share is assumed; augmentation and decoding have no operations, so their time is that of their launches"
FLOAT32 = "the times hold for compute.autocast=true; in float32, as this config computes, they are longer"
COMPILING = "not in the time: compiling, half a minute to two at the first start and about 10 s later"
TESTS = "the evaluation computes in float32 and without compilation; the rates of training theta are assumed for it"


def show(plan: Plan) -> None:
    """Print a plan on the terminal."""
    console = terminal.console()
    config, load = plan.config, plan.load
    images = f"{images_per_class.text(config)} {_plural('image', images_per_class.most(config))}"
    for warning in warnings(plan):
        _out(f"warning: {warning}")
    _out(
        f"{config.method.name} on {config.dataset.name}: {load.classes} classes, {images} each, "
        f"{plan.size} px, {config.network.name}; units: {_units(plan.units)}"
    )
    for plugin in plan.plugins:
        _out(f"plug-in: {plugin}")
    if _has_times(plan):
        _out(f"rates: {plan.rates.device}{_measurement(plan)}")
    facts = Table("", f"{plan.forecast.workers} {_workers(plan)}", box=None, show_edge=False)
    for name, value in rows(plan):
        facts.add_row(name, value)
    console.print(facts)
    if load.computes:
        console.print(_numbers_of_workers(plan))
    for remark in remarks(plan):
        _out(f"- {remark}")


def _out(text: str) -> None:
    """Print a text, on a terminal in lines of its width, the first of which is not indented; elsewhere in one line."""
    if (width := terminal.width()) is None:
        terminal.out(text)
        return
    terminal.out(*wrap(text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False))


def rows(plan: Plan) -> Iterator[tuple[str, str]]:
    """Yield the name and the value of each row of the table for the planned number of workers."""
    forecast, load = plan.forecast, plan.load
    if _has_times(plan):
        yield from _times(plan)
    yield (
        "classes per worker",
        f"{forecast.least} to {forecast.most} (balance {load.classes / forecast.workers / forecast.most:.0%})",
    )
    if load.steps:
        yield "all-reduced per matching step", _bytes(forecast.traffic.shared_step)
    if load.computes:
        divided = forecast.shared <= forecast.everywhere
        yield "all-reduced per update of theta", _bytes(forecast.traffic.update if divided else 0)
        yield "images gathered per update", _bytes(forecast.traffic.batch)
    yield "memory per worker", gib(forecast.bytes) + ("" if plan.room is None else f" of {gib(plan.room)}")
    yield from ((f"  {name}", gib(size)) for name, size in forecast.memory.items() if size)
    if load.computes:
        yield "real images to read, per worker", f"{_read(plan):,.0f} a second"
    yield from _decoded(plan)
    kept = plan.config.tracking.checkpoints_kept
    yield f"checkpoints, the newest {kept}", gib(kept * plan.checkpoint)


def _has_times(plan: Plan) -> bool:
    return plan.load.computes or bool(plan.forecast.evaluating)


def _measurement(plan: Plan) -> str:
    """Return the spread of the timings and the measured shares of the matrix rate, as far as they are known."""
    rates, spread = plan.rates, ""
    if rates.spread is not None:
        spread = f"; the least of repeated timings, whose median is up to {rates.spread:.0%} above it"
    shares = [f"{name} {share:.0%}" for name, share in (rates.shares() if rates.is_measured else {}).items()]
    return spread + (f"; of its matrix rate: {', '.join(shares)}" if shares else "")


def _times(plan: Plan) -> Iterator[tuple[str, str]]:
    forecast, load = plan.forecast, plan.load
    yield "time", f"{duration(forecast.total)}, without start"
    bound = bounds(load, plan.rates, plan.cluster, forecast)
    by = {name: f", bounded by {kind}" for name, kind in bound.items()}
    if load.steps:
        yield "  matching", _share(forecast.matching, forecast) + by.get("matching", "")
    if load.computes:
        yield "  training theta", _share(forecast.training, forecast) + by.get("training", "") * bool(load.updates)
        yield from _ways(plan)
        yield "  drawing networks", _share(forecast.drawing, forecast)
        yield "  collectives", _share(forecast.talking, forecast)
    if load.pretraining:
        yield "  of this, pretraining", _share(forecast.pretraining, forecast)
    if load.trials:
        yield f"  evaluation, {_trials(plan)}", _evaluation(forecast) + by.get("evaluating", "")
    if load.steps:
        yield "per matching step, with training", f"{forecast.seconds / load.steps:.3g} s"
    yield f"{_unit(plan)} in all", _hours(forecast.device_hours)
    yield f"{_unit(plan)} per class", f"{forecast.device_hours / load.classes:.3g}"


def _trials(plan: Plan) -> str:
    number = sum(each.seeds for each in plan.load.trials)
    return f"{number:,} {_plural('network', number)}"


def _evaluation(forecast: Forecast) -> str:
    known = forecast.evaluating is not None
    return _share(forecast.evaluating or 0.0, forecast) if known else "not estimated: no rates of training theta"


def warnings(plan: Plan) -> Iterator[str]:
    """Yield a warning if the times are of the bf16 matrix rate, but the run computes in float32."""
    if _has_times(plan) and plan.rates.share is not None and not plan.config.compute.autocast:
        yield FLOAT32


def remarks(plan: Plan) -> Iterator[str]:
    """Yield remarks about memory, workers and the limits of the estimate."""
    forecast, load = plan.forecast, plan.load
    if plan.microbatch:
        yield f"{plan.why}: compute.microbatch={plan.microbatch} is chosen"
    yield from (f"does not fit: {problem}" for problem in plan.problems)
    if plan.room is not None and not plan.problems:
        yield "fits"
    if isinstance(plan.config.ipc, dict) and len({*plan.config.ipc.values()}) > 1:
        yield "classes have different numbers of images: the time is that of the largest for all, the memory the mean"
    if forecast.workers > load.classes:
        idle = forecast.workers - load.classes
        yield f"{idle} workers own no class" + (" and only help to train theta" if load.updates else "")
    if load.unestimated:
        featured = sum(load.counts) if load.networks else 0
        images = f"{load.unestimated - featured:,} real images for the set"
        read = f"{featured:,} for features and {images}" if load.networks else f"{images}; no network is trained"
        yield f"not estimated: the time of reading {read}"
    if load.embedded:
        yield (
            f"matching includes the features of {load.embedded:,} real images of a class, each at a third of the time "
            "of a matched one; not estimated: the k-means of these features"
        )
    if load.trials and not load.computes and forecast.evaluating is None:
        yield "not estimated: the time of the evaluation; give --gpu or --rate"
    if load.computes:
        yield f"best number of workers: {plan.best.workers}, the largest with an efficiency of {ENOUGH:.0%}"
    yield from _remarks_on_rates(plan)
    if plan.rates.disturbance is not None:
        yield plan.rates.disturbance
    if not plan.data_here:
        tests = f" and {plan.tested:,} test images" if plan.tested else ""
        yield f"the data set was not opened: {sum(load.counts):,} real images{tests} are assumed"


def _remarks_on_rates(plan: Plan) -> Iterator[str]:
    """Yield remarks about times that are not measured ones."""
    rates, load, cluster = plan.rates, plan.load, plan.cluster
    if not _has_times(plan):
        return
    if rates.share is not None:
        yield ASSUMED
    elif rates.stated is not None:
        yield STATED
    elif cluster.on_gpu and not rates.on_gpu:
        yield NO_GPU + OR_RATE
    if rates.launching.kernel:
        yield _of_launches(plan)
    if plan.config.compute.compile and load.computes:
        yield COMPILING
    if cluster.on_gpu and plan.forecast.evaluating:
        yield TESTS
    if plan.forecast.workers > 1:
        rate = f"{_bandwidth(plan):.3g} GB/s per worker"
        yield f"assumed of a collective: {cluster.latency:.2g} s, and its bytes at {rate}; nothing overlaps with it"
    features = [name for name in plan.config.evaluation.sets if name in SELECTIONS and SELECTIONS[name].features]
    if load.trials and features:
        yield f"not estimated: the separate run that selects {', '.join(features)} for the evaluation"


def _of_launches(plan: Plan) -> str:
    """Describe the assumption about launches, and the least times that follow from it."""
    launching, load, compute = plan.rates.launching, plan.load, plan.config.compute
    compiled = f"; compiled, {STEP_COMPILED:.0%} of a step's and {SLICE_COMPILED:.0%} of a slice's kernels"
    captured = f"; captured in CUDA graphs, {CAPTURED:.0%} of this time"
    form = compiled * compute.compile + captured * bool(compute.cuda_graphs)
    update = launching.update + launching.slice * load.slices
    least = {"the step of a class": launching.step, "an update of theta": update}
    pieces = " and ".join(f"{1e3 * seconds:.2g} ms for {name}" for name, seconds in least.items() if seconds)
    bound = f". So at least {pieces}" if pieces else ""
    return f"assumed of launches: {1e6 * launching.kernel:.2g} us for a kernel{form}{bound}"


def as_json(plan: Plan) -> dict[str, Any]:
    """Return a plan as JSON values, in bytes and seconds; times that are not estimated are None."""
    computes = plan.load.computes
    others = [_numbers(each, plan) | {"efficiency": efficiency} for each, efficiency in plan.others if computes]
    basis = {"workload": asdict(plan.load), "rates": asdict(plan.rates), "cluster": asdict(plan.cluster)}
    return basis | {
        "chosen": _numbers(plan.forecast, plan),
        "others": others,
        "best_workers": plan.best.workers if computes else None,
        "room": plan.room,
        "microbatch": plan.load.microbatch,
        "does_not_fit": plan.problems,
        "step_efficiency": asdict(plan.steps) if computes else None,
        "checkpoint_bytes": plan.checkpoint,
        "plugins": [asdict(plugin) for plugin in plan.plugins],
        "remarks": [*warnings(plan), *remarks(plan)],
    }


def _numbers(forecast: Forecast, plan: Plan) -> dict[str, Any]:
    known = {"seconds": plan.load.computes, "total": _has_times(plan), "device_hours": _has_times(plan)}
    times = {name: getattr(forecast, name) if is_known else None for name, is_known in known.items()}
    return asdict(forecast) | times | {"bytes": forecast.bytes}


def _numbers_of_workers(plan: Plan) -> Table:
    table = Table("workers", "classes each", "time", _unit(plan), "efficiency", box=None, show_edge=False)
    for each, efficiency in plan.others:
        mark = " <" if each.workers == plan.forecast.workers else ""
        classes = f"{each.least} to {each.most}" if each.least < each.most else f"{each.most}"
        hours, percent = _hours(each.device_hours), f"{efficiency:.0%}"
        table.add_row(f"{each.workers}{mark}", classes, duration(each.total), hours, percent)
    return table


def _read(plan: Plan) -> float:
    """Return the number of real images per second that the worker with the most classes must read."""
    forecast, load = plan.forecast, plan.load
    trained = sum(size * count for size, count in load.updates.items()) if load.real_updates else 0
    matched = forecast.most * (load.steps * load.real + load.embedded)
    return (matched + trained / forecast.workers) / forecast.seconds


def _decoded(plan: Plan) -> Iterator[tuple[str, str]]:
    load, workers = plan.load, plan.forecast.workers
    images, node = [count * load.image for count in load.counts], min(PER_NODE, workers)
    yield "real images, decoded", gib(sum(images))
    yield f"  for data.tier=ram, a node of {node}", gib(share(images, workers, node))


def _ways(plan: Plan) -> Iterator[tuple[str, str]]:
    """Yield a row for each way of training theta: slices divided among workers, and all slices on every worker.

    Both times include collectives; the other rows of the table use the shorter one.
    """
    forecast, steps = plan.forecast, plan.steps
    if forecast.workers == 1 or not forecast.shared:
        return
    yield "    slices divided among workers", duration(forecast.shared)
    yield "    all slices on every worker", duration(forecast.everywhere)
    if plan.load.steps:
        yield "  efficiency of steps, divided", f"{steps.divided:.1%}"
        yield "    sums in backward passes", f"{steps.overlapped:.1%}"
        yield "    all slices on every worker", f"{steps.everywhere:.1%}"


def _bandwidth(plan: Plan) -> float:
    """Return the assumed bandwidth of each worker in 1e9 bytes per second."""
    cluster = plan.cluster
    is_inside = cluster.inside is not None and plan.forecast.workers <= cluster.node
    return (cluster.inside or 0.0 if is_inside else cluster.bandwidth) / 1e9


def _units(units: Units) -> str:
    return " x ".join(f"{size:,} {_plural(name, size)}" for name, size in units.levels.items())


def _plural(name: str, number: int) -> str:
    return name if number == 1 else f"{name}{'es' if name.endswith('s') else 's'}"


def _share(part: float, forecast: Forecast) -> str:
    return f"{duration(part)} ({part / (forecast.total or 1):.0%})"


def _hours(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _bytes(size: int) -> str:
    return f"{size / 2**20:.3g} MiB" if size else "nothing"


def _unit(plan: Plan) -> str:
    return "GPU hours" if plan.cluster.on_gpu else "worker hours"


def _workers(plan: Plan) -> str:
    kind = _plural("GPU" if plan.cluster.on_gpu else "worker", plan.forecast.workers)
    is_known = plan.rates.on_gpu == plan.cluster.on_gpu or plan.rates.stated is not None or not _has_times(plan)
    return kind if is_known else f"{kind}, at the speed of this CPU"
