"""Detection of numbers that are not finite.

Checks are recorded on the device without waiting, and read together with the losses.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import torch
from torch import Tensor


class Quantity(IntEnum):
    """Kinds of numbers that can become infinite or NaN, ordered so that causes precede their consequences."""

    NETWORK = 0
    STATISTIC = 1
    LOSS = 2
    UPDATE = 3


WORDS = {
    Quantity.STATISTIC: "the statistic of its images",
    Quantity.LOSS: "a statistic or the matching loss",
    Quantity.UPDATE: "the update of its pixels",
}
NO_CLASS = -1


@dataclass(frozen=True, order=True, kw_only=True)
class Finding:
    """Record of the first number on one worker that was not finite.

    Findings are ordered by step, then by quantity; the smallest finding of all workers is the cause.
    """

    step: int
    """Index of the matching step, counted over all networks: k T + t for step t of the T steps of network k."""
    quantity: Quantity
    label: int
    rank: int
    largest: float
    """Magnitude of the largest pixel on that worker."""

    def message(self, matching_steps: int, names: Sequence[str], member: int | None = None) -> str:
        """Return a message that says where the number occurred and what to change.

        :param matching_steps: number T of matching steps per network.
        :param names: names of the classes, by label.
        :param member: network of a pool whose training the worker has not completed at this step, or None.
        """
        if member is not None and self.quantity is Quantity.NETWORK:
            return of_pool(member)
        k, t = divmod(self.step, matching_steps)
        where = f"network {k + 1}, matching step {t + 1}, rank {self.rank}"
        advice = (
            f"Pixels keep their last finite values, the largest is {self.largest:.3g}; set "
            "training.check_finite=false to skip such updates and continue"
        )
        if self.quantity is Quantity.NETWORK:
            start = f"the training after matching step {t}" if t else "its start"
            return f"theta is not finite since {start}: {where}. Lower training.lr in a new output. {advice}"
        return (
            f"{WORDS[self.quantity]} is not finite: class {self.label} ({names[self.label]}), {where}. "
            f"Lower method.images.lr, or training.lr if theta has grown, in a new output. {advice}"
        )


def of_pool(member: int) -> str:
    """Return a message that says which network of a pool is not finite, and what to change."""
    return (
        f"network_{member} of the pool is not finite since its training on real images, and is not stored. Lower "
        "training.lr in a new output, or set training.check_finite=false to continue while no pixel is updated with it"
    )


@dataclass
class FiniteWatch:
    """On-device record of the first matching step at which each kind of number was not finite."""

    device: torch.device
    _first: dict[tuple[Quantity, tuple[int, ...]], Tensor] = field(default_factory=dict)
    """Matching steps ``[classes]`` by kind and classes; -1 while all numbers are finite."""

    def note(self, quantity: Quantity, labels: Sequence[int], finite: Tensor, step: int) -> None:
        """Record whether the numbers of one kind are finite at matching step ``step``, for each of some classes.

        :param labels: labels of the classes. Each set of classes has a record of its own, so a class that is noted
            together with others, alone at another step, is found by the smallest step of its records.
        :param finite: booleans ``[classes]`` on the device.
        """
        key = quantity, tuple(labels)
        if key not in self._first:
            self._first[key] = torch.full((len(labels),), -1, device=self.device)
        before = self._first[key]
        self._first[key] = before.masked_fill(~finite & (before < 0), step)

    def first(self, rank: int, pixels: Iterable[Tensor]) -> Finding | None:
        """Return the first finding, or None if all numbers were finite; waits for the device.

        :param pixels: pixels of this worker, of which the finding reports the largest magnitude.
        """
        if not self._first:
            return None
        steps = torch.cat(list(self._first.values())).tolist()
        whose = [(quantity, label) for quantity, labels in self._first for label in labels]
        bad = [(step, *key) for step, key in zip(steps, whose, strict=True) if step >= 0]
        if not bad:
            return None
        largest = max((float(x.abs().max()) for x in pixels), default=0.0)
        step, quantity, label = min(bad)
        return Finding(step=step, quantity=quantity, label=label, rank=rank, largest=largest)


def all_finite(tensors: Iterable[Tensor]) -> Tensor:
    """Return whether every number is finite, as a boolean on the device."""
    return torch.cat([x.detach().flatten() for x in tensors if x.is_floating_point()]).isfinite().all()
