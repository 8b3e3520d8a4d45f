"""The set is equal, bit for bit, for every source of its images: memory, shards in every tier, a beton."""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from fsspec.registry import _registry
from torch import Tensor

from dist_condense.commands import cli
from dist_condense.data import Reading, open_dataset
from dist_condense.data.ffcv.extra import load_ffcv
from dist_condense.engine.coordinator import ProcessGroupCoordinator
from dist_condense.system.errors import DataError
from tests.conftest import absent
from tests.data.shards.test_shards import Bucket
from tests.engine import cases

CLASSES = 4
SIZE = 32
SMALL = [f"dataset.size={SIZE}", "network.width=4", "method.real_batch=8", "ipc=1", "trajectory.matching_steps=2"]
HOW = {
    "shards in ram": ["data.tier=ram"],
    "shards encoded in ram": ["data.tier=encoded"],
    "shards on disk": ["data.tier=disk", "data.threads=2"],
    "beton": ["data.tier=ffcv"],
}


def prepared(source: Path, dest: Path, *options: str) -> Path:
    """Prepare a few classes of real photographs as class shards."""
    assert cli.main(["prepare", str(source), str(dest), "--classes", ",".join(first_classes(source)), *options]) == 0
    return dest


def first_classes(folder: Path) -> list[str]:
    return sorted(entry.name for entry in (folder / "train").iterdir())[:CLASSES]


def on(root: Path, *more: str) -> list[str]:
    """Return the keys of a small run on the images at a root."""
    return ["dataset.name=imagenet", f"dataset.root={root}", *SMALL, *more]


@pytest.fixture(scope="module")
def folder(real_data: Path) -> Path:
    return real_data / "miniimagenet84"


@pytest.fixture(scope="module")
def kept(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepare shards of the unchanged files."""
    return prepared(folder, tmp_path_factory.mktemp("kept") / "shards")


@pytest.fixture(scope="module")
def resized(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepare shards of resized images, and a beton where FFCV is installed."""
    try:
        load_ffcv()
    except DataError as error:
        absent(str(error))
    return prepared(folder, tmp_path_factory.mktemp("resized") / "shards", "--size", str(SIZE), "--ffcv")


@pytest.fixture
def in_memory(folder: Path) -> list[str]:
    """Return the keys of a small run on the original files, decoded into memory."""
    return on(folder, "data.tier=ram", f"dataset.classes=[{','.join(first_classes(folder))}]")


@pytest.mark.parametrize("case", ["dc", "idc"])
def test_shards_of_kept_files_equal_the_folder(case: str, in_memory: list[str], kept: Path, tmp_path: Path) -> None:
    from_folder = cases.alone(case, tmp_path / "folder", *in_memory)
    for tier in ("encoded", "disk"):
        assert torch.equal(cases.alone(case, tmp_path / tier, *on(kept, f"data.tier={tier}")), from_folder)
    assert from_folder.isfinite().all()


def test_shards_in_a_remote_store_equal_the_folder(
    in_memory: list[str], kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_registry, "s3", Bucket)
    monkeypatch.setattr(Bucket, "folder", kept)
    store = on(Path(), "dataset.root=s3://bucket", "data.tier=disk", f"data.cache={tmp_path / 'cache'}")
    from_store = cases.alone("dc", tmp_path / "store", *store)
    assert len(list((tmp_path / "cache").glob("*.tar"))) == CLASSES
    assert torch.equal(from_store, cases.alone("dc", tmp_path / "folder", *in_memory))


def tables(folder: Path, dest: Path) -> dict[str, list[str]]:
    """Write the first classes to an .npz file and to a folder of save_to_disk; return the keys of runs on them.

    Classes are mixed, and the images of each keep their order.
    """
    names = first_classes(folder)
    opened = open_dataset("imagenet", folder, size=SIZE, classes=names)
    source, dest = opened.train(), dest.absolute()
    store = opened.train_split.open_store(range(CLASSES), Reading())  # type: ignore[attr-defined]
    order = sorted((index, label) for label, count in enumerate(opened.counts) for index in range(count))
    images = torch.cat([source.get(label, torch.tensor([index])) for index, label in order])
    dest.mkdir()
    labels = [label for _, label in order]
    np.savez(dest / "all.npz", train_images=images, train_labels=labels, classes=np.array(names))
    rows = {"image": [{"bytes": store.read(label, index)} for index, label in order], "label": labels}
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=names))
    datasets.disable_progress_bars()
    datasets.DatasetDict(train=datasets.Dataset.from_dict(rows, features=features)).save_to_disk(dest / "set")
    return {
        "arrays": ["dataset.name=arrays", f"dataset.root={dest / 'all.npz'}", "data.tier=ram"],
        "huggingface": ["dataset.name=huggingface", f"dataset.root={dest / 'set'}", "data.tier=encoded"],
        "huggingface on disk": ["dataset.name=huggingface", f"dataset.root={dest / 'set'}", "data.tier=disk"],
    }


@pytest.mark.parametrize("case", ["dc", "idc"])
def test_tables_equal_the_folder(case: str, folder: Path, in_memory: list[str], tmp_path: Path) -> None:
    from_folder = cases.alone(case, tmp_path / "folder", *in_memory)
    for name, how in tables(folder, tmp_path / "tables").items():
        own = ["evaluation.epochs=0", "dataset.constants=imagenet", *how]
        assert torch.equal(cases.alone(case, tmp_path / name.replace(" ", "_"), *SMALL, *own), from_folder), name


@pytest.mark.parametrize("case", ["dc", "batch_norm", "idc", "representative"])
def test_every_way_to_read_gives_the_same_set(case: str, resized: Path, tmp_path: Path) -> None:
    result: dict[str, Tensor] = {
        name: cases.alone(case, tmp_path / name.replace(" ", "_"), *on(resized, *how)) for name, how in HOW.items()
    }
    first = result["shards in ram"]
    assert [name for name, pixels in result.items() if not torch.equal(pixels, first)] == []


def test_held_out_images_are_no_training_images_anywhere(folder: Path, tmp_path: Path) -> None:
    """A flat folder equals the folder of its division, and its shards, in one process and in two."""
    names, given = first_classes(folder), tmp_path / "divided"
    held = ["dataset.test_fraction=0.2", f"dataset.classes=[{','.join(names)}]"]
    opened = open_dataset("imagenet", folder / "train", classes=names, test_fraction=0.2)
    for name, split in {"train": opened.train_split, "val": opened.test_split}.items():
        for entry in split.unread:
            for file in entry.files:
                link = given / name / entry.folder.name / file
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(entry.folder / file)
    from_divided = cases.alone("idc", tmp_path / "alone", *on(given))
    assert torch.equal(cases.alone("idc", tmp_path / "flat", *on(folder / "train", *held)), from_divided)
    options = ["--classes", ",".join(names), "--test-fraction", "0.2"]
    assert cli.main(["prepare", f"imagenet:{folder / 'train'}", str(tmp_path / "shards"), *options]) == 0
    jobs: cases.Jobs = {
        "flat": ("idc", ProcessGroupCoordinator, *on(folder / "train", *held, "data.tier=disk")),
        "shards": ("idc", ProcessGroupCoordinator, *on(tmp_path / "shards")),
    }
    for name, result in cases.together(2, jobs, tmp_path).items():
        assert isinstance(result, Tensor), result
        assert torch.equal(result, from_divided), name


def test_other_images_give_another_set(in_memory: list[str], resized: Path, tmp_path: Path) -> None:
    """Resized JPEGs are not the originals: the equalities above can fail."""
    before = cases.alone("dc", tmp_path / "folder", *in_memory)
    after = cases.alone("dc", tmp_path / "resized", *on(resized, "data.tier=ram"))
    assert not torch.equal(before, after)


def test_two_workers_stream_their_own_classes(resized: Path, tmp_path: Path) -> None:
    single = cases.alone("idc", tmp_path / "single", *on(resized, "data.tier=ram"))
    hows = {"tier": "data.tier=disk", "ffcv": "data.tier=ffcv"}
    jobs: cases.Jobs = {name: ("idc", ProcessGroupCoordinator, *on(resized, how)) for name, how in hows.items()}
    for name, result in cases.together(2, jobs, tmp_path).items():
        assert isinstance(result, Tensor), result
        assert torch.equal(result, single), name
