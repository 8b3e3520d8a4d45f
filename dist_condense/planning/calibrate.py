"""Measurement of rates: a few matching steps and updates of the config's network, timed on this machine."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch

from dist_condense.core.grouping import Grouping, per_class
from dist_condense.planning.images import like
from dist_condense.planning.operations import of_run
from dist_condense.planning.peak import peak
from dist_condense.planning.probe import Probe
from dist_condense.planning.rates import Calibration, Matching, Updating, fitted
from dist_condense.planning.timing import FEW, Piece, Stopwatch, Usage, load_average
from dist_condense.planning.workload import Workload, decoded
from dist_condense.settings import assembly, images_per_class
from dist_condense.settings.config import RunConfig
from dist_condense.settings.matching import known_groups
from dist_condense.settings.numerics import kernels, numerics
from dist_condense.settings.schema import CUDA, ComputeConfig, MethodConfig
from dist_condense.system import terminal
from dist_condense.system.memory import keep_freed_memory

IDLE = 0.5
"""Load average of a machine that counts as idle."""


def calibrate(
    config: RunConfig,
    dataset: Any,
    load: Workload,
    tell: Callable[[str], None] = terminal.say,
) -> Calibration:
    """Measure the rates of one worker on ``cluster.device`` with ``compute.threads``.

    This takes a minute or two on CPUs. A line reports the progress every few seconds.

    :param config: config in which ``cluster.device`` is ``cpu`` or ``cuda``, not ``auto``.
    :param dataset: data set whose classes, shape and normalisation are used; the timed images are random.
    :param load: work of the run, which decides which rates are measured.
    :param tell: callback that receives the lines of progress.
    """
    device = torch.device(config.cluster.device)
    if not load.computes:
        return Calibration(device="nothing is computed", kind=device.type, compared=compared(config, dataset, load))
    start, average = Usage.read(), load_average()
    tell(f"timing steps of the config's network here: minutes on CPUs; {_loaded('now', average)}")
    if average is not None and average + (config.compute.threads or 1) > (os.cpu_count() or 1) + IDLE:
        tell("warning: other processes keep this machine busy, so the times may be too long")
    keep_freed_memory()
    made = timed(config, load)
    images = max(
        2 * min(made.method.real_batch, max(dataset.counts)), images_per_class.most(made) * assembly.start_images(made)
    )
    probes = Probes(made, like(dataset, images), device)
    with numerics(_settled(made.compute, device)):
        measured = _rates(probes, load, tell)
    counted = of_run(made, dataset, assembly.network_builder(made, dataset)(0), matches=load.steps > 0)
    tell(f"timed; {_loaded('now', load_average())}, {_loaded('before', average)}")
    return replace(
        measured,
        compared=compared(config, dataset, load),
        operations=counted.operations,
        others=start.others_until(Usage.read()),
    )


class Probes:
    """The worker whose pieces are timed: as it is, and compiled if the config says so.

    Each shape is compiled by itself, which takes a minute, and a process compiles few of them. So all shapes are timed
    as they are, and one is timed compiled: the ratio of its two times is assumed for the others.
    """

    def __init__(self, config: RunConfig, dataset: Any, device: torch.device) -> None:
        make = partial(Probe, dataset=dataset, device=device)
        self.eager = make(config=replace(config, compute=replace(config.compute, compile=False)))
        self.compiled = make(config=config) if config.compute.compile else None

    def gain(self, watch: Stopwatch, name: str, piece: Callable[[Probe], Piece]) -> float:
        """Return the time of a compiled piece of work divided by its time as it is; 1 if nothing is compiled."""
        if self.compiled is None:
            return 1.0
        times = watch.least(f"{name}, compiled", {"as it is": piece(self.eager), "compiled": piece(self.compiled)})
        return times["compiled"] / times["as it is"]


def _rates(probes: Probes, load: Workload, tell: Callable[[str], None]) -> Calibration:
    probe, trains = probes.eager, bool(load.updates or load.trials)
    parts = bool(load.steps) + bool(load.shared_steps) + trains
    watch = Stopwatch(probe.device, 1 + parts * (1 if probes.compiled is None else 2), tell)
    grouping = replace(probe.recipe.grouping, warmup_networks=0)
    alone = _matching(probes, watch, Grouping(per_class(load.classes)), load) if load.steps else None
    shared = _matching(probes, watch, grouping, load) if load.shared_steps else None
    updating, spread = _updating(probes, watch, load) if trains else None, watch.spread
    draw = watch.least("drawing a network", {0: probe.draw})[0]
    tell("counting the memory of tensors")
    return Calibration(
        device=_description(probe.device),
        kind=probe.device.type,
        compared={},
        alone=alone,
        shared=shared,
        updating=updating,
        draw=draw,
        real=peak(probe.real) if load.steps else None,
        synthetic=peak(probe.double_backward) if load.steps else None,
        training=peak(probe.slice) if load.updates else None,
        spread=spread,
    )


def compared(config: RunConfig, dataset: Any, load: Workload) -> dict[str, Any]:
    """Return the keys and values in which a planned config must equal the measured one, for the work that it computes.

    All other keys, such as ipc, batch sizes, classes and the numbers of networks and steps, may differ.
    """
    if not load.computes:
        return {}
    method = config.method
    sections: dict[str, Any] = {"network": config.network, "augmentation": method.augmentation}
    if load.steps:
        sections["statistic"] = method.statistic
    keys = {f"{part}.{key}": value for part, section in sections.items() for key, value in asdict(section).items()}
    compute = {"compute.autocast": config.compute.autocast, "compute.compile": config.compute.compile}
    shape = {"dataset.size": dataset.size, "channels": dataset.channels}
    return keys | compute | shape | ({"distance": method.distance} if load.steps else {})


def timed(config: RunConfig, load: Workload) -> RunConfig:
    """Return the config of a worker that is timed or counted.

    Its theta is drawn, not trained between steps, and chooses no minibatch. Without matching steps, the keys of
    matching have their defaults, because the planned run does not read them.
    """
    schedule, training = replace(config.trajectory, start="fresh"), replace(config.training, source="frozen")
    if load.steps:
        known = known_groups(config)
        method = replace(known.method, real_draw="fresh")
        return replace(
            known, ipc=max(images_per_class.most(config), FEW), method=method, trajectory=schedule, training=training
        )
    method = MethodConfig(augmentation=config.method.augmentation)
    return replace(config, ipc=FEW, method=method, trajectory=schedule, training=replace(training, cutmix=0.0))


def _matching(probes: Probes, watch: Stopwatch, grouping: Grouping, load: Workload) -> Matching:
    probe = probes.eager

    def step(classes: int, real: int, ipc: int) -> Callable[[], None]:
        return probe.match(grouping, classes, real, ipc)

    made, name = probe.config, "matching alone" if all(len(group) == 1 for group in grouping.partition) else "matching"
    each, largest = decoded(made, 1), max(load.real, load.synthetic)
    most = watch.affordable(name, lambda n: step(1, min(n, load.real), max(1, n // each)), largest)
    real, ipc = min(most, load.real), min(images_per_class.most(made), max(2, most // each))
    less_real, less_ipc = max(1, real // 2), max(1, ipc // 4)
    classes = len(probe.labels)
    shapes = {(1, real, ipc), (classes, real, ipc), (1, less_real, ipc), (1, real, less_ipc)}
    times = watch.least(name, {shape: step(*shape) for shape in sorted(shapes)})
    rows = [(1, n, n * r, n * min(decoded(made, m), made.method.synthetic_limit)) for n, r, m in times]
    gain = probes.gain(watch, name, lambda probe: probe.match(grouping, 1, real, ipc))
    return Matching(*(gain * rate for rate in fitted(rows, list(times.values()))))


def _updating(probes: Probes, watch: Stopwatch, load: Workload) -> Updating:
    probe = probes.eager

    def step(batch: int, slices: int, workers: int) -> Callable[[], None]:
        return lambda: probe.update(batch, slices, workers)

    updates = load.updates or load.trials[0].updates
    usual = max(updates, key=lambda images: images * updates[images])
    batch = max(2, watch.affordable("training theta", lambda n: step(n, 1, 1), usual))
    shapes = [(batch, 1, 1), (batch, 2, 1), (batch, 2, 2), (batch // 2, 1, 1)]
    times = watch.least("training theta", {shape: step(*shape) for shape in shapes})
    rows = [(1, slices / workers, n, n / workers) for n, slices, workers in times]
    gain = probes.gain(watch, "training theta", lambda probe: lambda: probe.update(batch, 2, 1))
    return Updating(*(gain * rate for rate in fitted(rows, list(times.values()))))


def _settled(compute: ComputeConfig, device: torch.device) -> ComputeConfig:
    """Return the threads and kernels that a run on this device would select."""
    usual = kernels(compute, device.type == CUDA)
    stated = {key: value for key in usual if (value := getattr(compute, key)) is not None}
    return replace(compute, threads=compute.threads or 1, **usual | stated)


def _loaded(when: str, average: float | None) -> str:
    text = "unknown" if average is None else f"{average:.2g}"
    return f"load average {when} {text} on {os.cpu_count()} cores"


def _description(device: torch.device) -> str:
    threads = f"CPU {platform.machine()}, {torch.get_num_threads()} threads"
    return f"{torch.cuda.get_device_name() if device.type == CUDA else threads}, torch {torch.__version__}"
