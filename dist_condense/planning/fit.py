"""What does not fit into a worker's memory, and which key to change: pure functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from dist_condense.data.reading.tiers import gib
from dist_condense.planning.forecast import (
    AT_ONCE,
    MINIBATCHES,
    NETWORK,
    PIXELS,
    PROCESS,
    REAL,
    STATISTICS,
    Cluster,
    at_once,
    memory,
)
from dist_condense.planning.rates import Calibration
from dist_condense.planning.workload import Workload

LESS = {
    PROCESS: "workers with more memory",
    NETWORK: "another network.name or a lower network.width",
    PIXELS: "more workers (cluster.workers) or a lower ipc",
    STATISTICS: "more workers (cluster.workers) or fewer groups (method.grouping)",
    MINIBATCHES: "a lower method.real_batch",
    REAL: "data.tier=ram where this is a GPU's memory, else data.tier=encoded or disk; or more workers",
}
"""What makes each smaller."""


def remedies(load: Workload, rates: Calibration, cluster: Cluster, workers: int, room: int) -> list[str]:
    """What to change so that ``room`` bytes are enough for a worker; empty where they are."""
    held = memory(load, rates, cluster, workers)
    images = held.pop(AT_ONCE)
    free = room - sum(held.values())
    if images <= free:
        return []
    if free <= 0:
        largest = max(held, key=held.__getitem__)
        return [
            f"{gib(sum(held.values()))} are held before an image goes through the network, {gib(held[largest])} of "
            f"them: {largest}. Choose {LESS[largest]}"
        ]
    return [*_matching(load, rates, free), *_training(load, rates, free)]


def _matching(load: Workload, rates: Calibration, free: int) -> Iterator[str]:
    def fits(microbatch: int) -> bool:
        pieces = at_once(replace(load, microbatch=microbatch), rates)
        return max(pieces["real"], pieces["synthetic"]) <= free

    if not fits(load.microbatch):
        yield _told("matching", free, "compute.microbatch", _halved(max(load.real, load.synthetic), fits))


def _training(load: Workload, rates: Calibration, free: int) -> Iterator[str]:
    training = rates.training
    if training is None or at_once(load, rates).get("training", 0) <= free:
        return
    batch = max(load.updates)
    images = _halved(batch, lambda n: training.bytes(n) <= free)
    key, value = ("training.batch", images) if load.coupled else ("compute.slices", images and -(-batch // images))
    yield _told("training theta", free, key, value)


def _halved(images: int, fits: Callable[[int], bool]) -> int:
    """The first of images / 2, / 4, ... that fits; 0: not even one."""
    while images and not fits(images):
        images //= 2
    return images


def _told(what: str, free: int, key: str, value: int) -> str:
    if value:
        return f"{what} needs more than the {gib(free)} that are left for images: set {key}={value}"
    return (
        f"{what} needs more than the {gib(free)} that are left for images even one by one: "
        "set compute.autocast=true, or lower dataset.size or network.width"
    )
