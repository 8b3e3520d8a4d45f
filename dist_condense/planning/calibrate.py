"""Measurement of rates: a few matching steps and updates of the config's network, timed on this machine."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from statistics import median
from typing import Any

import torch

from dist_condense.core.grouping import Grouping, per_class
from dist_condense.planning.images import like
from dist_condense.planning.peak import peak
from dist_condense.planning.probe import Probe
from dist_condense.planning.rates import Calibration, Matching, Updating, fitted
from dist_condense.planning.workload import Workload, decoded, known_groups
from dist_condense.settings import assembly
from dist_condense.settings.config import RunConfig
from dist_condense.settings.schema import CUDA, MethodConfig
from dist_condense.system.memory import keep_freed_memory

ROUNDS, MOST_ROUNDS, WINDOW = 3, 30, 5.0
"""Smallest and largest number of timings of each piece of work, and the seconds in which all timings should end. The
pieces are timed in turn, so that a disturbance affects all of them, and the median of each is used."""
LONGEST = 2.0
"""Longest duration of a piece in seconds; a longer piece is timed with fewer images and extrapolated."""
FEW = 4
"""Number of images from which the search for an affordable number starts; also the least ipc that is timed."""


def calibrate(config: RunConfig, dataset: Any, load: Workload) -> Calibration:
    """Measure the rates of one worker on ``cluster.device`` with ``compute.threads``.

    This takes a minute or two on CPUs.

    :param config: config in which ``cluster.device`` is ``cpu`` or ``cuda``, not ``auto``.
    :param dataset: data set whose classes, shape and normalisation are used; the timed images are random.
    :param load: work of the run, which decides which rates are measured.
    """
    device = torch.device(config.cluster.device)
    if not load.computes:
        return Calibration(device="nothing is computed", kind=device.type, compared=compared(config, dataset, load))
    keep_freed_memory()
    torch.set_num_threads(config.compute.threads or 1)
    made = _timed(config, load)
    images = max(2 * min(made.method.real_batch, max(dataset.counts)), assembly.start_images(made))
    probe = Probe(config=made, dataset=like(dataset, images), device=device)
    alone, grouping = Grouping(per_class(load.classes)), replace(probe.recipe.grouping, warmup_networks=0)
    return Calibration(
        device=_description(probe.device),
        kind=probe.device.type,
        compared=compared(config, dataset, load),
        alone=_matching(probe, alone, made, load) if load.steps else None,
        shared=_matching(probe, grouping, made, load) if load.shared_steps else None,
        updating=_updating(probe, load) if load.updates else None,
        draw=_medians({0: probe.draw}, probe.device)[0],
        real=peak(probe.real) if load.steps else None,
        synthetic=peak(probe.double_backward) if load.steps else None,
        training=peak(probe.slice) if load.updates else None,
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


def _timed(config: RunConfig, load: Workload) -> RunConfig:
    """Return the config of the timed worker, whose theta is drawn, not trained between steps, and chooses no minibatch.

    Without matching steps, the keys of matching have their defaults, because the planned run does not read them.
    """
    schedule, training = replace(config.trajectory, start="fresh"), replace(config.training, source="frozen")
    if load.steps:
        known = known_groups(config)
        method = replace(known.method, real_draw="fresh")
        return replace(known, ipc=max(config.ipc, FEW), method=method, trajectory=schedule, training=training)
    method = MethodConfig(augmentation=config.method.augmentation)
    return replace(config, ipc=FEW, method=method, trajectory=schedule, training=replace(training, cutmix=0.0))


def _matching(probe: Probe, grouping: Grouping, made: RunConfig, load: Workload) -> Matching:
    def step(classes: int, real: int, ipc: int) -> Callable[[], None]:
        return probe.match(grouping, classes, real, ipc)

    each = decoded(made, 1)
    most = _affordable(lambda n: step(1, min(n, load.real), max(1, n // each)), max(load.real, load.synthetic), probe)
    real, ipc = min(most, load.real), min(made.ipc, max(2, most // each))
    less_real, less_ipc = max(1, real // 2), max(1, ipc // 4)
    classes = len(probe.labels)
    shapes = {(1, real, ipc), (classes, real, ipc), (1, less_real, ipc), (1, real, less_ipc)}
    times = _medians({shape: step(*shape) for shape in sorted(shapes)}, probe.device)
    rows = [(1, n, n * r, n * min(decoded(made, m), made.method.synthetic_limit)) for n, r, m in times]
    return Matching(*fitted(rows, list(times.values())))


def _updating(probe: Probe, load: Workload) -> Updating:
    def step(batch: int, slices: int, workers: int) -> Callable[[], None]:
        return lambda: probe.update(batch, slices, workers)

    usual = max(load.updates, key=lambda images: images * load.updates[images])
    batch = max(2, _affordable(lambda n: step(n, 1, 1), usual, probe))
    shapes = [(batch, 1, 1), (batch, 2, 1), (batch, 2, 2), (batch // 2, 1, 1)]
    times = _medians({shape: step(*shape) for shape in shapes}, probe.device)
    rows = [(1, slices / workers, n, n / workers) for n, slices, workers in times]
    return Updating(*fitted(rows, list(times.values())))


def _affordable(step: Callable[[int], Callable[[], None]], most: int, probe: Probe) -> int:
    """Return the number of images, doubled until a step takes LONGEST / 2 seconds or the number reaches ``most``."""
    images = min(FEW, most)
    step(images)()  # a warm-up: the first step takes longer
    while images < most and _seconds(step(images), probe.device) < LONGEST / 2:
        images = min(most, 2 * images)
    return images


def _medians(pieces: dict[Any, Callable[[], None]], device: torch.device) -> dict[Any, float]:
    def turn() -> dict[Any, float]:
        return {key: _seconds(piece, device) for key, piece in pieces.items()}

    turn()  # a warm-up: the first step of a shape takes longer
    first = turn()
    more = min(MOST_ROUNDS, max(ROUNDS, int(WINDOW / sum(first.values())))) - 1
    rounds = [first, *(turn() for _ in range(more))]
    return {key: median(times[key] for times in rounds) for key in pieces}


def _seconds(piece: Callable[[], None], device: torch.device) -> float:
    wait = torch.cuda.synchronize if device.type == CUDA else lambda: None
    wait()
    start = time.perf_counter()
    piece()
    wait()
    return time.perf_counter() - start


def _description(device: torch.device) -> str:
    threads = f"CPU {platform.machine()}, {torch.get_num_threads()} threads"
    return f"{torch.cuda.get_device_name() if device.type == CUDA else threads}, torch {torch.__version__}"
