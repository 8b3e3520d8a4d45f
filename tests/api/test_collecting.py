"""Data in memory: every form that a program has it in, what is stored, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dist_condense.api import collecting
from dist_condense.api.collecting import as_bytes, both, collected, compare, write
from dist_condense.data import DataError, open_dataset

X = np.random.default_rng(0).integers(0, 256, (12, 3, 5, 5), dtype=np.uint8)
Y = np.arange(12) % 3
LAST = np.ascontiguousarray(X.transpose(0, 2, 3, 1))
NAMES = ("ant", "bee", "cat")


class Items(torch.utils.data.Dataset[Any]):
    """A map-style data set as users write it."""

    def __init__(self, images: Any, labels: Any = Y, classes: Any = None) -> None:
        self.images, self.labels = images, labels
        if classes is not None:
            self.classes = classes

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        return self.images[index], self.labels[index]


def as_floats(images: np.ndarray) -> torch.Tensor:
    """Return what torchvision's ToTensor makes of bytes."""
    return torch.from_numpy(images).to(torch.float32).div(255)


@pytest.mark.parametrize(
    "data",
    [
        (X, Y),
        (LAST, Y),
        (torch.from_numpy(X), torch.from_numpy(Y)),
        (as_floats(X), Y.tolist() and torch.from_numpy(Y)),
        (X, Y[:, None]),
        (X, Y.tolist()),
        [torch.from_numpy(X), tuple(Y.tolist())],
        Items(X),
        Items(torch.from_numpy(X)),
        Items(as_floats(X)),
        Items([Image.fromarray(image) for image in LAST]),
        Items(LAST, torch.from_numpy(Y)),
        Items([Image.fromarray(image).convert("RGBA") for image in LAST]),
        [(image, label) for image, label in zip(LAST, Y.tolist(), strict=True)],
    ],
    ids=lambda data: type(data).__name__,
)
def test_the_same_images_in_every_form(data: Any) -> None:
    [made] = as_bytes(collected(data, "train"))
    assert made.images.dtype == np.uint8 and np.array_equal(made.images, X) and made.labels.tolist() == Y.tolist()


def stored(images: Any) -> np.ndarray:
    [made] = as_bytes(collected((images, Y), "train"))
    return made.images


def test_floats_that_are_no_bytes_are_kept() -> None:
    values = (X / 100.0 - 1).astype(np.float64)
    assert np.array_equal(stored(values), values.astype(np.float32))
    nearly = as_floats(X).numpy().copy()
    nearly[-1, -1, -1, -1] += 1e-6
    assert stored(nearly).dtype == np.float32
    half = torch.from_numpy(values).to(torch.bfloat16)
    assert np.array_equal(stored(half), half.float().numpy())
    assert stored(np.where(values > 0.5, np.nan, 0.0)).dtype == np.float32


def test_grey_images_have_one_channel() -> None:
    assert collected((X[:, 0], Y), "train").images.shape == (12, 1, 5, 5)
    assert collected(Items([Image.fromarray(image[0]) for image in X]), "train").images.shape == (12, 1, 5, 5)


def test_names_of_classes() -> None:
    assert collected(Items(X, classes=list(NAMES)), "train").classes == NAMES
    for names in (np.array(NAMES)[Y], np.array(NAMES, dtype=object)[Y], [NAMES[label] for label in Y]):
        made = collected((X, names), "train").labels
        assert made.dtype.kind == "U" and made[:3].tolist() == list(NAMES)
    assert collected(Items(X), "train").classes is None


def test_a_data_set_of_hugging_face() -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(picture=datasets.Image(), kind=datasets.ClassLabel(names=list(NAMES)))
    rows = {"picture": [Image.fromarray(image) for image in LAST], "kind": Y.tolist()}
    made = collected(datasets.Dataset.from_dict(rows, features=features), "train")
    assert np.array_equal(made.images, X) and made.classes == NAMES


def test_the_file_has_the_images_of_each_class_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collecting, "CHUNK", 200)  # several parts
    train, test = collected(Items(X, classes=NAMES), "train"), collected((X[:6], Y[:6]), "test")
    file = write(train, test, tmp_path / "data")
    opened = open_dataset("arrays", file)
    assert [entry.name for entry in opened.classes] == list(NAMES) and opened.counts == (4, 4, 4)
    for label in range(3):
        images = opened.train([label]).get(label, torch.arange(4))
        assert np.array_equal(images.numpy(), X[label::3])
    assert np.load(file)["train_labels"].tolist() == sorted(Y.tolist())
    assert [entry.name for entry in (tmp_path / "data").iterdir()] == [file.name]


def test_equal_data_are_one_file_and_others_another(tmp_path: Path) -> None:
    first = write(collected((X, Y), "train"), None, tmp_path)
    assert write(*both(Items(as_floats(X)), None), None, tmp_path) == first
    assert write(collected((X ^ 1, Y), "train"), None, tmp_path) != first
    assert len(list(tmp_path.iterdir())) == 2


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(collecting, "flush", full)
    with pytest.raises(OSError, match="No space left"):
        write(collected((X, Y), "train"), None, tmp_path)
    assert list(tmp_path.iterdir()) == []


class Endless(torch.utils.data.IterableDataset[Any]):
    """A data set without positions."""

    def __iter__(self) -> Any:
        return iter(())


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (Endless(), "train is Endless, which has no length"),
        (iter([]), "has no length"),
        (7, "train is int"),
        (Items(X[:0]), "train is empty"),
        ((X[:0], Y[:0]), "train is empty"),
        (X, "train is an array without labels; give arrays"),
        (torch.from_numpy(X), "train is an array without labels"),
        ((X, np.array([*NAMES, None] * 3, dtype=object)), "labels are object"),
        ([1, 2], r"train\[0\] is int, expected \(image, label\)"),
        ((X, Y[:5]), "12 images and 5 labels"),
        ((X, Y.astype(float)), "labels are float64"),
        ((X, np.stack([Y, Y], 1)), "labels are int64"),
        ((X.astype(np.int64), Y), "images are int64"),
        ((X[:, :2], Y), r"shape \[2, 5, 5\]"),
        ((np.zeros((4, 3, 5, 3)), Y[:4]), r"shape \[3, 5, 3\], expected \[H, W, C\]"),
        ((torch.zeros(4, 5, 5, 2), torch.from_numpy(Y[:4])), r"expected \[C, H, W\]"),
        (Items([X[0], X[1][:, :4]], [0, 1]), r"train\[1\] is uint8 \[3, 4, 5\], train\[0\] is uint8 \[3, 5, 5\]"),
        (Items([X[0], X[1].astype(np.float32)], [0, 1]), r"train\[1\] is float32"),
        (Items([X[0][0][0]], [0]), "its image is ndarray"),
        (Items(X, [{"label": 1}] * 12), "labels are object"),
        (Items(X, [torch.zeros(2)] * 12), r"train\[0\] cannot be read \(RuntimeError: a Tensor with 2 elements"),
        (Items(X, [0] * 11), r"train\[11\] cannot be read \(IndexError: list index out of range\)"),
        ((np.array(1), np.array(1)), "train is a single number; give arrays"),
        ((X, [[0], [0, 1]] * 6), r"train: list is no array and cannot be read \(ValueError: "),
        ((torch.empty(12, 3, 5, 5, device="meta"), Y), "train: Tensor is no array and cannot be read"),
        ((torch.zeros(12, 3, 5, 5).to_sparse(), Y), "train: Tensor is no array and cannot be read"),
    ],
)
def test_what_is_refused(data: Any, problem: str) -> None:
    with pytest.raises(DataError, match=problem) as refusal:
        collected(data, "train")
    assert len(refusal.value.problems) == 1


@pytest.mark.parametrize(
    ("test", "problems"),
    [
        ((X[:, :, :4], Y), [r"images are uint8 \[3, 4, 5\], those of train uint8 \[3, 5, 5\]"]),
        ((X / 100.0, Y + 1), ["images are float32", "labels without training images: '?3'?\\."]),
        ((X, np.array(NAMES)[Y]), ["labels without training images: 'ant', 'bee', 'cat'"]),
        (Items(X, classes=NAMES[::-1]), ["a label has two meanings"]),
    ],
)
def test_test_images_that_do_not_fit_the_training_images(test: Any, problems: list[str]) -> None:
    train = collected(Items(X, classes=NAMES), "train")
    compare(train, collected((X[:3], Y[:3]), "test"))
    with pytest.raises(DataError) as refusal:
        compare(train, collected(test, "test"))
    assert len(refusal.value.problems) == len(problems)
    for problem, pattern in zip(refusal.value.problems, problems, strict=True):
        assert re.search(pattern, problem)


@pytest.mark.parametrize("data", [{"train": [], "test": []}, {}])
def test_a_dict_of_splits_is_refused(data: Any) -> None:
    with pytest.raises(DataError, match=r"train is dict with .*give one split"):
        collected(data, "train")


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_pictures_of_more_than_8_bits_are_refused(mode: str) -> None:
    with pytest.raises(DataError, match=rf"train\[0\]: its image has more than 8 bits \(mode {mode}\)"):
        collected([(Image.new(mode, (4, 4)), 0)], "train")
