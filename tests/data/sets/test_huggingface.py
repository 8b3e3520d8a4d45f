"""Data set `huggingface`: folders of save_to_disk and of parquet files, their columns and splits, and refusals."""

from __future__ import annotations

import errno
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from dist_condense.data import DataError, Reading, open_dataset

datasets = pytest.importorskip("datasets")
NAMES = ["cat", "dog", "eel"]
FEATURES = {"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the library convert parquet files in a folder of this test, and print no bars."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def png(seed: int, mode: str = "RGB") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, "PNG")
    return stream.getvalue()


def rows(count: int, first: int = 0, **columns: Any) -> Any:
    """Return a split of ``count`` images with the labels 0, 1, 2, 0, ...; ``columns`` are further or other columns."""
    content = {
        "image": [{"bytes": png(first + row), "path": None} for row in range(count)],
        "label": [row % 3 for row in range(count)],
    }
    features = FEATURES | {name: kind for name, (_, kind) in columns.items()}
    content |= {name: values for name, (values, _) in columns.items()}
    return datasets.Dataset.from_dict(content, features=datasets.Features(features))


def saved(folder: Path, **splits: Any) -> Path:
    datasets.DatasetDict(splits).save_to_disk(folder)
    return folder


def test_rows_of_a_class_in_the_order_of_the_table(tmp_path: Path) -> None:
    root = saved(tmp_path / "set", train=rows(30), test=rows(7, first=30))
    opened = open_dataset("huggingface", root, size=9)
    assert [entry.name for entry in opened.classes] == NAMES and opened.counts == (10, 10, 10)
    assert opened.test().labels.tolist() == [0, 0, 0, 1, 1, 2, 2] and opened.channels == 3
    for tier in ("ram", "encoded", "disk"):
        images = opened.train([1], Reading(tier=tier)).get(1, torch.tensor([2, 0]))
        expected = [np.asarray(Image.open(io.BytesIO(png(seed)))) for seed in (7, 1)]
        assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), np.stack(expected))
    assert opened.train_split.encoded_bytes() == [sum(len(png(row)) for row in range(c, 30, 3)) for c in range(3)]
    assert opened.notes == (f"{root}: 30 rows of train, 7 rows of test, columns image and label",)


def test_an_opened_data_set_travels_without_its_images(tmp_path: Path) -> None:
    opened = open_dataset("huggingface", saved(tmp_path / "set", train=rows(30), test=rows(3)), size=9)
    _ = opened.train().get(0, torch.arange(10))
    travelled = pickle.dumps(opened)
    assert len(travelled) < 30 * len(png(0)) / 2
    again = pickle.loads(travelled)
    assert torch.equal(again.train().get(2, torch.arange(10)), opened.train().get(2, torch.arange(10)))
    assert again.train_split.digest() == opened.train_split.digest()


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"),
        ("train/0000.parquet", "validation/0000.parquet"),
        ("plain_text/train.parquet", "plain_text/val.parquet"),
    ],
)
def test_parquet_files_are_the_same_data(tmp_path: Path, train: str, test: str) -> None:
    for name, split in ((train, rows(12)), (test, rows(6, first=12))):
        file = tmp_path / "parquet" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        split.to_parquet(file)
    (tmp_path / "parquet" / "README.md").write_text("---\n")
    tables = open_dataset("huggingface", tmp_path / "parquet", size=9)
    folder = open_dataset("huggingface", saved(tmp_path / "set", train=rows(12), test=rows(6, first=12)), size=9)
    assert tables.train_split.digest() == folder.train_split.digest()
    for one, other in ((tables.train(), folder.train()),):
        assert torch.equal(one.get(2, torch.arange(4)), other.get(2, torch.arange(4)))
    assert torch.equal(tables.test().images, folder.test().images)  # type: ignore[attr-defined]


@pytest.mark.parametrize("shown", [True, False])
def test_no_bar_of_the_library_is_shown_and_its_setting_is_kept(
    tmp_path: Path, shown: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "parquet").mkdir()
    for name in ("train", "test"):
        rows(12).to_parquet(tmp_path / "parquet" / f"{name}.parquet")
    try:
        (datasets.enable_progress_bars if shown else datasets.disable_progress_bars)()
        open_dataset("huggingface", tmp_path / "parquet", size=9)
        assert datasets.are_progress_bars_disabled() is not shown
    finally:
        datasets.disable_progress_bars()
    assert "examples" not in capfd.readouterr().err


def test_validation_comes_before_test_and_others_are_named(tmp_path: Path) -> None:
    root = saved(tmp_path / "set", train=rows(6), test=rows(3), validation=rows(6))
    opened = open_dataset("huggingface", root)
    assert opened.test_split.counts == (2, 2, 2) and opened.notes[0].endswith("; not read: test")


def test_a_single_split_is_for_training(tmp_path: Path) -> None:
    rows(6).save_to_disk(tmp_path / "one")
    assert open_dataset("huggingface", tmp_path / "one", test=False).counts == (2, 2, 2)
    with pytest.raises(DataError, match=r"no split validation or test, only train; without evaluation"):
        open_dataset("huggingface", tmp_path / "one")


def test_classes_columns_and_channels(tmp_path: Path) -> None:
    coarse = ([row % 2 for row in range(12)], datasets.ClassLabel(names=["x", "y"]))
    root = saved(tmp_path / "set", train=rows(12, coarse=coarse), test=rows(12, coarse=coarse))
    with pytest.raises(DataError, match=r"label, coarse the labels; name the two, dataset\.columns"):
        open_dataset("huggingface", root)
    opened = open_dataset("huggingface", root, columns=["image", "coarse"])
    assert [entry.name for entry in opened.classes] == ["x", "y"] and opened.counts == (6, 6)
    assert open_dataset("huggingface", root, columns=["image", "label"], classes=["eel", "cat"]).counts == (4, 4)
    with pytest.raises(DataError, match=r"dataset\.columns is \['image', 'none'\]"):
        open_dataset("huggingface", root, columns=["image", "none"])
    assert open_dataset("huggingface", root, columns=["image", "coarse"], channels=1).channels == 1


def test_grey_images_have_one_channel(tmp_path: Path) -> None:
    grey = ([{"bytes": png(row, "L"), "path": None} for row in range(6)], datasets.Image())
    root = saved(tmp_path / "set", train=rows(6, image=grey), test=rows(6, image=grey))
    assert open_dataset("huggingface", root).channels == 1


@pytest.mark.parametrize(
    ("label", "problem"),
    [
        (([0, 1, None] * 2, datasets.Value("int64")), "2 rows without a label"),
        (([0.5, 1.0, 2.0] * 2, datasets.Value("float32")), "expected integers or texts"),
        (([[0], [1], [2]] * 2, datasets.List(datasets.Value("int64"))), "expected integers or texts"),
        (([-1, 0, 1] * 2, datasets.ClassLabel(names=NAMES)), "labels of 2 images are no class: -1"),
        (([0, 0, 1] * 2, datasets.ClassLabel(names=NAMES)), "train has no images of eel"),
    ],
)
def test_labels_that_are_refused(tmp_path: Path, label: Any, problem: str) -> None:
    root = saved(tmp_path / "set", train=rows(6, label=label), test=rows(6))
    with pytest.raises(DataError, match=problem):
        open_dataset("huggingface", root)


def test_integers_and_texts_are_labels_too(tmp_path: Path) -> None:
    for kind, values, names in (("int64", [5, 3, 4], ["3", "4", "5"]), ("string", ["b", "a", "c"], ["a", "b", "c"])):
        label = (values * 2, datasets.Value(kind))
        root = saved(tmp_path / kind, train=rows(6, label=label), test=rows(6, label=label))
        assert [entry.name for entry in open_dataset("huggingface", root).classes] == names


def test_images_in_other_files_are_named(tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "secret.png")
    table = rows(6).data.table
    images = pa.array(
        [{"bytes": None, "path": str(tmp_path / "secret.png")}] * 6, type=table.schema.field("image").type
    )
    parquet.write_table(table.set_column(0, "image", images), tmp_path / "train.parquet")
    opened = open_dataset("huggingface", tmp_path, test=False)
    with pytest.raises(DataError, match=r"row 0 of train: .* only names its file"):
        opened.train()


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a folder of save_to_disk, and has no files"):
        open_dataset("huggingface", tmp_path)
    (tmp_path / "train.parquet").write_bytes(b"PAR1 and nothing")
    with pytest.raises(DataError, match=r"/train\.parquet: it is no intact parquet file \(.*\); save it again"):
        open_dataset("huggingface", tmp_path)


def test_a_full_disk_or_a_cache_elsewhere_is_no_fault_of_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows(6).to_parquet(tmp_path / "train.parquet")
    for error in (OSError(errno.ENOSPC, "No space left on device"), FileNotFoundError(2, "none", "/nowhere/cache")):

        def fail(*given: Any, error: OSError = error) -> None:
            raise error

        monkeypatch.setattr(datasets.Dataset, "from_parquet", fail)
        with pytest.raises(DataError, match="make room in HF_DATASETS_CACHE, or set another"):
            open_dataset("huggingface", tmp_path)


def test_a_link_to_nothing_beside_the_tables_is_ignored(tmp_path: Path) -> None:
    root = saved(tmp_path / "saved", train=rows(6), test=rows(6))
    (root / "notes").symlink_to("/nowhere")
    assert open_dataset("huggingface", root).counts == (2, 2, 2)


def test_each_split_has_the_columns(tmp_path: Path) -> None:
    root = saved(tmp_path / "lacking", train=rows(6), test=rows(6).remove_columns("label"))
    with pytest.raises(DataError, match="test has no column label, only image"):
        open_dataset("huggingface", root)
    root = saved(tmp_path / "other", train=rows(6), test=rows(6).remove_columns("image").add_column("image", [0] * 6))
    with pytest.raises(DataError, match="column image of test is int64, expected images"):
        open_dataset("huggingface", root)


def test_a_row_without_an_image_is_named(tmp_path: Path) -> None:
    train = rows(6).add_item({"image": None, "label": 0})
    with pytest.raises(DataError, match=r"row 6 of train: the image cannot be read \(the row has no image\)"):
        open_dataset("huggingface", saved(tmp_path, train=train), test=False).train()


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(DataError, match=r"needs the package datasets: `pip install -c constraints.txt '.\[hf\]'`"):
        open_dataset("huggingface", tmp_path)
