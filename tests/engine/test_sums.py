"""Sums to which parts are added one by one: exact, for any order, workers, and expectation of the scale."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import closing
from fractions import Fraction
from functools import cache
from math import frexp, isfinite
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from benchmarks.cases import Settings
from dist_condense import networks
from dist_condense.data.image_set import ClassName
from dist_condense.data.reading.read_ahead import ReadAhead, Ticket
from dist_condense.engine.coordinator import Coordinator, LocalCoordinator, Placement
from dist_condense.engine.exact_sum import ExactSums
from dist_condense.engine.finite import Quantity
from dist_condense.engine.matching import shared
from dist_condense.engine.shard import ClassShard
from dist_condense.planning.images import RandomImages
from dist_condense.settings import assembly
from dist_condense.system.peak_bytes import PeakBytes
from tests.engine.test_units import on_threads

LENGTH = 3
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
VALUES = st.lists(FLOATS, min_size=LENGTH, max_size=LENGTH) | st.lists(
    st.integers(-9, 9).map(float), min_size=LENGTH, max_size=LENGTH
)
PARTS = st.lists(st.tuples(st.integers(0, 1), VALUES, st.integers(0, 2)), min_size=1, max_size=9)
"""Slot, values and worker of each part."""
EXPECTED = st.none() | st.lists(st.integers(-70, 190), min_size=2, max_size=2)


def by_workers(parts: Sequence[tuple[int, Tensor, int]], stored: int | None, expected: Tensor | None) -> list[Tensor]:
    """Return the result of each of three workers, whose reductions are computed one after the other."""
    largest, total = torch.zeros(2, dtype=torch.float64), torch.zeros(2, LENGTH, dtype=torch.int64)
    for slot, part, _ in parts:
        largest[slot] = max(largest[slot], part.abs().max())
    like, workers = torch.empty(2, LENGTH), range(3)
    sums = [
        ExactSums(like, 9, maximum=lambda x: x.copy_(largest), reduce=total.add_, stored=stored, expected=expected)
        for _ in workers
    ]
    for worker in workers:
        own = [(slot, part) for slot, part, of in parts if of == worker]
        for slot, part in own:
            sums[worker].add(slot, part)
        for i in sums[worker].agree():
            sums[worker].add(*own[i])
        total += sums[worker]._fixed
    for each in sums:
        each.reduce = lambda x: x.copy_(total)
    return [each.result() for each in sums]


def rounded_once(parts: Sequence[tuple[int, list[float], int]], slot: int, i: int) -> float:
    """Return the sum as defined: of round(x 2^s), in units of 2^-s, with s from the largest value of the slot."""
    own = [values for of, values, _ in parts if of == slot]
    s = 62 - 4 - frexp(max((abs(x) for values in own for x in values), default=0.0))[1]  # 9 addends have 4 bits
    total = sum(round(Fraction(values[i]) * Fraction(2) ** s) for values in own)
    return float(torch.tensor(float(total), dtype=torch.float64) * 2.0**-s)


@settings(deadline=None, derandomize=True, database=None)
@given(PARTS, st.sampled_from([None, 0, 1, 3]), EXPECTED)
def test_the_sum_is_that_of_its_definition(
    parts: list[tuple[int, list[float], int]], stored: int | None, expected: list[int] | None
) -> None:
    tensors = [(slot, torch.tensor(values), worker) for slot, values, worker in parts]
    results = by_workers(tensors, stored, None if expected is None else torch.tensor(expected))
    wanted = torch.tensor([[rounded_once(parts, slot, i) for i in range(LENGTH)] for slot in (0, 1)])
    assert all(torch.equal(result, wanted) for result in results)
    for slot in (0, 1):  # and close to the sum without any rounding
        own = [values for of, values, _ in parts if of == slot]
        largest = max((abs(Fraction(x)) for values in own for x in values), default=Fraction(0))
        for i in range(LENGTH):
            exact = sum(Fraction(values[i]) for values in own)
            if isfinite(value := float(wanted[slot, i])):
                assert (
                    abs(Fraction(value) - exact)
                    <= len(own) * largest / 2**57 + abs(exact) / 2**24 + Fraction(2) ** -149
                )


def test_only_parts_with_another_scale_are_added_again() -> None:
    def of(stored: int | None, expected: Tensor | None, *largest: float) -> list[int]:
        sums = ExactSums(torch.empty(1, 2), 9, maximum=lambda x: None, reduce=lambda x: None, stored=stored)
        sums.expected = expected
        for x in largest:
            sums.add(0, torch.tensor([x, 0.1]))
        again = sums.agree()
        right.append(sums.scale)
        return again

    right: list[Any] = []
    assert of(None, None, 1.0, 8.0, 2.0) == []
    assert of(3, None, 1.0, 8.0, 2.0) == []
    assert of(1, None, 1.0, 8.0, 2.0) == []  # the second was seen before the first was added
    assert of(0, None, 1.0, 8.0, 2.0) == [0]
    assert of(0, right[0], 1.0, 8.0, 2.0) == []  # as expected
    assert of(0, right[0] - 1, 1.0, 8.0, 2.0) == [0, 1, 2]
    assert of(0, right[0] + 1, 1.0, 8.0, 2.0) == [0]
    assert of(0, None, 1.0, float("inf"), 2.0) == []  # the sum is NaN in any case


# --- matching steps of groups -------------------------------------------------------------------------------------

CLASSES = 24
RUN = Settings(method="dcc", classes=CLASSES, size=8, width=8, depth=1, real=4, per_class=6)
FIRST = "features.0.weight"


config = cache(RUN.config)


def shard(coordinator: Coordinator, labels: Sequence[int] = range(CLASSES)) -> ClassShard:
    data = RandomImages(classes=tuple(ClassName(str(c)) for c in range(CLASSES)), size=RUN.size, per_class=6)
    return assembly.shard_of(config(), data, list(labels), coordinator=coordinator, placement=Placement())  # type: ignore[arg-type]


def theta() -> nn.Module:
    return copy.deepcopy(initial())


@cache
def initial() -> nn.Module:
    """Build theta once, because building draws from the global generator, which the threads of a test share."""
    return networks.build(
        "convnet", channels=3, size=RUN.size, classes=CLASSES, seed=0, width=8, depth=1, norm="none"
    ).eval()


def steps(coordinator: Coordinator, labels: Sequence[int] = range(CLASSES), scale: float = 1.0) -> dict[int, Tensor]:
    """Return the pixels after three pooled steps, between which the weights of the first layer change by ``scale``.

    The magnitude of phi differs between classes and steps.
    """
    own, network = shard(coordinator, labels), theta()
    for c, pixels in own.pixels.items():
        pixels.mul_(1 + c)
    with closing(own.source):
        for step in range(3):
            own.match(network, 250, 0, step)
            with torch.no_grad():
                network.get_parameter(FIRST).mul_(scale)
    return own.pixels


@pytest.mark.parametrize(("stored", "scale"), [(0, 1.0), (5, 3.0)])
def test_a_step_is_the_same_however_many_statistics_are_stored(
    stored: int, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "STORED", CLASSES)  # every statistic is computed once, as for few classes
    expected = steps(LocalCoordinator(), scale=scale)
    monkeypatch.setattr(shared, "STORED", stored)
    read: list[int] = []
    monkeypatch.setattr(ReadAhead, "again", _noted(read))
    assert all(torch.equal(x, expected[c]) for c, x in steps(LocalCoordinator(), scale=scale).items())
    assert read  # at least in the first step
    for workers in (2, 3):
        assert all(torch.equal(x, expected[c]) for c, x in on_workers(workers, scale).items())


def on_workers(workers: int, scale: float) -> dict[int, Tensor]:
    found: dict[int, Tensor] = {}
    on_threads(workers, lambda one: found.update(steps(one, range(one.rank, CLASSES, one.size), scale)))
    assert len(found) == CLASSES
    return found


def _noted(read: list[int]) -> Callable[[ReadAhead, Ticket], Tensor]:
    again = ReadAhead.again

    def noted(self: ReadAhead, ticket: Ticket) -> Tensor:
        read.append(ticket.label)
        return again(self, ticket)

    return noted


@pytest.mark.parametrize("reproducible", [True, False])
def test_memory_does_not_grow_with_the_classes_of_a_group(reproducible: bool) -> None:
    """A step of twice as many classes with the same phi needs not even one more statistic."""
    peaks, network = [], theta()
    statistic = sum(p.nbytes for p in network.parameters())
    for classes in (CLASSES // 2, CLASSES):
        own = shard(LocalCoordinator(reproducible), range(classes))
        with closing(own.source):
            own.match(network, 250, 0, 0)
            with PeakBytes() as counted:
                own.match(network, 250, 0, 1)
        peaks.append(counted.most)
    assert peaks[1] - peaks[0] < statistic, (peaks, statistic)


def test_a_statistic_that_is_not_finite_is_noted_by_class() -> None:
    own, network = shard(LocalCoordinator()), theta()
    own.pixels[7][:] = torch.inf
    with closing(own.source):
        own.match(network, 250, 0, 0)
        finding = own.first_not_finite(network, 1)
    assert finding is not None and (finding.quantity, finding.label) == (Quantity.STATISTIC, 7)
