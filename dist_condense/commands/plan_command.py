"""``dist-condense plan``: the estimation; the output is formatted in planning/tables.py."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from math import prod
from pathlib import Path
from typing import Any

import torch

from dist_condense.core.program import CannotCompile
from dist_condense.data import DataError
from dist_condense.data.reading.tiers import AUTO, share
from dist_condense.engine.errors import RunFailed
from dist_condense.engine.procedure import Kind, Outline
from dist_condense.job import logs
from dist_condense.planning import calibrate, devices, floors, rates, tables
from dist_condense.planning.cluster import Cluster
from dist_condense.planning.devices import GIGABYTE, Device
from dist_condense.planning.fit import remedies
from dist_condense.planning.forecast import Forecast, StepEfficiency, best, efficiency, forecast
from dist_condense.planning.images import assumed, test_images
from dist_condense.planning.plan import Plan
from dist_condense.planning.rates import Calibration
from dist_condense.planning.trials import trials_of
from dist_condense.planning.workload import Workload, workload_of
from dist_condense.settings import assembly, checks, effects, memory
from dist_condense.settings.config import ConfigError, RunConfig, given_keys, usable
from dist_condense.settings.limits import COUNT, Range, refusals
from dist_condense.settings.microbatch import PROCESS, Room, keeps_decoded, reason
from dist_condense.settings.procedures import PROCEDURES, outline_of
from dist_condense.settings.schema import CPU, CUDA
from dist_condense.system import plugins, terminal
from dist_condense.system.memory import machine_memory

DOES_NOT_FIT = NOT_SAVED = NOT_TIMED = 1
GIB = 2**30
RANGES = {
    "gpus": Range(1, 100_000),
    "classes": Range(1, 100_000),
    "images_per_class": Range(1, COUNT),
    "gpu_memory": Range(0, 1_000_000, above=True),
    "rate": Range(0, 1e9, above=True),
    "share": Range(0, 1, above=True),
    "bandwidth": Range(0, 1_000_000, above=True),
}
"""Limits of the values of options."""


def plan(options: argparse.Namespace) -> int:
    """Print the plan of a run and return the exit code. Raises ConfigError with every problem.

    0 planned, 1 the run does not fit, its steps cannot be timed, or `--save` failed.
    """
    config, known = usable(options.config, options.overrides)
    try:
        with logs.printed():
            made = planned(options, config, known)
    except (CannotCompile, RunFailed) as error:  # of a timed step
        terminal.say(f"failed: {error}")
        return NOT_TIMED
    if options.json:
        terminal.out(*json.dumps(tables.as_json(made), indent=1).split("\n"))
    else:
        tables.show(made)
    if made.unsaved:
        terminal.say(f"failed: --save: {made.unsaved}")
        return NOT_SAVED
    return DOES_NOT_FIT if made.problems else 0


def planned(options: argparse.Namespace, config: RunConfig, known: Sequence[str] = ()) -> Plan:
    """Return the plan of a run. Raises ConfigError with every problem.

    :param known: problems that were found when the config was read.
    """
    config, dataset, data_here = _checked(options, config, known)
    gpu = devices.named(options.gpu) if options.gpu is not None else None
    config, kind = _settled(config, options.gpus), CUDA if options.gpus or gpu else None
    _say_effects(options, config, kind)
    if problems := memory.lacking_to_plan(config, dataset, is_timed=_times(options)):
        raise ConfigError(problems)
    load = replace(workload_of(config, dataset), trials=trials_of(config, dataset))
    file: Path | None = options.calibration
    saved = None if file is None else rates.read(file, calibrate.compared(config, dataset, load))
    kind = kind or (config.cluster.device if saved is None else saved.kind)
    workers = max(1, config.cluster.workers)
    room = _room(options, gpu, kind, workers)
    chosen, why = 0, ""
    if config.compute.microbatch is None and room is not None:
        chosen, why = _microbatch(config, dataset, load, kind=kind, workers=workers, room=room)
        config = replace(config, compute=replace(config.compute, microbatch=chosen))
    load = replace(load, microbatch=config.compute.microbatch or 0)
    measured = saved or _measured(options, config, dataset, load)
    unsaved = _unsaved(options, measured)
    measured = _as_stated(options, measured, load)
    if kind == CUDA:
        load = replace(load, captured=max(1, min(config.compute.cuda_graphs, -(-load.classes // workers))))
    cluster = _cluster(options, gpu, config, load, kind=kind, workers=workers)
    outline = outline_of(config, dataset)
    return Plan(
        config=config,
        units=outline.units,
        load=load,
        rates=measured,
        cluster=cluster,
        forecast=forecast(load, measured, cluster, workers),
        steps=StepEfficiency.of(load, measured, cluster, workers),
        others=[
            (other, efficiency(load, measured, cluster, other)) for other in _others(load, measured, cluster, workers)
        ],
        best=best(load, measured, cluster),
        size=dataset.size,
        data_here=data_here,
        room=room,
        problems=remedies(load, measured, cluster, workers=workers, room=room) if room is not None else [],
        checkpoint=_checkpoint(outline, load),
        tested=test_images(dataset) if load.trials else 0,
        unsaved=unsaved,
        plugins=plugins.loaded(),
        microbatch=chosen,
        why=why,
    )


def _checked(options: argparse.Namespace, config: RunConfig, known: Sequence[str]) -> tuple[RunConfig, Any, bool]:
    """Return the checked config, its data set or random images in its place, and whether the data set is here.

    Raises ConfigError with every problem, and prints the notes of the data set.
    """
    refused = list(_refused(options))
    config, problems = checks.screened(config, [*known, *refused])
    problems = checks.joined(problems, checks.of_config(config))
    if refused:  # no data set is made from such numbers
        raise ConfigError(problems)
    try:
        dataset, data_here = _dataset(config, options)
    except ConfigError as error:
        is_named = not known or config.dataset.root is not None  # else an unusable key may have named the data
        raise ConfigError([*problems, *(error.problems if is_named else ())]) from error
    if problems := checks.joined(problems, (checks.of_data if data_here else checks.of_facts)(config, dataset)):
        raise ConfigError(problems)
    for note in dataset.notes if data_here else ():
        terminal.say(f"note: {note}")
    return config, dataset, data_here


def _say_effects(options: argparse.Namespace, config: RunConfig, kind: str | None) -> None:
    """Print a note for each key that was set by hand and has no effect on this kind of device; None: the config's."""
    planned_for = replace(config, cluster=replace(config.cluster, device=kind or config.cluster.device))
    for remark in effects.remarks(planned_for, given_keys(options.config, options.overrides)):
        terminal.say(f"note: {remark}")


def _times(options: argparse.Namespace) -> bool:
    """Return whether steps are timed on this machine."""
    return options.calibration is None and options.rate is None and options.gpu is None


def _cluster(
    options: argparse.Namespace, gpu: Device | None, config: RunConfig, load: Workload, *, kind: str, workers: int
) -> Cluster:
    made = Cluster(
        device=kind,
        exact=_exact(config, kind),
        bandwidth=(options.bandwidth or 1.0) * GIB,
        resident=_resident(config, load, kind, workers),
    )
    if gpu is None or options.bandwidth is not None:
        return made
    between, inside = gpu.between * GIGABYTE, gpu.inside * GIGABYTE
    return replace(made, bandwidth=between, inside=inside, node=gpu.node, latency=gpu.latency)


def _room(options: argparse.Namespace, gpu: Device | None, kind: str, workers: int) -> int | None:
    """Return the memory of a worker in bytes; None if it is unknown."""
    if options.gpu_memory:
        return int(options.gpu_memory * GIB)
    if gpu is not None:
        return gpu.bytes
    return machine_memory() // workers if kind == CPU else None


def _microbatch(
    config: RunConfig, dataset: Any, load: Workload, *, kind: str, workers: int, room: int
) -> tuple[int, str]:
    """Return the microbatch that a run would choose on workers with ``room`` bytes each, and why."""
    is_resident = _resident(config, load, kind, workers)
    images = share([count * load.image for count in load.counts], workers, 1) if is_resident else 0
    most, place = -(-load.classes // workers), Room(room - PROCESS[kind], images, kind == CUDA)
    chosen = PROCEDURES[config.method.procedure].microbatch(config, dataset, most, place)
    return chosen, reason(config, dataset, most, place) if chosen else ""


def _checkpoint(outline: Outline, load: Workload) -> int:
    kinds = [kind for label in range(load.classes) for kind in outline.class_tensors(label).values()]
    theta, momentum = outline.shared_tensors
    shared = [*theta.values(), *momentum.values()]
    return sum(map(_size, [*kinds, *shared]))


def _size(kind: Kind) -> int:
    dtype, shape = kind
    return dtype.itemsize * prod(shape)


def _refused(options: argparse.Namespace) -> Iterator[str]:
    for name, limit in RANGES.items():
        yield from (f"--{name.replace('_', '-')}: {x}" for x in refusals(getattr(options, name), limit))
    if options.gpu_memory is not None and options.gpus is None and options.gpu is None:
        yield "--gpu-memory: give the number of GPUs as well (--gpus), or a known GPU (--gpu)"
    if options.gpu is not None and devices.named(options.gpu) is None:
        yield f"--gpu: {options.gpu!r} is not one of {', '.join(devices.known())}; give --rate or --calibration"
    if options.share is not None and (options.gpu is None or options.rate or options.calibration):
        yield "--share: it is the share of a known GPU's rate; give it with --gpu, without --rate and --calibration"
    given = next((f"--{name}" for name in ("calibration", "rate", "gpu") if getattr(options, name) is not None), None)
    if options.save is not None and given:
        yield f"--save: nothing is measured where {given} gives the rates"
    elif options.save is not None and (problem := _save_problem(options.save)):
        yield f"--save: {problem}; name another file"


def _save_problem(file: Path) -> str | None:
    """Return why a file cannot be written, as far as this is known without writing it; None if it can."""
    try:
        if file.is_dir():
            return f"{file} is a folder"
        file.lstat()
        if not file.is_file():  # a device would be replaced
            return f"{file} is no regular file"
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:  # ValueError: a zero byte
        return f"{file}: {getattr(error, 'strerror', None) or error}"
    return None if os.access(file.parent, os.W_OK | os.X_OK) else f"nothing can be written in {file.parent}"


def _settled(config: RunConfig, gpus: int | None) -> RunConfig:
    """Return the config with the device that a run on this machine would use, and with ``gpus`` workers if given."""
    cluster = config.cluster
    workers = gpus or cluster.workers
    return replace(config, cluster=replace(cluster.settled(torch.cuda.is_available), workers=workers))


def _exact(config: RunConfig, kind: str) -> bool:
    requested = config.compute.reproducible
    return kind == CPU if requested is None else requested


def _dataset(config: RunConfig, options: argparse.Namespace) -> tuple[Any, bool]:
    """Return the data set and whether it was opened; otherwise it is replaced by random images."""
    if options.classes is None and options.images_per_class is None:
        try:
            return assembly.dataset_of(config), True
        except DataError as error:
            if config.dataset.root is not None:
                raise ConfigError(error.problems) from error
    return assumed(config, options.classes, options.images_per_class), False


def _measured(options: argparse.Namespace, config: RunConfig, dataset: Any, load: Workload) -> Calibration:
    """Return the rates that follow from a stated rate or a known GPU, or that are measured here."""
    kind = CUDA if options.gpus or options.gpu else config.cluster.device
    if not _times(options):
        terminal.say("counting the operations of the networks; nothing is timed")
    if options.rate is not None:
        return floors.of_rate(options.rate, kind, config, dataset, load)
    if options.gpu is not None and (gpu := devices.named(options.gpu)):
        return floors.of_device(gpu, config, dataset, load, options.share)
    if load.computes and config.cluster.on_gpu and not torch.cuda.is_available():
        raise ConfigError(
            ["cluster.device: cuda, but torch sees no GPU here; give --gpu, --rate or --calibration, or set cpu"]
        )
    compute = replace(config.compute, reproducible=_exact(config, config.cluster.device))
    return calibrate.calibrate(replace(config, compute=compute), dataset, load)


def _unsaved(options: argparse.Namespace, measured: Calibration) -> str:
    """Save the rates if ``--save`` is given. Return why that was impossible, so that the plan is printed anyhow."""
    try:
        if options.save is not None:
            measured.write(options.save)
    except OSError as error:
        return f"{error}; the measured rates are {json.dumps(asdict(measured))}"
    return ""


def _as_stated(options: argparse.Namespace, measured: Calibration, load: Workload) -> Calibration:
    """Return the rates, scaled if ``--rate`` is given. Raises ConfigError if the work needs other rates."""
    if problems := list(rates.lacking(measured, load)):
        raise ConfigError(problems)
    is_scaled = options.rate is not None and options.calibration is not None
    return measured.scaled(options.rate) if is_scaled else measured


def _resident(config: RunConfig, load: Workload, kind: str, workers: int) -> bool:
    if config.data.tier != AUTO or kind == CUDA:
        return keeps_decoded(config.data.tier, kind)
    limit = config.data.memory_budget
    budget = machine_memory() // 2 if limit is None else int(limit * GIB)
    return share([count * load.image for count in load.counts], workers, workers) <= budget


def _others(load: Workload, measured: Calibration, cluster: Cluster, workers: int) -> Iterator[Forecast]:
    """Yield forecasts for a range of worker counts, in ascending order.

    The counts are the powers of two up to the number of classes, that number itself, the requested count and the best
    count.
    """
    powers = (2**n for n in range(load.classes.bit_length()))
    for number in sorted({*powers, load.classes, workers, best(load, measured, cluster).workers}):
        yield forecast(load, measured, cluster, number)
