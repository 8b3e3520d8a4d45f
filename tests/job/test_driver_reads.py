"""The driver opens only the shards that it reads: they are hashed, or fetched, when an image is read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dist_condense.data.shards import shards, writer
from dist_condense.job.comparing import TRAINING_SETS
from dist_condense.job.job import Job
from dist_condense.settings.config import load
from dist_condense.system.files import sha256_of
from tests.data.shards.shard_cases import prepared, write_folder


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Prepare three classes of four images, one shard each."""
    monkeypatch.setattr(writer.ClassShardWriter.__init__, "__defaults__", (1,))
    prepared(write_folder(tmp_path / "images"), tmp_path / "shards", size=16)
    return tmp_path / "shards"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list of shards in the order in which they are hashed."""
    names: list[str] = []
    monkeypatch.setattr(
        shards, "sha256_of", lambda path: names.append(f"{path.parent.name}/{path.name}") or sha256_of(path)
    )
    return names


def job(root: Path, *more: str) -> Job:
    images = ("dataset.name=image_folder", f"dataset.root={root}", "dataset.size=16", "data.tier=disk")
    own = (
        "dataset.constants=imagenet",
        "cluster.workers=0",
        f"output={root.parent / 'run'}",
        "method.real_batch=2",
        "evaluation.seeds=2",
    )
    return Job.prepare(load("configs/digits.yaml", [*images, *own, *more]))


def test_nothing_is_opened_to_prepare_a_run(root: Path, opened: list[str]) -> None:
    job(root)
    assert opened == []


def test_a_random_set_opens_the_shards_of_its_images(root: Path, opened: list[str]) -> None:
    drawn = TRAINING_SETS["random"](job(root, "evaluation.seeds=1").comparison)
    assert [name[:10] for name in opened] == ["train/0000", "train/0001", "train/0002"]  # one of four of each class
    assert len(drawn.images) == 3


def test_the_whole_set_opens_every_training_shard_once(root: Path, opened: list[str]) -> None:
    run = job(root)
    whole = TRAINING_SETS["full"](run.comparison)
    assert sorted(opened) == sorted(f"train/{path.name}" for path in (root / "train").iterdir())
    memory = run.dataset.train()
    assert torch.equal(whole.images, torch.cat([memory.images[label] for label in range(3)]))


def test_a_random_set_is_that_of_the_images_in_memory(root: Path) -> None:
    run = job(root)
    lazy = TRAINING_SETS["random"](run.comparison).images
    run.comparison.__dict__["real"] = run.dataset.train()
    assert torch.equal(lazy, TRAINING_SETS["random"](run.comparison).images)


def test_where_images_come_from_is_told_whatever_the_source(root: Path) -> None:
    run = job(root)
    assert run.images.startswith("tier disk: a node's share is")
    by_ffcv = replace(run, config=replace(run.config, data=replace(run.config.data, tier="ffcv")))
    assert by_ffcv.images.startswith(f"by FFCV: under 1 MiB raw at {root}")
