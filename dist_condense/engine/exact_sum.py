"""Sums that depend neither on the order of the additions nor on the workers that perform them.

Each addend is converted to 64-bit fixed point with a scale that follows from the exact maximum over all addends, added
as an integer, and converted back. Integers add without rounding, so the sum is the same on one process and on many. The
error is below 2**-60 times the largest addend times the number of addends, which is less than that of a float32 sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

Part = tuple[int, Tensor]
"""Index of a slot, and a flat tensor to be added to that slot."""


def exact_sum(
    parts: Sequence[Part],
    total: Tensor,
    terms: int,
    *,
    maximum: Callable[[Tensor], None],
    add: Callable[[Tensor], None],
) -> Tensor:
    """Return the sums of all workers' parts per slot.

    :param parts: this worker's addends, each ``[length]`` of the dtype of ``total``.
    :param total: zeros ``[slots, length]``; determines shape, dtype and device of the result.
    :param terms: upper bound of the number of addends per slot over all workers, equal on all workers.
    :param maximum: all-reduces a float64 tensor in place by its maximum.
    :param add: all-reduces an int64 tensor in place by its sum.
    :returns: ``[slots, length]``; NaN in slots where an addend is not finite.
    """
    largest = largest_magnitude(parts, total)
    maximum(largest)
    exponent = scale_exponent(largest, terms)
    fixed = torch.zeros_like(total, dtype=torch.int64)
    for slot, part in parts:
        fixed[slot] += to_fixed(part, exponent[slot])
    add(fixed)
    result = (fixed.to(torch.float64) * power_of_two(-exponent[:, None])).to(total.dtype)
    return result.masked_fill(~largest[:, None].isfinite(), torch.nan)


def largest_magnitude(parts: Iterable[Part], total: Tensor) -> Tensor:
    """Return the largest absolute value among each slot's addends, float64 ``[slots]``; inf if one is not finite."""
    largest = torch.zeros(len(total), dtype=torch.float64, device=total.device)
    for slot, part in parts:
        magnitude = part.abs().max().to(torch.float64)
        largest[slot] = torch.maximum(largest[slot], magnitude.nan_to_num(torch.inf, torch.inf))
    return largest


def scale_exponent(largest: Tensor, terms: int) -> Tensor:
    """Return, per slot, an exponent s such that the sum of ``terms`` addends times 2**s stays below 2**62."""
    return (62 - terms.bit_length() - torch.frexp(largest.nan_to_num(0, 0)).exponent).clamp(-1000, 1000)


def to_fixed(part: Tensor, exponent: Tensor) -> Tensor:
    """Return round(part * 2**exponent) as int64; values that are not finite become 0 (their slot becomes NaN later)."""
    return (part.to(torch.float64) * power_of_two(exponent)).nan_to_num(0, 0, 0).round().to(torch.int64)


def power_of_two(exponent: Tensor) -> Tensor:
    """Return 2**exponent in float64; some versions of torch.ldexp use float32, which overflows above 2**127."""
    return torch.pow(2.0, exponent.to(torch.float64))
