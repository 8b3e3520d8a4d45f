"""``dist-condense plan``: options, and the order of things; what is shown is made in tables.py."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dist_condense.data import DataError
from dist_condense.data.reading.tiers import AUTO, share
from dist_condense.planning import calibrate, rates, tables
from dist_condense.planning.fit import remedies
from dist_condense.planning.forecast import Cluster, Forecast, best, efficiency, forecast
from dist_condense.planning.images import assumed
from dist_condense.planning.plan import Plan
from dist_condense.planning.rates import Calibration
from dist_condense.planning.workload import Workload, workload_of
from dist_condense.settings import assembly, checks
from dist_condense.settings.config import ConfigError, RunConfig
from dist_condense.settings.procedures import outline_of
from dist_condense.system import terminal
from dist_condense.system.memory import machine_memory

DOES_NOT_FIT = 1
GIB = 2**30


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = terminal.Parser(
        prog="dist-condense plan",
        description="Memory, bytes, hours and the best number of workers of a run before it starts: from a few steps "
        "of its network timed here, or rates measured elsewhere. Exit code: 0 planned, 1 it does not fit, 2 refused.",
    )
    add = made.add_argument
    add("config", help="a yaml file, or a shipped one such as configs/digits.yaml")
    add("overrides", nargs="*", metavar="key=value", help="see docs/config.md")
    add("--gpus", type=int, metavar="N", help="plan for N GPUs, a worker each, instead of cluster.workers")
    add("--gpu-memory", type=float, metavar="GIB", help="of each; without it nothing is said to fit")
    add("--calibration", type=Path, metavar="FILE", help="rates that --save wrote, perhaps on another machine")
    add("--save", type=Path, metavar="FILE", help="write the rates measured here")
    add("--rate", type=float, metavar="N", help="real images per second and worker, all else in proportion")
    add("--bandwidth", type=float, default=1.0, metavar="GIB/S", help="between workers, of each (default: 1)")
    add("--classes", type=int, metavar="N", help="plan for N classes, without looking for the data")
    add("--images-per-class", type=int, metavar="N", help="real ones, likewise")
    add("--json", action="store_true", help="for programs")
    return made


def plan(given: argparse.Namespace, config: RunConfig) -> int:
    """Exit code: 0 planned, 1 it does not fit."""
    made = planned(given, config)
    if given.json:
        terminal.out(*json.dumps(tables.as_json(made), indent=1).split("\n"))
    else:
        tables.show(made)
    return DOES_NOT_FIT if made.problems else 0


def planned(given: argparse.Namespace, config: RunConfig) -> Plan:
    """Raises ConfigError with every problem found."""
    problems = [*_refused(given), *checks.of_config(config)]
    try:
        dataset, data_here = _dataset(config, given)
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from error
    if problems:
        raise ConfigError(problems)
    for note in dataset.notes if data_here else ():
        terminal.say(f"note: {note}")
    config, kind = _settled(config, given.gpus), "cuda" if given.gpus else None
    load = workload_of(config, dataset)
    measured = _rates(given, config, dataset, load)
    workers, kind = max(1, config.cluster.workers), kind or measured.kind
    cluster = Cluster(
        device=kind,
        exact=_exact(config, kind),
        bandwidth=given.bandwidth * GIB,
        resident=_resident(config, load, kind, workers),
    )
    room = int(given.gpu_memory * GIB) if given.gpu_memory else machine_memory() // workers if kind == "cpu" else None
    return Plan(
        config=config,
        units=outline_of(config, dataset).units,
        load=load,
        rates=measured,
        cluster=cluster,
        forecast=forecast(load, measured, cluster, workers),
        others=[
            (found, efficiency(load, measured, cluster, found)) for found in _others(load, measured, cluster, workers)
        ],
        best=best(load, measured, cluster),
        size=dataset.size,
        data_here=data_here,
        room=room,
        problems=remedies(load, measured, cluster, workers, room) if room is not None else [],
    )


def _refused(given: argparse.Namespace) -> Iterator[str]:
    least = {"gpus": 1, "classes": 1, "images_per_class": 1}
    for name, value in vars(given).items():
        option = f"--{name.replace('_', '-')}"
        if name in least and value is not None and value < least[name]:
            yield f"{option}: {value} is below {least[name]}"
        if name in ("gpu_memory", "rate", "bandwidth") and value is not None and not value > 0:
            yield f"{option}: {value} is not above 0"
    if given.gpu_memory is not None and given.gpus is None:
        yield "--gpu-memory: give the number of GPUs, too (--gpus)"
    if given.save is not None and given.calibration is not None:
        yield "--save: nothing is measured where --calibration gives the rates"


def _settled(config: RunConfig, gpus: int | None) -> RunConfig:
    """The open choices, as a run would settle them on this machine, or on so many GPUs."""
    cluster = config.cluster
    workers = gpus or cluster.workers
    return replace(config, cluster=replace(cluster.settled(torch.cuda.is_available()), workers=workers))


def _exact(config: RunConfig, kind: str) -> bool:
    given = config.compute.reproducible
    return kind == "cpu" if given is None else given


def _dataset(config: RunConfig, given: argparse.Namespace) -> tuple[Any, bool]:
    """Opened where it is at hand, and whether it is."""
    if given.classes is None and given.images_per_class is None:
        try:
            return assembly.dataset_of(config), True
        except DataError as error:
            if config.dataset.root is not None:
                raise ConfigError(error.problems) from error
    return assumed(config, given.classes, given.images_per_class), False


def _rates(given: argparse.Namespace, config: RunConfig, dataset: Any, load: Workload) -> Calibration:
    if given.calibration is not None:
        measured = rates.read(given.calibration, calibrate.compared(config, dataset))
    else:
        if config.cluster.on_gpu and not torch.cuda.is_available():
            raise ConfigError(["cluster.device: cuda, but torch sees no GPU here; give --calibration, or set cpu"])
        if load.computes:
            terminal.say("timing steps of the config's network here: minutes on CPUs")
        compute = replace(config.compute, reproducible=_exact(config, config.cluster.device))
        measured = calibrate.calibrate(replace(config, compute=compute), dataset, load)
    if given.save is not None:
        measured.write(given.save)
    if problems := list(rates.lacking(measured, load)):
        raise ConfigError(problems)
    return measured if given.rate is None else measured.scaled(given.rate)


def _resident(config: RunConfig, load: Workload, kind: str, workers: int) -> bool:
    if kind == "cuda":
        return config.data.tier == "gpu"
    given = config.data.memory_budget
    budget = machine_memory() // 2 if given is None else int(given * GIB)
    fits = share([count * load.image for count in load.counts], workers, workers) <= budget
    return config.data.tier == "ram" or (config.data.tier == AUTO and fits)


def _others(load: Workload, measured: Calibration, cluster: Cluster, workers: int) -> Iterator[Forecast]:
    """Powers of two up to one worker per class, and those asked for."""
    powers = (2**n for n in range(load.classes.bit_length()))
    for number in sorted({*powers, load.classes, workers, best(load, measured, cluster).workers}):
        yield forecast(load, measured, cluster, number)
