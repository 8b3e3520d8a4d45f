"""Remedies for a run that does not fit into a worker's memory: which keys to change. All functions are pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from dist_condense.data.reading.tiers import gib
from dist_condense.planning.cluster import Cluster
from dist_condense.planning.forecast import (
    AT_ONCE,
    MINIBATCHES,
    NETWORK,
    PIXELS,
    PROCESS,
    REAL,
    STATISTICS,
    at_once,
    memory,
)
from dist_condense.planning.rates import Calibration
from dist_condense.planning.workload import Workload

LESS = {
    PROCESS: "workers with more memory",
    NETWORK: "another network.name or a lower network.width",
    PIXELS: "more workers (cluster.workers) or a lower ipc",
    STATISTICS: "fewer groups (method.grouping) or a lower network.width",
    MINIBATCHES: "a lower method.real_batch",
    REAL: "data.tier=ram if this is a GPU's memory, else data.tier=encoded or disk; or more workers",
}
"""Change that reduces the memory for each purpose, as worded in messages."""


def remedies(load: Workload, rates: Calibration, cluster: Cluster, workers: int, room: int) -> list[str]:
    """Return messages that state what to change so that a worker needs at most ``room`` bytes; empty if it fits."""
    parts = memory(load, rates, cluster, workers)
    images = parts.pop(AT_ONCE)
    free = room - sum(parts.values())
    if images <= free:
        return []
    if free <= 0:
        largest = max(parts, key=parts.__getitem__)
        return [
            f"{gib(sum(parts.values()))} are needed besides the images in the network, {gib(parts[largest])} of "
            f"them for: {largest}. Use {LESS[largest]}"
        ]
    return [*_matching(load, rates, free), *_training(load, rates, free)]


def _matching(load: Workload, rates: Calibration, free: int) -> Iterator[str]:
    def fits(microbatch: int, captured: int = 1) -> bool:
        pieces = at_once(replace(load, microbatch=microbatch, captured=captured), rates)
        return max(pieces["real"], pieces["synthetic"]) <= free

    if not load.steps or fits(load.microbatch, load.captured):
        return
    if captured := _halved(load.captured, lambda classes: fits(load.microbatch, classes)):
        yield _remedy("matching", free, key="compute.cuda_graphs", value=captured)
    else:
        most = max(load.real, load.synthetic)
        yield _remedy("matching", free, key="compute.microbatch", value=_halved(most, fits))


def _training(load: Workload, rates: Calibration, free: int) -> Iterator[str]:
    training = rates.training
    if training is None or at_once(load, rates).get("training", 0) <= free:
        return
    batch = max(load.updates)
    images = _halved(batch, lambda n: training.bytes(n) <= free)
    key, value = (load.batch_key, images) if load.coupled else ("compute.slices", images and -(-batch // images))
    yield _remedy("training theta", free, key=key, value=value)


def _halved(images: int, fits: Callable[[int], bool]) -> int:
    """Return the number of images, halved until they fit; 0 if not even one image fits."""
    while images and not fits(images):
        images //= 2
    return images


def _remedy(part: str, free: int, *, key: str, value: int) -> str:
    if value:
        return f"{part} needs more than the {gib(free)} that are left for images: set {key}={value}"
    return (
        f"{part} needs more than the {gib(free)} that are left for images even one by one: "
        "set compute.autocast=true, or lower dataset.size or network.width"
    )
