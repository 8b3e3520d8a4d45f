"""Batches of synthetic images are drawn as they are needed, however many passes there are."""

from itertools import islice
from types import SimpleNamespace

import torch

from dist_condense.engine.batches import SyntheticBatches
from dist_condense.engine.coordinator import LocalCoordinator, Placement
from dist_condense.engine.update import UpdateDraws


def batches(epochs: int, first: int, number: int) -> list[torch.Tensor]:
    images = {c: torch.arange(3.0).view(3, 1, 1, 1) + 10 * c for c in range(2)}
    shard = SimpleNamespace(labels=[0, 1], training_images=images.__getitem__)
    source = SyntheticBatches(
        seed=1,
        classes=2,
        per_class=3,
        shard=shard,
        coordinator=LocalCoordinator(),
        placement=Placement(torch.device("cpu")),
        shape=(1, 1, 1),
        batch=4,
        epochs=epochs,
    )
    segment = source.segment(0, 0, first, draws=lambda u, shape: UpdateDraws())
    return [batch.images.flatten() for batch in islice(segment, number)]


def test_the_first_of_very_many_passes_need_no_memory_for_the_others() -> None:
    few, many = batches(3, 0, 6), batches(10**9, 0, 6)
    assert [len(x) for x in few] == [4, 2, 4, 2, 4, 2]
    assert all(torch.equal(a, b) for a, b in zip(few, many, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(few[3:], batches(10**9, 3, 3), strict=True))
