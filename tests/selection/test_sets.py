"""Sets that are selected where they are needed, one after the other."""

from __future__ import annotations

import pytest
import torch

from dist_condense.data.reading.source import MemorySource
from dist_condense.evaluation.evaluate import TrainingSet
from dist_condense.selection.sets import real_sets
from dist_condense.selection.table import SELECTIONS

RANDOM = SELECTIONS["random"]


@pytest.fixture
def source() -> MemorySource:
    """Return two classes of eight different images."""
    images = torch.arange(16, dtype=torch.uint8).view(16, 1, 1, 1).expand(16, 1, 2, 2).clone()
    return MemorySource({0: images[:8], 1: images[8:]})


def test_draws_stand_one_after_the_other_and_an_evaluation_takes_each(source: MemorySource) -> None:
    both = real_sets(RANDOM, source, [8, 8], numbers=[3, 3], seed=5, draws=2)
    assert both.labels.tolist() == [0, 0, 0, 1, 1, 1] * 2
    first, second = both.images.split(6)
    assert torch.equal(first, real_sets(RANDOM, source, [8, 8], numbers=[3, 3], seed=5).images)
    assert not torch.equal(first, second)
    assert len(first.unique(dim=0)) == 6
    assert torch.equal(TrainingSet(both.images, both.labels, draws=2).draw(3).images, second)


def test_a_class_with_too_few_images_is_refused(source: MemorySource) -> None:
    with pytest.raises(ValueError, match=r"classes \[1\] have fewer images than are to be selected; lower ipc"):
        real_sets(RANDOM, source, [8, 2], numbers=[3, 3], seed=5)
