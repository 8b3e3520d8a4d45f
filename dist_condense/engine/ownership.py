"""Ownership of classes by workers: a pure function of (costs, number of workers)."""

from __future__ import annotations

from collections.abc import Sequence


def assign(costs: Sequence[float], workers: int) -> tuple[tuple[int, ...], ...]:
    """Assign classes to workers by longest processing time; return the labels of each worker, ascending.

    Classes in falling cost go to the least loaded worker, ties to the lower rank; with more workers than classes the
    last workers own none. 10 equal classes on 8 workers: 2, 2, 1, 1, 1, 1, 1, 1.
    """
    loads = [0.0] * workers
    owned: list[list[int]] = [[] for _ in range(workers)]
    for label in sorted(range(len(costs)), key=lambda c: (-costs[c], c)):
        rank = min(range(workers), key=lambda r: (loads[r], r))
        owned[rank].append(label)
        loads[rank] += costs[label]
    return tuple(tuple(sorted(labels)) for labels in owned)
