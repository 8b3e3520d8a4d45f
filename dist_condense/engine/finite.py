"""Detection of numbers that are not finite: recorded on the device without waiting, read together with the losses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import torch
from torch import Tensor


class What(IntEnum):
    """Kind of a number that was not finite; causes precede their consequences."""

    NETWORK = 0
    STATISTIC = 1
    LOSS = 2
    UPDATE = 3


WORDS = {
    What.STATISTIC: "the statistic of its images",
    What.LOSS: "a statistic or the matching loss",
    What.UPDATE: "the update of its pixels",
}
NO_CLASS = -1


@dataclass(frozen=True, order=True)
class Finding:
    """The first number that was not finite on one worker; the smallest of several findings is the cause."""

    step: int
    """Matching steps before it, k T + t."""
    what: What
    label: int
    rank: int
    largest: float
    """Magnitude of the largest pixel on that worker."""

    def told(self, matching_steps: int, names: Sequence[str]) -> str:
        """Return a message with the location, counted from 1, and what to change."""
        k, t = divmod(self.step, matching_steps)
        place = f"network {k + 1}, matching step {t + 1}, rank {self.rank}"
        end = (
            f"Pixels keep their last finite values, the largest is {self.largest:.3g}; such updates are left out and "
            "the run goes on with training.check_finite=false"
        )
        if self.what is What.NETWORK:
            since = f"the training after matching step {t}" if t else "its start"
            return f"theta is not finite since {since}: {place}. Lower training.lr in a new output. {end}"
        return (
            f"{WORDS[self.what]} is not finite: class {self.label} ({names[self.label]}), {place}. "
            f"Lower method.images.lr, or training.lr if theta has grown, in a new output. {end}"
        )


@dataclass
class FiniteWatch:
    """First matching step at which each kind of number was not finite, on the device."""

    device: torch.device
    _first: dict[tuple[What, int], Tensor] = field(default_factory=dict)
    """Matching step by kind and class; -1 while all numbers are finite."""

    def note(self, what: What, label: int, finite: Tensor, step: int) -> None:
        """Record whether numbers of this kind are finite: ``finite`` is a single boolean on the device."""
        before = self._first.get((what, label))
        if before is None:
            before = torch.full((), -1, device=self.device)
        self._first[what, label] = before.masked_fill(~finite & (before < 0), step)

    def first(self, rank: int, pixels: Iterable[Tensor]) -> Finding | None:
        """Return the first finding, if any; waits for the device."""
        if not self._first:
            return None
        steps = torch.stack(list(self._first.values())).tolist()
        bad = [(step, *key) for step, key in zip(steps, self._first, strict=True) if step >= 0]
        if not bad:
            return None
        largest = max((float(x.abs().max()) for x in pixels), default=0.0)
        return Finding(*min(bad), rank, largest)


def all_finite(tensors: Iterable[Tensor]) -> Tensor:
    """Return whether every number is finite, as a boolean on the device."""
    return torch.cat([x.detach().flatten() for x in tensors if x.is_floating_point()]).isfinite().all()
