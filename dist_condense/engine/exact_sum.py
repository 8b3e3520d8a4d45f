"""Sums that depend neither on the order of the additions nor on the workers that perform them.

Each addend is converted to 64-bit fixed point with a scale that follows from the exact maximum over all addends, added
as an integer, and converted back. Integers add without rounding, so the sum is the same on one process and on many. The
error is below 2**-60 times the largest addend times the number of addends, which is less than that of a float32 sum.

The scale is known only after the last addend. To store fewer addends than that, :class:`ExactSums` adds the first ones
with the scale that it expects, and asks for them once more if the scale proves to be another one. So the sum does not
depend on what was expected.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Protocol

import torch
from torch import Tensor

Part = tuple[int, Tensor]
"""Index of a slot, and a flat tensor to be added to that slot."""
BLOCK = 2**18
"""Number of values that are converted at a time, which bounds the memory of intermediate results."""


class Sums(Protocol):
    """Sums per slot over the parts of all workers.

    Every worker adds its own parts one by one, calls :meth:`agree`, adds some of its parts once more, and calls
    :meth:`result`.
    """

    @property
    def scale(self) -> Tensor | None:
        """What to expect of a similar sum, known after :meth:`agree`; None: nothing."""
        ...

    def add(self, slot: int, part: Tensor) -> None:
        """Add ``part``, ``[length]``, to a slot. It may be stored, so it must not be changed afterwards."""
        ...

    def agree(self) -> list[int]:
        """Return which parts this worker must add once more: their indices, in the order in which it added them."""
        ...

    def result(self) -> Tensor:
        """Return the sums ``[slots, length]`` of all workers' parts."""
        ...


@dataclass
class ExactSums:
    """Sums in fixed point; NaN in slots where an addend is not finite.

    :param like: tensor ``[slots, length]`` with dtype and device of the parts; its values are not read.
    :param terms: upper bound of the number of addends per slot over all workers, equal on all workers.
    :param maximum: all-reduces a float64 tensor in place by its maximum.
    :param reduce: all-reduces an int64 tensor in place by its sum.
    :param stored: maximum number of parts that are stored until the scale is known; None: all. A worker with more parts
        waits for its device.
    :param expected: expected value of :attr:`scale`, which affects the time only; None: no expectation.
    """

    like: Tensor
    terms: int
    _: KW_ONLY
    maximum: Callable[[Tensor], None]
    reduce: Callable[[Tensor], None]
    stored: int | None = None
    expected: Tensor | None = None
    scale: Tensor | None = field(default=None, init=False)
    """Exponent of each slot's scale, int64 ``[slots]`` on the device; None before :meth:`agree`."""
    _waiting: deque[tuple[int, int, Tensor]] = field(default_factory=deque, init=False)
    """Index, slot and values of each stored part."""
    _early: list[tuple[int, int, int]] = field(default_factory=list, init=False)
    """Index and slot of each part that was added before the scale was known, and the exponent that was used."""
    _used: dict[int, int] = field(default_factory=dict, init=False)
    """Exponent of the scale of the slots to which such parts were added."""
    _count: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._largest = torch.zeros(len(self.like), dtype=torch.float64, device=self.like.device)
        self._fixed = torch.zeros(self.like.shape, dtype=torch.int64, device=self.like.device)

    def add(self, slot: int, part: Tensor) -> None:
        if self.scale is not None:
            self._convert(slot, part, self.scale[slot])
            return
        magnitude = largest_magnitude(part).nan_to_num(torch.inf, torch.inf)
        self._largest[slot] = torch.maximum(self._largest[slot], magnitude)
        self._waiting.append((self._count, slot, part))
        self._count += 1
        if self.stored is not None and len(self._waiting) > self.stored:
            self._add_early(*self._waiting.popleft())

    def agree(self) -> list[int]:
        self.maximum(self._largest)
        self.scale = scale_exponent(self._largest, self.terms)
        again = self._outdated(self.scale.tolist(), self._largest.isfinite().tolist()) if self._early else []
        while self._waiting:
            _, slot, part = self._waiting.popleft()
            self._convert(slot, part, self.scale[slot])
        return again

    def result(self) -> Tensor:
        assert self.scale is not None, "agree() precedes result()"
        self.reduce(self._fixed)
        result = torch.empty(self.like.shape, dtype=self.like.dtype, device=self.like.device)
        factors = power_of_two(-self.scale).masked_fill(~self._largest.isfinite(), torch.nan)
        for row, fixed, factor in zip(result, self._fixed, factors, strict=True):
            for block, values in zip(row.split(BLOCK), fixed.split(BLOCK), strict=True):
                block.copy_(values.to(torch.float64) * factor)
        return result

    def _add_early(self, index: int, slot: int, part: Tensor) -> None:
        """Add a part with the scale that follows from the parts so far, or with the expected one if that is smaller."""
        exponent = int(scale_exponent(self._largest[slot], self.terms))
        if self.expected is not None:
            exponent = min(exponent, int(self.expected[slot]))
        if self._used.setdefault(slot, exponent) != exponent:
            self._fixed[slot].zero_()
            self._used[slot] = exponent
        self._convert(slot, part, torch.tensor(exponent, device=part.device))  # may overflow, if it is the wrong one
        self._early.append((index, slot, exponent))

    def _outdated(self, scale: Sequence[int], finite: Sequence[bool]) -> list[int]:
        """Return the indices of the parts that were added with another scale, and remove them from the sums."""
        for slot, used in self._used.items():
            if used != scale[slot]:
                self._fixed[slot].zero_()
        return [index for index, slot, used in self._early if used != scale[slot] and finite[slot]]

    def _convert(self, slot: int, part: Tensor, exponent: Tensor) -> None:
        for fixed, values in zip(self._fixed[slot].split(BLOCK), part.split(BLOCK), strict=True):
            fixed += to_fixed(values, exponent)


@dataclass
class PlainSums:
    """Ordinary sums in floating point, whose last bits depend on the order of the parts and on the workers.

    :param like: as for :class:`ExactSums`.
    :param reduce: all-reduces a tensor like ``like`` in place by its sum.
    """

    like: Tensor
    reduce: Callable[[Tensor], None]
    scale: None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._total = torch.zeros(self.like.shape, dtype=self.like.dtype, device=self.like.device)

    def add(self, slot: int, part: Tensor) -> None:
        self._total[slot] += part

    def agree(self) -> list[int]:
        return []

    def result(self) -> Tensor:
        self.reduce(self._total)
        return self._total


def largest_magnitude(part: Tensor) -> Tensor:
    """Return the largest absolute value, of the dtype of ``part``; NaN or inf if a value is not finite."""
    low, high = part.aminmax()
    return torch.maximum(-low, high)


def scale_exponent(largest: Tensor, terms: int) -> Tensor:
    """Return, per slot, an exponent s such that the sum of ``terms`` addends times 2**s stays below 2**62.

    :param largest: largest absolute value of the slot's addends, float64.
    """
    return (62 - terms.bit_length() - torch.frexp(largest.nan_to_num(0, 0)).exponent).clamp(-1000, 1000)


def to_fixed(part: Tensor, exponent: Tensor) -> Tensor:
    """Return round(part * 2**exponent) as int64; values that are not finite become 0 (their slot becomes NaN later)."""
    return (part.to(torch.float64) * power_of_two(exponent)).nan_to_num(0, 0, 0).round().to(torch.int64)


def power_of_two(exponent: Tensor) -> Tensor:
    """Return 2**exponent in float64; some versions of torch.ldexp use float32, which overflows above 2**127."""
    return torch.pow(2.0, exponent.to(torch.float64))
