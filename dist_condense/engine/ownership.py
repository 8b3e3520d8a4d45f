"""Ownership of classes by workers: a pure function of (costs, number of workers)."""

from __future__ import annotations

from collections.abc import Sequence


def assign(costs: Sequence[float], workers: int) -> tuple[tuple[int, ...], ...]:
    """Assign classes to workers by the longest-processing-time rule; return the labels of each worker, ascending.

    In order of falling cost, each class goes to the least loaded worker; the lower rank wins a tie. With more workers
    than classes, the last workers own none. For example, 8 workers own 2, 2, 1, 1, 1, 1, 1, 1 of 10 classes of equal
    cost.
    """
    loads = [0.0] * workers
    owned: list[list[int]] = [[] for _ in range(workers)]
    for label in sorted(range(len(costs)), key=lambda c: (-costs[c], c)):
        rank = min(range(workers), key=lambda r: (loads[r], r))
        owned[rank].append(label)
        loads[rank] += costs[label]
    return tuple(tuple(sorted(labels)) for labels in owned)
