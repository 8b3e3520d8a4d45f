"""Division of a training batch into slices, which are distributed and summed, or all computed by every worker.

The addends are the same either way. In fixed point, the bits of their sum are the same, too, so the choice depends on
time alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from statistics import median

import torch
from torch import Tensor

from dist_condense.engine.coordinator import Coordinator, LocalCoordinator
from dist_condense.networks import batch_norms
from dist_condense.system import processor

SLICES = 4
"""Default number of slices of a training batch, which does not depend on the number of workers."""
WARM_UP, MEASURED = 1, 5
"""Number of updates before the timing (the first update takes longer), and number of timed updates."""

Timing = Sequence[float | None]
"""Seconds of one slice (None for a worker without a slice) and of the sum, including waiting, in one update."""


def usual_slices(network: torch.nn.Module) -> int:
    """Return the usual number of slices: :data:`SLICES`, or 1 if BatchNorm couples the images of a batch."""
    return 1 if batch_norms(network) else SLICES


def cheaper_everywhere(timings: Sequence[Sequence[Timing]], slices: int) -> bool:
    """Return whether it is faster to compute all slices on every worker than to distribute and sum them.

    Computing all slices is faster if, in most updates, the sum takes longer than the slices that a worker would compute
    in addition to its own. The time of a slice is that of the slowest worker; the time of the sum is that of the worker
    with the shortest sum, which arrived last and waited for none. The result depends only on the timings of all
    workers, so that all workers make the same decision.

    :param timings: timings of every worker, by rank: one for each timed update.
    :param slices: number of slices of a batch.
    """
    additional = slices - -(-slices // len(timings))
    gains = [
        min(summing for _, summing in update) - additional * max(each for each, _ in update if each is not None)
        for update in zip(*timings, strict=True)
    ]
    return median(gains) > 0


@dataclass
class Division:
    """Division of a batch into slices, and the sum over all slices.

    At first, the slices are distributed (worker r computes each slice v with v % workers == r) and timed. Then the
    workers decide by :func:`cheaper_everywhere` whether to continue so, or whether each computes all slices, without
    communication. A single slice is computed by every worker from the start.
    """

    coordinator: Coordinator
    slices: int
    _: KW_ONLY
    everywhere: bool = field(init=False)
    """Whether every worker computes all slices."""
    _timings: list[Timing] = field(default_factory=list)
    _updates: int = 0
    _identical: bool | None = None
    """Whether all workers compute the same bits; None: not determined yet."""

    def __post_init__(self) -> None:
        self.everywhere = 1 in (self.slices, self.coordinator.size)

    def sum(self, batch: int, part: Callable[[int, slice], Tensor], total: Tensor) -> Tensor:
        """Return the sum of ``part(v, rows)`` over the slices v of a batch of ``batch`` images.

        :param part: returns a tensor ``[length]`` of the dtype of ``total``.
        :param total: zeros ``[1, length]``.
        """
        cuts = [batch * v // self.slices for v in range(self.slices + 1)]
        first, step = (0, 1) if self.everywhere else (self.coordinator.rank, self.coordinator.size)
        own = [(v, slice(cuts[v], cuts[v + 1])) for v in range(first, self.slices, step) if cuts[v] < cuts[v + 1]]
        started = time.perf_counter()
        parts = [(0, part(v, rows)) for v, rows in own]
        if self.everywhere:
            return LocalCoordinator(self.coordinator.reproducible).sum(parts, total, terms=self.slices)[0]
        timed = WARM_UP <= self._updates < WARM_UP + MEASURED
        computed = self._now(parts[-1][1] if parts else total, timed)
        result = self.coordinator.sum(parts, total, terms=self.slices)[0]
        if timed:
            summed = self._now(result, timed)
            self._timings.append(((computed - started) / len(parts) if parts else None, summed - computed))
        self._updates += 1
        if self._updates == WARM_UP + MEASURED:
            self.everywhere = cheaper_everywhere(self.coordinator.gather(self._timings), self.slices)
        return result

    def synchronise(self, tensors: Sequence[Tensor]) -> None:
        """Copy rank 0's values to all workers, in place, if the workers computed alone and may differ in a bit."""
        if not self.everywhere or self.coordinator.size == 1:
            return
        if self._identical is None:
            kinds = self.coordinator.gather(processor.kind(tensors[0].device))
            self._identical = None not in kinds and len(set(kinds)) == 1
        if self._identical:
            return
        self.coordinator.spread(tensors)

    @staticmethod
    def _now(tensor: Tensor, timed: bool) -> float:
        if timed:
            tensor.flatten()[0].item()  # waits until the device has computed it
        return time.perf_counter()
