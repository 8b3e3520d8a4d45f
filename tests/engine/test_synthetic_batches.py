"""Batches of synthetic images are drawn as they are needed, and do not depend on the owners of the classes."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import islice
from types import SimpleNamespace

import pytest
import torch

from dist_condense.core.cutmix import CutMix, CutMixes
from dist_condense.engine.batches import rows_by_label
from dist_condense.engine.coordinator import Coordinator, LocalCoordinator, Placement
from dist_condense.engine.synthetic_batches import SyntheticBatches
from dist_condense.engine.update import Batch, BlockDraws
from tests.engine.test_units import on_threads

CLASSES, IMAGES = 3, 4
UNEVEN = (2, 1, 5)
"""Different numbers of images of the classes."""


def batches(
    coordinator: Coordinator,
    owned: Sequence[int],
    *,
    epochs: int = 2,
    soft: bool = False,
    sizes: Sequence[int] = (IMAGES,) * CLASSES,
) -> SyntheticBatches:
    """Return batches of images whose value is 10 c + i for image i of class c."""
    images = {c: torch.arange(float(sizes[c])).view(-1, 1, 1, 1) + 10 * c for c in owned}
    labels = {c: (x.flatten(1) + 100).expand(-1, len(sizes)) for c, x in images.items()}
    return SyntheticBatches(
        seed=1,
        numbers=sizes,
        shard=SimpleNamespace(
            labels=list(owned), training_images=images.__getitem__, training_labels=labels.__getitem__
        ),
        coordinator=coordinator,
        placement=Placement(torch.device("cpu")),
        shape=(1, 1, 1),
        batch=5,
        epochs=epochs,
        soft=soft,
    )


def given(source: SyntheticBatches, first: int = 0, number: int = 100) -> list[Batch]:
    return list(islice(source.segment(0, 0, first, draws=draws), number))


def draws(u: int, counts: Sequence[int], size: tuple[int, int]) -> BlockDraws:
    """Return draws that tell the number of the update and of its images."""
    [n] = counts
    return BlockDraws(mixes=CutMixes.of([CutMix(torch.arange(n), torch.zeros(2, 2).long(), torch.tensor(float(u)))]))


def numbers(walk: list[Batch]) -> list[list[float]]:
    return [batch.images.flatten().tolist() for batch in walk]


def alone(**how: int) -> SyntheticBatches:
    return batches(LocalCoordinator(), range(CLASSES), **how)


def test_a_pass_shows_each_image_once_with_its_label() -> None:
    walk = given(alone())
    assert [len(batch.labels) for batch in walk] == [5, 5, 2] * 2
    for some in (walk[:3], walk[3:]):
        assert sorted(x for one in numbers(some) for x in one) == [10 * c + i for c in range(CLASSES) for i in range(4)]
    assert all(int(x) // 10 == c for batch in walk for x, c in zip(batch.images, batch.labels.tolist(), strict=True))


def test_the_first_of_very_many_passes_need_no_memory_for_the_others() -> None:
    few, many = given(alone(epochs=3), 0, 6), given(alone(epochs=10**9), 0, 6)
    assert numbers(few) == numbers(many)
    rest = given(alone(epochs=10**9), 3, 3)
    assert numbers(few[3:]) == numbers(rest)
    assert [float(batch.draws.mix.weight) for batch in rest] == [3, 4, 5]
    assert [len(batch.draws.mix.partner) for batch in rest] == [5, 5, 2]


def test_a_pass_shows_each_image_once_where_classes_have_different_numbers() -> None:
    walk = given(batches(LocalCoordinator(), range(CLASSES), epochs=1, sizes=UNEVEN))
    assert [len(batch.labels) for batch in walk] == [5, 3]
    found = sorted((c, int(x)) for batch in walk for x, c in zip(batch.images, batch.labels.tolist(), strict=True))
    assert found == [(c, 10 * c + i) for c, size in enumerate(UNEVEN) for i in range(size)]


@pytest.mark.parametrize("sizes", [(IMAGES,) * CLASSES, UNEVEN])
@pytest.mark.parametrize("owners", [[(1,), (0, 2)], [(), (0, 1, 2)], [(2,), (0,), (1,)]])
def test_batches_do_not_depend_on_the_owners(owners: list[tuple[int, ...]], sizes: tuple[int, ...]) -> None:
    every = LocalCoordinator(), range(CLASSES)
    expected, soft = given(batches(*every, sizes=sizes)), given(batches(*every, soft=True, sizes=sizes))
    assert not soft[0].labels.eq(0).any()

    def work(coordinator: Coordinator) -> None:
        own = coordinator, owners[coordinator.rank]
        for is_soft, like in ((False, expected), (True, soft)):
            walk = given(batches(*own, soft=is_soft, sizes=sizes))
            for one, other in zip(walk, like, strict=True):
                assert torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)

    on_threads(len(owners), work)


def test_closing_ends_the_thread_and_releases_the_shard() -> None:
    walk = alone(epochs=10**9).segment(0, 0, draws=draws)
    next(walk)
    [reader] = [thread for thread in threading.enumerate() if thread.name == "ahead"]
    walk.close()
    assert not reader.is_alive()


def test_rows_of_each_label() -> None:
    rows = rows_by_label(torch.tensor([7, 2, 7, 0, 2, 2]))
    assert {c: at.tolist() for c, at in rows.items()} == {0: [3], 2: [1, 4, 5], 7: [0, 2]} and list(rows) == [0, 2, 7]
    assert rows_by_label(torch.zeros(0, dtype=torch.int64)) == {}
