"""Data set `arrays`: layouts, labels and names of an .npz file, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dist_condense.data import DataError, ImageSet, Reading, open_dataset

RANDOM = np.random.default_rng(0)
X = RANDOM.integers(0, 256, (30, 6, 6, 3), dtype=np.uint8)
Y = np.arange(30) % 3


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "made.npz"


def saved(file: Path, x: Any = X, y: Any = Y, **more: Any) -> Path:
    """Write arrays with MedMNIST's names; the first ten images are those of the test."""
    tests = {"test_images": np.asarray(x)[:10], "test_labels": np.asarray(y)[:10]}
    np.savez(file, **{"train_images": x, "train_labels": y, **tests, **more})
    return file


def images_of(opened: ImageSet, label: int) -> Tensor:
    return opened.train([label]).get(label, torch.arange(opened.counts[label]))


def test_images_of_a_class_in_the_order_of_the_array(file: Path) -> None:
    opened = open_dataset("arrays", saved(file))
    assert opened.counts == (10, 10, 10) and opened.shape == (3, 6, 6) and opened.test_split.counts == (4, 3, 3)
    expected = torch.from_numpy(X[Y == 1]).permute(0, 3, 1, 2)
    assert torch.equal(images_of(opened, 1), expected)
    on_demand = opened.train_split.on_demand(Reading())
    assert torch.equal(on_demand.get(1, torch.tensor([3, 0])), expected[[3, 0]])
    assert opened.test().labels.tolist() == sorted(Y[:10].tolist())


@pytest.mark.parametrize(
    ("x", "shape"),
    [
        (X, (3, 6, 6)),
        (X.transpose(0, 3, 1, 2).copy(), (3, 6, 6)),
        (X[..., 0].copy(), (1, 6, 6)),
        (X[..., :1].copy(), (1, 6, 6)),
        (X[:, :4].copy(), (3, 4, 6)),
        (X.astype(np.float32), (3, 6, 6)),
        (X.astype(np.float64), (3, 6, 6)),
        (X.astype(">f4"), (3, 6, 6)),
    ],
)
def test_layouts_and_types(file: Path, x: np.ndarray, shape: tuple[int, int, int]) -> None:
    opened = open_dataset("arrays", saved(file, x))
    assert opened.shape == shape and opened.stored == (torch.uint8 if x.dtype == np.uint8 else torch.float32)
    images = images_of(opened, 2)
    assert images.shape == (10, *shape) and images.dtype == opened.stored
    assert images.double().sum() == x[Y == 2].astype(np.float64).sum()


def test_keras_names_column_labels_and_compression(file: Path) -> None:
    np.savez_compressed(file, x_train=X, y_train=Y[:, None], x_test=X, y_test=Y)
    opened = open_dataset("arrays", file)
    assert opened.counts == (10, 10, 10) and torch.equal(images_of(opened, 0), images_of(opened, 0))


@pytest.mark.parametrize(
    ("y", "more", "names"),
    [
        (Y + 7, {}, ["7", "8", "9"]),
        (Y, {"classes": np.array(["cat", "dog", "eel"])}, ["cat", "dog", "eel"]),
        (np.array(["b", "a", "c"])[Y], {}, ["a", "b", "c"]),
        (Y.astype(np.uint8), {}, ["0", "1", "2"]),
    ],
)
def test_names_of_classes(file: Path, y: np.ndarray, more: dict[str, Any], names: list[str]) -> None:
    opened = open_dataset("arrays", saved(file, y=y, **more))
    assert [entry.name for entry in opened.classes] == names
    label = opened.classes.index(next(entry for entry in opened.classes if entry.name == names[0]))
    which = np.asarray(more["classes"])[y] if more else y.astype(str)
    assert torch.equal(images_of(opened, label), torch.from_numpy(X[which == names[0]]).permute(0, 3, 1, 2))


def test_classes_may_be_selected_and_images_resized(file: Path) -> None:
    opened = open_dataset("arrays", saved(file), classes=["2", "0"], size=4)
    assert opened.counts == (10, 10) and images_of(opened, 0).shape == (10, 3, 4, 4)
    whole = open_dataset("arrays", file, size=4)
    assert torch.equal(images_of(opened, 0), images_of(whole, 2))
    assert opened.train_split.digest() != whole.train_split.digest()


def test_the_digest_follows_the_content_alone(file: Path, tmp_path: Path) -> None:
    first = open_dataset("arrays", saved(file)).train_split.digest()
    assert open_dataset("arrays", saved(tmp_path / "copy.npz", junk=Y)).train_split.digest() == first
    np.savez(tmp_path / "keras.npz", x_train=X, y_train=Y, x_test=X[10:], y_test=Y[10:])
    assert open_dataset("arrays", tmp_path / "keras.npz").train_split.digest() == first
    assert open_dataset("arrays", saved(tmp_path / "other.npz", X ^ 1)).train_split.digest() != first
    assert open_dataset("arrays", saved(tmp_path / "others.npz", y=(Y + 1) % 3)).train_split.digest() != first


def test_test_images_may_be_missing_where_none_are_used(file: Path) -> None:
    np.savez(file, train_images=X, train_labels=Y, val_images=X)
    opened = open_dataset("arrays", file, test=False)
    assert opened.test_split.counts == () and opened.notes == (f"{file}: arrays that are not read: val_images",)
    with pytest.raises(DataError, match=r"lacks test_images, test_labels \(without evaluation"):
        open_dataset("arrays", file)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"train_images": X.astype(np.int64)}, "are int64, expected bytes"),
        ({"train_images": X[:, :3, :, :].copy()}, "which axis has the channels"),
        ({"train_images": X[..., :2].copy()}, "expected \\[N, H, W\\]"),
        ({"train_images": X[0, 0]}, "expected \\[N, H, W\\]"),
        ({"train_images": X[:0]}, "has the shape"),
        ({"train_labels": Y[:-1]}, "a name for each of 30 images"),
        ({"train_labels": Y.astype(np.float32)}, "are float32"),
        ({"train_labels": np.stack([Y, Y], 1)}, "an integer or a name"),
        ({"test_labels": Y[:10] + 5}, "no class: 5"),
        ({"test_labels": Y[:10].astype(str)}, "not of the type"),
        ({"test_images": X[:10, :5].copy()}, "test images are bytes 3 x 5 x 6"),
        ({"test_images": X[:10].astype(np.float32)}, "test images are floats"),
        ({"test_labels": Y[:10] * 0}, "there are no test images of 1, 2"),
        ({"classes": np.array(["a", "b"])}, "no class: 2"),
        ({"classes": np.array(["a", "a", "b"])}, "more than once"),
        ({"classes": np.array(["a", "", "b"])}, "empty"),
        ({"classes": np.array(["a", "\ud800", "b"])}, "no text in UTF-8"),
        ({"classes": np.arange(3)}, "expected names"),
        ({"train_images": np.array([None] * 30)}, "Python objects"),
    ],
)
def test_what_is_refused(file: Path, change: dict[str, Any], problem: str) -> None:
    content = {"train_images": X, "train_labels": Y, "test_images": X[:10], "test_labels": Y[:10]}
    np.savez(file, **(content | change))
    with pytest.raises(DataError, match=problem) as refusal:
        open_dataset("arrays", file)
    assert all(len(line) < 500 for line in refusal.value.problems)


def test_roots_that_are_no_file(tmp_path: Path, file: Path) -> None:
    for root, problem in ((None, "no file was given"), (tmp_path, "is not a file"), (file, "No such file")):
        with pytest.raises(DataError, match=problem):
            open_dataset("arrays", root)
    with pytest.raises(DataError, match=r"dataset\.channels is 1"):
        open_dataset("arrays", saved(file), channels=1)
