"""Division of the slices of a training batch: all workers decide alike, and have the same theta afterwards."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dist_condense.engine import slices
from dist_condense.engine.coordinator import Coordinator, LocalCoordinator
from dist_condense.engine.slices import MEASURED, WARM_UP, Division, cheaper_everywhere
from dist_condense.system import processor
from tests.engine.test_units import on_threads

PARTS = torch.randn(4, 100, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("timings", "number", "everywhere"),
    [
        ([[(1.0, 2.1)], [(1.0, 9.0)]], 4, True),  # two slices more take 2 s; the sum 2.1 s, since rank 0 came last
        ([[(1.0, 1.9)], [(1.0, 9.0)]], 4, False),
        ([[(0.1, 2.1)], [(1.1, 9.0)]], 4, False),  # the slowest worker computes for 2.2 s
        ([[(1.0, 2.1)], [(1.0, 2.1)], [(None, 0.1)]], 2, False),  # one slice more, but the sum is quick
        ([[(1.0, 2.1)], [(1.0, 2.1)], [(None, 1.1)]], 2, True),
        ([[(1.0, 0.1), (1.0, 9.0), (1.0, 0.1)]] * 2, 2, False),  # one disturbance of three
        ([[(1.0, 9.0), (1.0, 0.1), (1.0, 9.0)]] * 2, 2, True),
    ],
)
def test_the_decision(timings: list[list[tuple[float | None, float]]], number: int, everywhere: bool) -> None:
    assert cheaper_everywhere(timings, number) is everywhere


@pytest.mark.parametrize("workers", [2, 3, 6])
@pytest.mark.parametrize("everywhere", [False, True])
@pytest.mark.parametrize("batch", [9, 3])
def test_the_sum_does_not_depend_on_who_computes_what(
    workers: int, everywhere: bool, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same holds for a batch that is smaller than the number of slices."""
    monkeypatch.setattr(slices, "cheaper_everywhere", lambda timings, number: everywhere)
    computed: dict[int, list[list[int]]] = {rank: [] for rank in range(workers)}

    def updates(division: Division, seen: list[list[int]]) -> list[Tensor]:
        def part(v: int, rows: slice) -> Tensor:
            seen[-1].append(v)
            return PARTS[v] * (rows.stop - rows.start)

        sums = []
        for _ in range(WARM_UP + MEASURED + 1):
            seen.append([])
            sums.append(division.sum(batch, part, PARTS.new_zeros(1, 100)))
        return sums

    expected = updates(Division(LocalCoordinator(), 4), [])

    def work(coordinator: Coordinator) -> None:
        result = updates(Division(coordinator, 4), computed[coordinator.rank])
        assert all(torch.equal(x, y) for x, y in zip(result, expected, strict=True))

    on_threads(workers, work)
    own = [v for v in range(4) if batch * v // 4 < batch * (v + 1) // 4]
    for rank, (first, *_, last) in computed.items():
        assert first == [v for v in own if v % workers == rank]
        assert last == (own if everywhere else first)


def test_a_single_slice_is_computed_by_all_from_the_start() -> None:
    def work(coordinator: Coordinator) -> None:
        division = Division(coordinator, 1)
        assert torch.equal(division.sum(5, lambda v, rows: PARTS[0], PARTS.new_zeros(1, 100)), PARTS[0])
        assert division.everywhere

    on_threads(3, work)


@pytest.mark.parametrize("equal", [False, True])
def test_workers_that_differ_in_a_bit_settle_on_the_first_ones(equal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "kind", lambda device: "one" if equal else None)
    first = torch.tensor([-0.0, torch.nan, 1e-45, 3.0]), torch.ones(2, 2)

    def work(coordinator: Coordinator) -> None:
        own = [x + coordinator.rank for x in first] if coordinator.rank else [x.clone() for x in first]
        Division(coordinator, 1).synchronise(own)
        same = all(torch.equal(x.view(torch.int32), y.view(torch.int32)) for x, y in zip(own, first, strict=True))
        assert same == (coordinator.rank == 0 or not equal)

    on_threads(2, work)


def test_nothing_is_settled_where_slices_are_shared_out() -> None:
    def work(coordinator: Coordinator) -> None:
        own = [torch.full((3,), float(coordinator.rank))]
        Division(coordinator, 4).synchronise(own)
        assert own[0].eq(coordinator.rank).all()

    on_threads(2, work)


def test_the_kind_of_a_processor() -> None:
    cpu = processor.kind(torch.device("cpu"))
    assert cpu is not None and torch.__version__ in cpu and cpu == processor.kind(torch.device("cpu"))
    assert processor.kind(torch.device("cuda")) is None


def test_threads_are_as_before_afterwards() -> None:
    before = torch.get_num_threads()
    for threads in (before + 1, None):
        with processor.on_threads(threads):
            assert torch.get_num_threads() == (threads or before)
        assert torch.get_num_threads() == before
