"""A plan as a person reads it, and as a program does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.table import Table

from dist_condense.data.reading.tiers import gib, share
from dist_condense.planning.forecast import ENOUGH, Forecast
from dist_condense.planning.plan import Plan
from dist_condense.result.progress import duration
from dist_condense.system import terminal

PER_NODE = 8
"""Workers of a node at most, for what its RAM has to hold."""

NO_GPU = "no GPU was measured: the times are a CPU's. Give --rate, or --calibration that --save wrote on a GPU machine"
STATED = (
    "of the GPU only the stated rate is known; time to launch kernels, which small images are bound by, is not in it"
)


def show(plan: Plan) -> None:
    """On the terminal."""
    console = terminal.console()
    config, load = plan.config, plan.load
    terminal.out(
        f"{config.method.name} on {config.dataset.name}: {load.classes} classes, {config.ipc} images each, "
        f"{plan.size} px, {config.network.name}; "
        f"{load.networks:,} networks x {load.steps // load.networks} matching steps"
    )
    terminal.out(f"rates: {plan.rates.device}")
    facts = Table("", f"{plan.chosen.workers} {_workers(plan)}", box=None, show_edge=False)
    for name, value in rows(plan):
        facts.add_row(name, value)
    console.print(facts)
    console.print(_choice(plan))
    for remark in remarks(plan):
        terminal.out(f"- {remark}")


def rows(plan: Plan) -> Iterator[tuple[str, str]]:
    """Name and value."""
    found, load = plan.chosen, plan.load
    yield "condensation", f"{duration(found.seconds)}, without start and evaluation"
    yield "  matching", _share(found.matching, found)
    yield "  training theta", _share(found.training, found)
    yield from _ways(found)
    yield "  drawing networks", _share(found.drawing, found)
    yield "  collectives", _share(found.talking, found)
    yield "a matching step and what follows it", f"{found.seconds / load.steps:.3g} s"
    yield f"{_unit(plan)} in all", _hours(found.device_hours)
    yield f"{_unit(plan)} per class", f"{found.device_hours / load.classes:.3g}"
    yield (
        "classes per worker",
        f"{found.least} to {found.most} (balance {load.classes / found.workers / found.most:.0%})",
    )
    yield "all-reduced per matching step", _bytes(found.traffic.shared_step)
    yield "all-reduced per update of theta", _bytes(found.traffic.update if found.shared <= found.everywhere else 0)
    yield "images gathered for it", _bytes(found.traffic.batch)
    yield "memory per worker", gib(found.bytes) + ("" if plan.room is None else f" of {gib(plan.room)}")
    yield from ((f"  {name}", gib(size)) for name, size in found.memory.items() if size)
    yield "real images to read, per worker", f"{_read(plan):,.0f} a second"
    yield from _decoded(plan)


def remarks(plan: Plan) -> Iterator[str]:
    """What to know of it, and to do."""
    found, load = plan.chosen, plan.load
    yield from (f"does not fit: {problem}" for problem in plan.problems)
    if plan.room is not None and not plan.problems:
        yield "fits"
    if found.workers > load.classes:
        yield f"{found.workers - load.classes} workers own no class and only help to train theta"
    yield f"best number of workers: {plan.best.workers}, the most of whose time {ENOUGH:.0%} is well spent"
    if plan.cluster.device == "cuda" and plan.rates.kind == "cpu":
        yield NO_GPU if plan.rates.stated is None else STATED
    if not plan.data_here:
        yield f"the data were not looked at: {sum(load.counts):,} real images are assumed"


def as_json(plan: Plan) -> dict[str, Any]:
    """Bytes and seconds."""
    others = [_numbers(found) | {"efficiency": efficiency} for found, efficiency in plan.others]
    kept = {"workload": asdict(plan.load), "rates": asdict(plan.rates), "cluster": asdict(plan.cluster)}
    return kept | {
        "chosen": _numbers(plan.chosen),
        "others": others,
        "best_workers": plan.best.workers,
        "room": plan.room,
        "does_not_fit": plan.problems,
        "remarks": list(remarks(plan)),
    }


def _numbers(found: Forecast) -> dict[str, Any]:
    told = ("seconds", "device_hours", "bytes")
    return asdict(found) | {name: getattr(found, name) for name in told}


def _choice(plan: Plan) -> Table:
    table = Table("workers", "classes each", "time", _unit(plan), "efficiency", box=None, show_edge=False)
    for found, efficiency in plan.others:
        mark = " <" if found.workers == plan.chosen.workers else ""
        each = f"{found.least} to {found.most}" if found.least < found.most else f"{found.most}"
        hours = _hours(found.device_hours)
        table.add_row(f"{found.workers}{mark}", each, duration(found.seconds), hours, f"{efficiency:.0%}")
    return table


def _read(plan: Plan) -> float:
    """Real images a second that a worker's source has to give."""
    found, load = plan.chosen, plan.load
    trained = sum(size * count for size, count in load.updates.items()) if load.real_updates else 0
    return (load.steps * found.most * load.real + trained / found.workers) / found.seconds


def _decoded(plan: Plan) -> Iterator[tuple[str, str]]:
    load, workers = plan.load, plan.chosen.workers
    images, node = [count * load.image for count in load.counts], min(PER_NODE, workers)
    yield "real images, decoded", gib(sum(images))
    yield f"  on a node of {node} workers, for data.tier=ram", gib(share(images, workers, node))


def _ways(found: Forecast) -> Iterator[tuple[str, str]]:
    """What training theta takes with its collectives, both ways; the shorter is in the other rows."""
    if found.workers > 1 and found.shared:
        yield "    slices shared out among the workers", duration(found.shared)
        yield "    all slices on every worker", duration(found.everywhere)


def _share(part: float, found: Forecast) -> str:
    return f"{duration(part)} ({part / found.seconds:.0%})"


def _hours(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _bytes(size: int) -> str:
    return f"{size / 2**20:.3g} MiB" if size else "nothing"


def _unit(plan: Plan) -> str:
    return "GPU hours" if plan.cluster.device == "cuda" else "worker hours"


def _workers(plan: Plan) -> str:
    kind = "GPU" if plan.cluster.device == "cuda" else "worker"
    return kind if plan.chosen.workers == 1 else f"{kind}s"
