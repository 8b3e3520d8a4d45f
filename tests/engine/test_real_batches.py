"""Global batches of real images do not depend on announcements or on the ownership of classes."""

import threading
import time
from collections.abc import Sequence
from itertools import chain, groupby

import pytest
import torch
from torch.utils import _pytree as pytree

from dist_condense.core.cutmix import CutMix, CutMixes
from dist_condense.data import MemorySource
from dist_condense.data.normalise import ChannelStatistics
from dist_condense.engine import ahead
from dist_condense.engine import batches as engine_batches
from dist_condense.engine.batches import Normalise, RealBatches
from dist_condense.engine.coordinator import Coordinator, LocalCoordinator, Placement
from dist_condense.engine.update import Batch, BlockDraws, prepare
from tests.engine.test_units import on_threads

COUNTS = [5, 9, 7]
K, T = 3, 3


def batches(labels: range = range(3), device: str = "cpu") -> RealBatches:
    images = {c: torch.full((COUNTS[c], 1, 2, 2), 10 * c, dtype=torch.uint8) for c in labels}
    for c, x in images.items():
        x += torch.arange(COUNTS[c], dtype=torch.uint8)[:, None, None, None]
    one, place = ((0.0,), (1.0,)), Placement(torch.device(device))
    return RealBatches(
        seed=3,
        counts=COUNTS,
        source=MemorySource(images),
        labels=labels,
        normalised=Normalise.of(ChannelStatistics(*one), place),
        coordinator=LocalCoordinator(),
        placement=place,
        shape=(1, 2, 2),
        batch=4,
        amount=10,
        matching_steps=T,
    )


def draws(u: int, counts: Sequence[int], size: tuple[int, int]) -> BlockDraws:
    """Return draws that tell the number of each update and of its images."""
    assert size == (2, 2)
    empty = torch.zeros(2, 2, dtype=torch.int64)
    each = [CutMix(torch.arange(n), empty, torch.tensor(float(i))) for i, n in enumerate(counts, u)]
    return BlockDraws(mixes=CutMixes.of(each))


def shown(walk: list[Batch]) -> list[list[int]]:
    """Return the images of each batch: 10 c + i for image i of class c."""
    return [(prepare(batch).images[:, 0, 0, 0] * 255).round().long().tolist() for batch in walk]


def same(first: list[Batch], second: list[Batch]) -> bool:
    flat = ([(b.images, b.labels, *pytree.tree_leaves(b.draws.mix)) for b in walk] for walk in (first, second))
    pairs = zip(*flat, strict=True)
    return all(torch.equal(a, b) for one, other in pairs for a, b in zip(one, other, strict=True))


def test_a_segment_is_the_same_announced_or_not():
    plain = list(batches().segment(2, 1, draws=draws))
    announced = batches()
    announced.announce(2, 1, draws)
    assert same(list(announced.segment(2, 1, draws=draws)), plain)
    assert [len(b.labels) for b in plain] == [4, 4, 1]  # three batches for 10 images; this one ends a pass


def test_segments_walk_through_shuffled_passes():
    """21 images in batches of 4: the sixth of a pass contains one image; a segment has three batches."""
    real, every = batches(), [10 * c + i for c in range(3) for i in range(COUNTS[c])]
    walk = [batch for k in range(K) for t in range(T) for batch in shown(list(real.segment(k, t, draws=draws)))]
    passes = []
    while walk:
        one, walk = walk[:6], walk[6:]
        if len(one) == 6:
            assert [len(batch) for batch in one] == [4, 4, 4, 4, 4, 1]
            assert sorted(chain(*one)) == every
        passes.append(one)
    assert len(passes) == 5 and len(passes[-1]) == 3  # 27 batches
    assert len({tuple(map(tuple, one)) for one in passes}) == 5  # each is shuffled anew


@pytest.mark.parametrize(("k", "t"), [(0, 0), (0, 1), (1, 2), (2, 2)])
def test_a_segment_needs_none_before_it(k, t):
    real = batches()
    walk = {(i, j): list(real.segment(i, j, draws=draws)) for i in range(K) for j in range(T)}
    assert same(list(batches().segment(k, t, draws=draws)), walk[k, t])
    for first in range(4):  # as after a checkpoint within the segment
        assert same(list(batches().segment(k, t, first=first, draws=draws)), walk[k, t][first:])


def test_fewer_images_than_a_batch_make_a_batch_of_all():
    real = batches()
    real.batch, real.amount = 50, 101
    assert [sorted(batch) for batch in shown(list(real.segment(1, 1, draws=draws)))] == [
        [*range(5), *range(10, 19), *range(20, 27)]
    ] * 3


@pytest.mark.parametrize("block", [1, 2, 4])
def test_batches_do_not_depend_on_the_blocks_in_which_they_are_gathered(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the draws of their own updates, also after a checkpoint within a segment."""
    expected = [list(batches().passes(2, 0, first=first, draws=draws)) for first in (0, 3)]
    assert [float(b.draws.mix.weight) for b in expected[1]] == list(range(3, 12))
    monkeypatch.setattr(engine_batches, "BLOCK", block)
    for first, walk in zip((0, 3), expected, strict=True):
        assert same(list(batches().passes(2, 0, first=first, draws=draws)), walk)


def test_another_segment_than_the_announced_one_is_not_mixed_up():
    announced = batches()
    announced.announce(0, 0, draws)
    assert same(list(announced.segment(2, 1, draws=draws)), list(batches().segment(2, 1, draws=draws)))
    assert not same(list(announced.segment(0, 0, draws=draws)), list(batches().segment(2, 1, draws=draws)))


class Line(LocalCoordinator):
    """Coordinator that records which thread calls it."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: list[threading.Thread] = []

    def reduce(self, tensor: torch.Tensor, operation: object) -> None:
        time.sleep(0.02)  # so that two threads would speak in turns
        self.threads.append(threading.current_thread())


@pytest.mark.parametrize(
    "following", [lambda real: real.segment(2, 1, draws=draws), lambda real: real.passes(1, 0, draws=draws)]
)
def test_one_thread_at_a_time_speaks_on_the_line(following, monkeypatch):
    monkeypatch.setattr(engine_batches, "BLOCK", 2)
    announced = batches()
    announced.coordinator = line = Line()
    announced.announce(0, 0, draws)
    assert same(list(following(announced)), list(following(batches())))
    calls = [len(list(threads)) for _, threads in groupby(line.threads)]
    assert calls == [2, len(line.threads) - 2]  # the announced segment first


def test_a_pass_has_every_image_once_with_its_label():
    walk = list(batches().passes(1, 0, draws=draws))
    assert sorted(chain(*shown(walk))) == [10 * c + i for c in range(3) for i in range(COUNTS[c])]
    assert [x // 10 for x in chain(*shown(walk))] == torch.cat([b.labels for b in walk]).tolist()


class Together(MemorySource):
    """Source that must be asked for several classes at once."""

    def get_many(self, requests: list[tuple[int, torch.Tensor]]) -> list[torch.Tensor]:
        return [super(Together, self).get(*one) for one in requests]

    def get(self, label: int, indices: torch.Tensor) -> torch.Tensor:
        raise AssertionError("class after class")


def test_a_batch_is_asked_for_at_once():
    together = batches()
    together.source = Together(together.source.images)
    assert same(list(together.segment(2, 1, draws=draws)), list(batches().segment(2, 1, draws=draws)))


def test_an_error_of_reading_reaches_training():
    broken = batches(range(3))
    broken.source = MemorySource({0: torch.zeros(5, 1, 2, 2, dtype=torch.uint8)})
    with pytest.raises(KeyError, match="was not opened"):
        list(broken.segment(0, 0, draws=draws))


@pytest.mark.parametrize("owners", [[range(1), range(1, 3)], [range(0), range(3)]])
def test_batches_do_not_depend_on_the_owners(owners: list[range]) -> None:
    expected = list(batches().segment(2, 1, draws=draws))

    def work(coordinator: Coordinator) -> None:
        own = batches(owners[coordinator.rank])
        own.coordinator = coordinator
        assert same(list(own.segment(2, 1, draws=draws)), expected)

    on_threads(len(owners), work)


def test_a_single_worker_leaves_images_on_the_device() -> None:
    """Values of tensors on the device ``meta`` cannot be copied to the host."""
    own = batches(device="meta")
    own.source = MemorySource({c: x.to("meta") for c, x in own.source.images.items()})
    assert [prepare(batch).images.shape for batch in own.segment(2, 1, draws=draws)] == [
        (n, 1, 2, 2) for n in (4, 4, 1)
    ]


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "ahead"]


def test_closing_ends_what_was_announced_and_what_is_not_exhausted() -> None:
    own = batches()
    own.batch, own.amount, own.matching_steps = 1, 10**9, 1
    own.announce(0, 0, draws)
    [announced] = readers()
    own.close()
    assert not announced.is_alive()
    walk = own.passes(10**9, 0, draws=draws)
    next(walk)
    [reader] = readers()
    walk.close()
    assert not reader.is_alive()


def test_workers_that_stop_together_leave_no_collective_to_one_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """One worker closes before the first collective, the other when its thread has read as far as it may."""
    monkeypatch.setattr(engine_batches, "AHEAD_BYTES", 0)
    waiting, closed = threading.Event(), threading.Event()

    def work(coordinator: Coordinator) -> None:
        own = batches(range(3) if coordinator.rank else range(0))
        own.coordinator, own.amount = coordinator, 10**6
        if coordinator.rank:
            waiting.wait(20)
        own.announce(2, 1, draws)
        if coordinator.rank:
            closed.wait(20)
        waiting.set()
        own.close()
        closed.set()

    on_threads(2, work)
    assert not readers()


class Lost(LocalCoordinator):
    """Coordinator of two workers, of which the other one has failed."""

    size = 2

    def __init__(self) -> None:
        super().__init__()
        self.end = threading.Event()

    def reduce(self, tensor: torch.Tensor, operation: object) -> None:
        self.end.wait(5)


def test_closing_does_not_wait_for_a_lost_worker_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "GRACE", 0.05)
    own = batches()
    own.coordinator = lost = Lost()
    own.amount = 1
    own.announce(0, 0, draws)
    [reader] = readers()
    own.close()
    assert reader.is_alive()
    lost.end.set()
    reader.join()
