"""The engine's parts in isolation: sums, ownership, draws, groupings, the pixel update, running statistics."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dist_condense import networks
from dist_condense.core import grouping, randomness
from dist_condense.core.image_rule import ImageRule, Learnt, updated
from dist_condense.engine.batch_statistics import refresh_running_statistics
from dist_condense.engine.coordinator import Coordinator, LocalCoordinator
from dist_condense.engine.errors import RunFailed
from dist_condense.engine.exact_sum import ExactSums, Part
from dist_condense.engine.matching.alone import Matched
from dist_condense.engine.matching.recipe import DRAWS, DrawChoice
from dist_condense.engine.ownership import assign
from dist_condense.engine.trajectory import fill


@dataclass
class Meeting:
    """Meeting point of the threads of :class:`ThreadCoordinator`."""

    workers: int
    values: list[object] = field(init=False)
    barrier: threading.Barrier = field(init=False)

    def __post_init__(self) -> None:
        self.values, self.barrier = [None] * self.workers, threading.Barrier(self.workers, timeout=60)

    def exchange(self, rank: int, value: object) -> list[object]:
        self.barrier.wait()
        self.values[rank] = value
        self.barrier.wait()
        return list(self.values)


class ThreadCoordinator(Coordinator):
    """Coordinator of a worker that is a thread of this process."""

    rank, size = 0, 0  # set below

    def __init__(self, rank: int, meeting: Meeting) -> None:
        super().__init__()
        self.rank, self.size, self.meeting = rank, meeting.workers, meeting

    def reduce(self, tensor: Tensor, operation: object) -> None:
        stacked = torch.stack(self.gather(tensor.clone()))
        tensor.copy_(stacked.amax(0) if operation == torch.distributed.ReduceOp.MAX else stacked.sum(0))

    def gather(self, value: object) -> list[object]:
        return self.meeting.exchange(self.rank, value)

    def all_to_all(self, rows: Tensor, sent: Sequence[int], received: Sequence[int]) -> Tensor:
        arrived = [cut[self.rank] for cut in self.gather(rows.split(list(sent)))]
        assert [len(x) for x in arrived] == list(received)
        return torch.cat(arrived)

    def reached(self, step: int) -> None:
        pass

    def beside(self) -> Coordinator:
        raise AssertionError("nothing here reads ahead")


def on_threads(workers: int, work: Callable[[Coordinator], None]) -> None:
    meeting, errors = Meeting(workers), []

    def enter(rank: int) -> None:
        try:
            work(ThreadCoordinator(rank, meeting))
        except BaseException as error:
            errors.append(error)
            meeting.barrier.abort()

    threads = [threading.Thread(target=enter, args=(rank,)) for rank in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors


# --- exact_sum ----------------------------------------------------------------------------------------------------


def nothing(x: Tensor) -> None:
    """Reduce over a single worker."""


def summed(parts: list[Part], like: Tensor, slots: int = 1, terms: int = 12) -> Tensor:
    sums = ExactSums(like.new_zeros(slots, like.shape[-1]), terms, maximum=nothing, reduce=nothing)
    for slot, part in parts:
        sums.add(slot, part)
    assert sums.agree() == []
    return sums.result()


def addends(dtype: torch.dtype, spread: float = 3.0, seed: int = 0) -> Tensor:
    """Return ``[12, 1000]`` over many orders of magnitude."""
    drawn = torch.Generator().manual_seed(seed)
    values = torch.randn(12, 1000, generator=drawn, dtype=torch.float64)
    return (values * 10 ** (spread * torch.randn(12, 1000, generator=drawn, dtype=torch.float64))).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_order_does_not_matter(dtype: torch.dtype) -> None:
    x = addends(dtype)
    expected = summed([(0, row) for row in x], x)
    for seed in range(5):
        order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(summed([(0, row) for row in x[order]], x), expected)
    assert dtype == torch.float64 or not torch.equal(x.sum(0), x.flip(0).cumsum(0)[-1])  # an ordinary sum's order does


@pytest.mark.parametrize("workers", [2, 3, 5])
def test_partition_does_not_matter(workers: int) -> None:
    x, outcomes = addends(torch.float32), {}
    slots = [c % 3 for c in range(12)]
    expected = summed([(slots[c], x[c]) for c in range(12)], x, slots=3)

    def work(coordinator: Coordinator) -> None:
        own = range(12) if coordinator.size == 1 else range(coordinator.rank, 10, coordinator.size)
        parts = [(slots[c], x[c]) for c in own] + (
            [(slots[c], x[c]) for c in (11, 10)] if coordinator.rank == 1 else []
        )
        outcomes[coordinator.rank] = coordinator.sum(parts, x.new_zeros(3, 1000), terms=12)

    on_threads(workers, work)
    assert all(torch.equal(result, expected) for result in outcomes.values())


class OnOneDevice(TorchDispatchMode):
    """Fails where a tensor is on another device; tensors on `meta` have no values that the host could read."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, made)) if isinstance(x, Tensor)]
        assert {x.device.type for x in tensors} <= {"meta"}, function
        return made


def test_a_sum_never_leaves_the_device() -> None:
    x, here = torch.zeros(12, 1000, device="meta"), torch.zeros(1000)
    with OnOneDevice():
        assert summed([(c % 3, x[c]) for c in range(12)], x, slots=3).shape == (3, 1000)
    with OnOneDevice(), pytest.raises(AssertionError, match="copy"):  # the test can fail
        x[0].copy_(here)


def test_worker_without_parts() -> None:
    x, outcomes = addends(torch.float32), {}

    def work(coordinator: Coordinator) -> None:
        parts = [(0, row) for row in x] if coordinator.rank == 1 else []
        outcomes[coordinator.rank] = coordinator.sum(parts, x.new_zeros(1, 1000), terms=12)

    on_threads(2, work)
    assert torch.equal(outcomes[0], outcomes[1]) and torch.equal(outcomes[0], summed([(0, row) for row in x], x))


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e20])
def test_close_to_the_sum_in_float64(scale: float) -> None:
    x = torch.randn(12, 1000, generator=torch.Generator().manual_seed(4)).abs() * scale
    assert torch.equal(summed([(0, row) for row in x], x)[0], x.double().sum(0).float())
    exact = summed([(0, row) for row in x.double()], x.double())[0]
    torch.testing.assert_close(exact, x.double().sum(0), rtol=1e-15, atol=0)


@pytest.mark.parametrize("scale", [1e-280, 1e-60, 1e60, 1e280])
def test_float64_of_any_size(scale: float) -> None:
    x = addends(torch.float64, spread=0.3) * scale
    error = (summed([(0, row) for row in x], x)[0] - x.sum(0)).abs().max()
    assert error <= 1e-15 * x.abs().max()


def test_huge_beside_tiny() -> None:
    x = torch.tensor([[1e30, 1e-30, 3.0], [-1e30, 1e-30, 1e-7]])
    result = summed([(0, row) for row in x], x)[0]
    assert result[0] == 0
    assert (result - x.double().sum(0)).abs().max() <= 12 * 2.0**-60 * 1e30  # of the largest addend, as stated


def test_zeros_and_nothing() -> None:
    zero = torch.zeros(4)
    assert torch.equal(summed([(0, zero), (0, zero)], zero)[0], zero)
    assert torch.equal(summed([], zero)[0], zero)


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan")])
@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_not_finite_makes_its_slot_nan_everywhere(value: float, workers: int) -> None:
    bad, good, outcomes = torch.tensor([1.0, value, 2.0]), torch.tensor([1.0, 2.0, 3.0]), {}

    def work(coordinator: Coordinator) -> None:
        parts = [(0, bad), (1, good)] if coordinator.rank == 0 else [(1, good)]
        outcomes[coordinator.rank] = coordinator.sum(parts, torch.zeros(2, 3), terms=2)

    on_threads(workers, work)
    for result in outcomes.values():
        assert result[0].isnan().all()
        assert torch.equal(result[1], workers * good)


def test_largest_sum_does_not_overflow() -> None:
    for terms in (1, 2, 3, 7, 8, 100):
        x = torch.tensor([3.4e38], dtype=torch.float64)
        assert summed([(0, x)] * terms, x, terms=terms).item() == pytest.approx(3.4e38 * terms, rel=1e-15)


# --- ownership ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("classes", "workers", "sizes"),
    [
        (10, 1, [10]),
        (10, 3, [4, 3, 3]),
        (10, 8, [2, 2, 1, 1, 1, 1, 1, 1]),
        (2, 3, [1, 1, 0]),
        (100, 7, [15, 15] + [14] * 5),
    ],
)
def test_equal_classes(classes: int, workers: int, sizes: list[int]) -> None:
    owned = assign([1.0] * classes, workers)
    assert [len(labels) for labels in owned] == sizes
    assert sorted(itertools.chain(*owned)) == list(range(classes))
    assert all(list(labels) == sorted(labels) for labels in owned)


def test_costs_are_balanced() -> None:
    assert assign([7.0, 1.0, 1.0, 1.0, 4.0, 4.0], 2) == ((0, 1, 2), (3, 4, 5))
    costs = [float(1 + c % 5) for c in range(37)]
    loads = [sum(costs[c] for c in labels) for labels in assign(costs, 4)]
    assert max(loads) - min(loads) <= 1


# --- randomness ---------------------------------------------------------------------------------------------------


def test_a_key_differs_by_each_part() -> None:
    first = randomness.key(0, "purpose", 1, 2, 3)
    others = [(1, "purpose", 1, 2, 3), (0, "purposE", 1, 2, 3), (0, "purpose", 0, 2, 3), (0, "purpose", 1, 0, 3)]
    others += [(0, "purpose", 1, 2, 0), (0, "purpose", 2, 1, 3), (0, "purpose", 1, 2), (0, "purpose", 1, 2, 3, 0)]
    keys = {first, *(randomness.key(*other) for other in others)}
    assert len(keys) == 1 + len(others)
    assert first == randomness.key(0, "purpose", 1, 2, 3)
    assert all(0 <= k < 2**63 for k in keys)


def test_draws_do_not_touch_the_global_generator() -> None:
    state = torch.get_rng_state()
    first = randomness.permutation(50, 3, "purpose", 1)
    torch.manual_seed(99)
    assert torch.equal(first, randomness.permutation(50, 3, "purpose", 1))
    torch.set_rng_state(state)


def test_epochs_cover_the_class_without_repeats() -> None:
    visits = [randomness.epoch_batch(20, 6, visit, 0, "purpose", 5) for visit in range(6)]
    for epoch in (visits[:3], visits[3:]):  # 3 whole batches; 2 images of each pass are dropped
        drawn = torch.cat(epoch).tolist()
        assert len(set(drawn)) == len(drawn) == 18 and set(drawn) <= set(range(20))
    assert not torch.equal(torch.cat(visits[:3]), torch.cat(visits[3:]))
    whole = torch.cat([randomness.epoch_batch(18, 6, visit, 0, "purpose", 5) for visit in range(3)])
    assert sorted(whole.tolist()) == list(range(18))


@pytest.mark.parametrize("choice", DRAWS.values())
def test_too_few_images_are_each_taken_once(choice: DrawChoice) -> None:
    """As in the programs: DC's draw is the head of a permutation, IDC's batch is min(images, batch)."""
    visits = [choice.draw(5, 12, seed=0, label=1, visit=visit).tolist() for visit in range(20)]
    assert all(sorted(batch) == list(range(5)) for batch in visits)
    assert len({tuple(batch) for batch in visits}) > 10  # in different orders


def test_a_draw_without_replacement_repeats_no_image() -> None:
    drawn = randomness.draw_without_replacement(12, 5, 0, "purpose").tolist()
    assert len(set(drawn)) == 5 and set(drawn) <= set(range(12))


# --- groupings ----------------------------------------------------------------------------------------------------


def test_partitions() -> None:
    assert grouping.per_class(3) == ((0,), (1,), (2,))
    assert grouping.pooled(3) == ((0, 1, 2),)
    assert grouping.from_labels([2, 0, 2, 1, 0]) == ((0, 2), (1, 4), (3,))
    assert grouping.canonical([[3, 1], [], [2, 0]]) == ((0, 2), (1, 3))
    drawn = grouping.random_partition(10, 3, seed=0)
    assert sorted(map(len, drawn)) == [3, 3, 4] and sorted(sum(drawn, ())) == list(range(10))
    assert drawn == grouping.random_partition(10, 3, seed=0) != grouping.random_partition(10, 3, seed=1)
    assert grouping.check_partition([[2, 0], [1]], 3) == ((0, 2), (1,))


def test_warm_up_is_per_class() -> None:
    warming = grouping.Grouping(grouping.pooled(4), warmup_networks=2, warmup_steps=3)
    separate = {(k, t) for k in range(4) for t in range(5) if warming.groups(k, t) == grouping.per_class(4)}
    assert separate == {(k, t) for k in range(2) for t in range(3)}
    assert warming.groups(2, 0) == warming.groups(0, 3) == ((0, 1, 2, 3),)


@pytest.mark.parametrize(
    ("groups", "problem"),
    [
        ([[0, 1]], r"missing \[2\]"),
        ([[0, 1], [2, 3]], r"unknown \[3\]"),
        ([[0, 1], [1, 2]], r"repeated \[1\]"),
        ([[0, 0], [7]], r"missing \[1, 2\], unknown \[7\], repeated \[0\]"),
    ],
)
def test_partitions_that_are_none(groups: list[list[int]], problem: str) -> None:
    with pytest.raises(ValueError, match=f"method.grouping.groups must contain each of the 3 classes once: {problem}"):
        grouping.check_partition(groups, 3)


# --- the gradient norm --------------------------------------------------------------------------------------------


def test_the_norm_is_that_of_the_gradient_in_all_learnt_tensors() -> None:
    keyed = torch.Generator().manual_seed(0)
    gradient = {"pixels": torch.randn(3, 2, 5, 4, generator=keyed), "labels": torch.randn(3, 7, generator=keyed)}
    expected = torch.cat([x.flatten() for x in gradient.values()]).double().norm() ** 2
    found = Matched(torch.zeros(()), gradient, {}).squared_norm
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)


# --- the pixel update ---------------------------------------------------------------------------------------------

FINITE = torch.tensor(True)


def update(
    rules: dict[str, ImageRule], learnt: Learnt, momentum: Learnt, *, gradients: Learnt, finite: Tensor
) -> Tensor:
    """Update tensors in place."""
    *new, made = updated(rules, learnt, momentum, gradients=gradients, finite=finite)
    for kept, tensors in zip((learnt, momentum), new, strict=True):
        for name, x in tensors.items():
            kept[name].copy_(x)
    return made


def step(rule: ImageRule, pixels: Tensor, buffer: Tensor, gradient: Tensor, finite: Tensor = FINITE) -> Tensor:
    return update(
        {"pixels": rule}, {"pixels": pixels}, {"pixels": buffer}, gradients={"pixels": gradient}, finite=finite
    )


def test_a_part_that_is_not_finite_leaves_the_whole_class_as_it_is() -> None:
    rules = {"pixels": ImageRule(0.1, 0.5), "labels": ImageRule(0.1, 0.0)}
    learnt, momentum, gradients = ({"pixels": torch.ones(2, 3), "labels": torch.ones(2)} for _ in range(3))
    assert update(rules, learnt, momentum, gradients=gradients, finite=FINITE)
    assert torch.equal(learnt["pixels"], torch.full((2, 3), 0.85)) and torch.equal(
        learnt["labels"], torch.full((2,), 0.9)
    )
    gradients["labels"][1] = torch.nan
    before = {name: x.clone() for name, x in (learnt | {f"of {name}": x for name, x in momentum.items()}).items()}
    assert not update(rules, learnt, momentum, gradients=gradients, finite=FINITE)
    after = learnt | {f"of {name}": x for name, x in momentum.items()}
    assert all(torch.equal(x, before[name]) for name, x in after.items())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_update_that_is_not_finite_changes_nothing(value: float) -> None:
    rule, pixels, buffer = ImageRule(0.1, 0.5), torch.randn(2, 1, 4, 4), torch.randn(2, 1, 4, 4)
    gradient = torch.randn(2, 1, 4, 4)
    gradient[1, 0, 2, 2] = value
    before = pixels.clone(), buffer.clone()
    assert not step(rule, pixels, buffer, gradient)
    assert torch.equal(pixels, before[0]) and torch.equal(buffer, before[1])


def test_a_gradient_of_numbers_that_are_not_finite_changes_nothing() -> None:
    pixels, buffer = torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)
    assert not step(ImageRule(0.1, 0.5), pixels, buffer, torch.ones(1, 1, 2, 2), ~FINITE)
    assert not pixels.any() and not buffer.any()


def test_pixels_that_would_overflow_stay() -> None:
    pixels, buffer = torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)
    assert not step(ImageRule(1e38, 0.5), pixels, buffer, torch.full((1, 1, 2, 2), 10.0))
    assert not pixels.any() and not buffer.any()


def test_image_rule_is_torch_sgd() -> None:
    start, gradients = torch.randn(3, 1, 4, 4), torch.randn(5, 3, 1, 4, 4)
    parameter = start.clone().requires_grad_()
    optimiser = torch.optim.SGD([parameter], 0.3, momentum=0.5)
    pixels, buffer = start.clone(), torch.zeros_like(start)
    for gradient in gradients:
        parameter.grad = gradient
        optimiser.step()
        assert step(ImageRule(0.3, 0.5), pixels, buffer, gradient)
    torch.testing.assert_close(pixels, parameter.detach())


# --- running statistics -------------------------------------------------------------------------------------------

COUNTS = [5, 3, 4]


def batch_norm_network() -> torch.nn.Module:
    network = networks.build("convnet", channels=3, size=16, classes=3, seed=1, width=8, depth=3, norm="batch")
    return network.double().eval()


def class_images() -> dict[int, Tensor]:
    drawn = torch.Generator().manual_seed(2)
    return {c: torch.randn(n, 3, 16, 16, generator=drawn, dtype=torch.float64) for c, n in enumerate(COUNTS)}


@pytest.mark.parametrize("shards", [[[0, 1, 2]], [[0, 2], [1]], [[], [0, 1, 2], []]])
def test_running_statistics_equal_one_forward_in_train_mode(shards: list[list[int]]) -> None:
    images, expected = class_images(), batch_norm_network().train()
    for _ in range(2):  # the second time from averages that have moved
        expected(torch.cat(list(images.values())))
    outcomes = [batch_norm_network() for _ in shards]

    def work(coordinator: Coordinator) -> None:
        own = {c: images[c] for c in shards[coordinator.rank]}
        for _ in range(2):
            refresh_running_statistics(outcomes[coordinator.rank], lambda: own, 3, coordinator)

    on_threads(len(shards), work) if len(shards) > 1 else work(LocalCoordinator())
    reference = dict(expected.named_buffers())
    for network in outcomes:
        for name, buffer in network.named_buffers():
            if "running" in name:
                torch.testing.assert_close(buffer, reference[name], rtol=1e-10, atol=1e-12)
                assert torch.equal(buffer, dict(outcomes[0].named_buffers())[name])


def test_networks_without_batch_norm_load_no_images() -> None:
    network = networks.build("convnet", channels=1, size=8, classes=3, seed=1, width=8, depth=2)
    refresh_running_statistics(network, lambda: pytest.fail("not needed"), 3, LocalCoordinator())


def test_weights_of_another_version_are_refused_by_name() -> None:
    network = networks.build("convnet:width=4:depth=1", channels=1, size=8, classes=2, seed=0)
    renamed = {name.replace("features.0", "conv"): x for name, x in network.state_dict().items()}
    with pytest.raises(RunFailed, match=r"not those of this network .*another version of this package started the run"):
        fill(network, renamed)
