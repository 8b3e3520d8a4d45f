"""A worker stores only the images of its own classes, for every kind of source."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest
import torch

from dist_condense.data import ImageSet
from dist_condense.engine.coordinator import LocalCoordinator, Placement
from dist_condense.job import worker
from dist_condense.settings import assembly
from dist_condense.settings.config import RunConfig
from tests.data.shards.shard_cases import prepared, write_folder
from tests.engine import cases

TIERS = ("ram", "encoded", "disk")


class SecondOfTwo(LocalCoordinator):
    """Coordinator of the second of two workers, without communication."""

    rank, size = 1, 2


@pytest.mark.parametrize("case", ["dc", "idc"])
def test_of_an_array_a_worker_keeps_its_classes(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole: list[weakref.ref[torch.Tensor]] = []
    dataset_of = assembly.dataset_of

    def noted(config: RunConfig) -> ImageSet:
        dataset = dataset_of(config)
        whole.extend(weakref.ref(split.images.images) for split in (dataset.train_split, dataset.test_split))
        return dataset

    monkeypatch.setattr(assembly, "dataset_of", noted)
    journal = worker.assemble(cases.load(case, f"output={tmp_path}", "data.tier=ram"), SecondOfTwo(), Placement())
    gc.collect()
    assert [kept() for kept in whole] == [None, None]
    images = journal.procedure.shard.source.source.source.images
    assert sorted(images) == sorted(journal.procedure.shard.labels) and len(images) == 5
    assert all(pixels.untyped_storage().nbytes() == pixels.nbytes for pixels in images.values())


@pytest.mark.parametrize("tier", TIERS)
def test_of_shards_a_worker_opens_its_classes(tier: str, tmp_path: Path) -> None:
    root = tmp_path / "shards"
    prepared(write_folder(tmp_path / "images"), root, size=16)
    images = ("dataset.name=image_folder", f"dataset.root={root}", f"data.tier={tier}")
    shard = worker.assemble(cases.load("dc", f"output={tmp_path}", *images), SecondOfTwo(), Placement()).procedure.shard
    source = shard.source.source.source
    assert list(source.labels if tier == "ram" else source.store.labels) == list(shard.labels) != [0, 1, 2]
    other = next(label for label in range(3) if label not in shard.labels)
    with pytest.raises(KeyError):
        source.get(other, torch.tensor([0]))
