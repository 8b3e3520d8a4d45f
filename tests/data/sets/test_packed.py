"""Data sets in torchvision's files: what is missing, irregular or changed is named, and never unpickled."""

import hashlib
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets

from dist_condense.commands.cli import main
from dist_condense.data import DataError, open_dataset
from dist_condense.data.catalogue import KNOWN, Known
from dist_condense.data.sets import packed
from dist_condense.data.sets.packed import PACKED, _mnist
from tests.data.sets.idx_cases import idx_file, write_fashion


def problems(name: str, root: Path, **options: object) -> list[str]:
    with pytest.raises(DataError) as caught:
        open_dataset(name, root, **options)
    return caught.value.problems


class Executes:
    """Object whose unpickling makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return os.mkdir, (self.folder,)


def make(root: Path, name: str, data: bytes) -> None:
    for file in PACKED[name].original.files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(data)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn"])
def test_files_that_are_not_the_published_ones_are_named_and_not_unpickled(tmp_path: Path, name: str) -> None:
    make(tmp_path, name, pickle.dumps(Executes(tmp_path / "executed")))
    files = PACKED[name].original.files
    expected = [
        f"{tmp_path / file} is not the published file (by its MD5). Replace it, or remove it and set "
        "dataset.download=true."
        for file in files
    ]
    assert problems(name, tmp_path) == expected
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", PACKED)
def test_each_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "BYTES", 100)
    make(tmp_path, name, b"junk")
    first, second, *_ = (tmp_path / file for file in PACKED[name].original.files)
    first.unlink()
    os.mkfifo(first)  # opening it would wait for ever
    second.write_bytes(bytes(101))
    remedy = "Replace it, or remove it and set dataset.download=true."
    assert problems(name, tmp_path) == [
        f"{first} cannot be read: not a regular file. {remedy}",
        f"{second} cannot be read: 101 bytes, expected at most 100. {remedy}",
    ]
    first.unlink()
    second.unlink()
    second.mkdir()
    assert problems(name, tmp_path) == [
        f"{first} cannot be read: No such file or directory. {remedy}",
        f"{second} cannot be read: Is a directory. {remedy}",
    ]


def cifar(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a small CIFAR-10 whose checksums are the published ones."""
    kind, drawn = datasets.CIFAR10, np.random.default_rng(0)
    (root / kind.base_folder).mkdir()
    lists: dict[str, list[list[str]]] = {"train_list": [], "test_list": []}
    md5 = ""
    for file in (*(entry[0] for entry in kind.train_list), "test_batch", "batches.meta"):
        pixels = drawn.integers(0, 256, (10, 3072), dtype=np.uint8)
        names = [str(label) for label in range(10)]
        data = pickle.dumps({"data": pixels, "labels": list(range(10)), "label_names": names})
        (root / kind.base_folder / file).write_bytes(data)
        md5 = hashlib.md5(data).hexdigest()
        lists["test_list" if file == "test_batch" else "train_list"].append([file, md5])
    lists["train_list"].pop()  # batches.meta
    for attribute, value in lists.items():
        monkeypatch.setattr(kind, attribute, value)
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5})
    made = replace(PACKED["cifar10"])  # a copy, which reads the class anew
    monkeypatch.setitem(KNOWN, "cifar10", Known(made.facts, made))


def test_only_a_changed_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cifar(tmp_path, monkeypatch)
    opened = open_dataset("cifar10", tmp_path)
    assert (opened.counts, opened.test().images.shape) == ((5,) * 10, (10, 3, 32, 32))
    changed = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    changed.write_bytes(changed.read_bytes()[:-1])
    [line] = problems("cifar10", tmp_path)
    assert line.startswith(f"{changed} is not the published file")


def test_a_failed_download_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(root: str, train: bool, download: bool) -> packed.LoadedSplit:
        raise RuntimeError("Error downloading x:\nTried a, got:\n<urlopen error>")

    made = replace(PACKED["mnist"], layout=lambda kind, facts: replace(_mnist(kind, facts), load=load))
    monkeypatch.setitem(KNOWN, "mnist", Known(made.facts, made))
    [line] = problems("mnist", tmp_path, download=True)
    assert "(Error downloading x: Tried a, got: <urlopen error>)" in line


def test_classes_without_images_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = write_fashion(tmp_path)
    (raw / "train-labels-idx1-ubyte").write_bytes(idx_file((20,), bytes(8 + index % 2 for index in range(20))))
    [line] = problems("fashion_mnist", tmp_path, classes=["Sneaker", "Bag", "Ankle boot"])
    assert line == "fashion_mnist: there are no training images of Sneaker; complete the files."
    opened = open_dataset("fashion_mnist", tmp_path, classes=["Bag", "Ankle boot"])
    assert torch.equal(opened.test().labels, torch.tensor([0, 1]))
    (raw / "t10k-images-idx3-ubyte").write_bytes(b"<html>")
    assert main(["prepare", f"fashion_mnist:{tmp_path}", str(tmp_path / "dest")]) == 2
    assert capsys.readouterr().err.startswith(f"refused: {raw}/t10k-images-idx3-ubyte: this is not an IDX file")


@pytest.mark.parametrize("name", [name for name in KNOWN if name not in ("digits", "arrays")])  # which have no folder
def test_roots_that_are_no_names_of_folders(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    odd = {"a" * 5000: "File name too long", "a\0b": "embedded null byte", str(tmp_path / "file/x"): "Not a directory"}
    for root, reason in odd.items():
        [line] = problems(name, root)
        assert f"cannot be read: {reason}. Set dataset.root to" in line and len(line) < 1500
    again = f"/../{tmp_path.name}"
    deep = f"{tmp_path}{again * ((4094 - len(str(tmp_path))) // len(again))}"
    line = problems(name, f"{deep}{'/..' * ((4094 - len(deep)) // 3)}")[0]  # its subfolders have too long a path
    assert any(text in line for text in ("holds neither", "has no folder train", "File name too long"))
    [line] = problems(name, "~nobody-of-this-name/x")
    assert "~nobody-of-this-name/x is not a folder" in line
