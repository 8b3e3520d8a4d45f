"""Exports: each format, read by the program for which it is, has the decoded images and labels of the set."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dist_condense.commands import cli
from dist_condense.result import formats
from dist_condense.result.card import SOFT, Card, CardClass
from dist_condense.result.formats import export
from dist_condense.result.synthetic_set import load_set, write_set
from dist_condense.system.errors import DataError
from tests.result.test_synthetic_set import a_card, a_set

Read = Callable[[Path], tuple[list[Any], list[int]]]


def written(folder: Path, card: Card | None = None, labels: torch.Tensor | None = None) -> Path:
    card = card or replace(a_card(2, 8), complete=True)
    pixels, own = a_set(card)
    write_set(folder / "set", pixels, own if labels is None else labels, card)
    return folder / "set"


def as_bytes(folder: Path) -> list[np.ndarray]:
    """Return the decoded images of a set, rounded to bytes, ``[H, W, C]``."""
    dataset = load_set(folder, normalise=False)
    values = dataset.batch(torch.arange(len(dataset)))
    return list((values.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy())


def of_imagefolder(dest: Path) -> tuple[list[Any], list[int]]:
    datasets = pytest.importorskip("torchvision.datasets")
    folder = datasets.ImageFolder(str(dest))
    return [image for image, _ in folder], [label for _, label in folder]


def of_webdataset(dest: Path) -> tuple[list[Any], list[int]]:
    samples = samples_of(dest)
    return [Image.open(io.BytesIO(x["png"])) for x in samples], [int(x["cls"]) for x in samples]


def samples_of(dest: Path) -> list[dict[str, bytes]]:
    """Return the samples of WebDataset's tars; its own pipeline leaves the files open."""
    reader = pytest.importorskip("webdataset.tariterators")
    samples: list[dict[str, bytes]] = []
    for tar in sorted(dest.glob("*.tar")):
        with tar.open("rb") as stream:
            samples += reader.group_by_keys(reader.tar_file_expander([{"url": tar.name, "stream": stream}]))
    return samples


def of_hf(dest: Path) -> tuple[list[Any], list[int]]:
    datasets = pytest.importorskip("datasets")
    table = datasets.load_dataset(str(dest), split="train", cache_dir=str(dest.parent / "cache"))
    assert table.features["label"].names == load_set(dest.parent / "set").classes
    return list(table["image"]), list(table["label"])


@pytest.mark.parametrize(
    ("form", "read"), [("imagefolder", of_imagefolder), ("webdataset", of_webdataset), ("hf", of_hf)]
)
def test_files_of_images_are_those_of_the_set(
    form: str, read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "PER_TAR", 5)
    monkeypatch.setattr(formats, "PER_PARQUET", 5)
    monkeypatch.setattr(formats, "CHUNK", 7)
    folder = written(tmp_path)
    dataset = load_set(folder)
    done = export(folder, tmp_path / "dest", form)
    images, labels = read(tmp_path / "dest")
    pairs = sorted((label, np.asarray(image).tobytes()) for image, label in zip(images, labels, strict=True))
    assert pairs == sorted((y, x.tobytes()) for x, y in zip(as_bytes(folder), dataset.targets, strict=True))
    assert len(pairs) == done.images == len(dataset) == 24
    values = load_set(folder, normalise=False).batch(torch.arange(24))
    assert done.clipped == float(((values < 0) | (values > 1)).double().mean()) > 0


@pytest.mark.parametrize("space", [None, "unit", "normalised"])
def test_tensors_are_bitwise_those_of_the_set(space: str | None, tmp_path: Path) -> None:
    folder = written(tmp_path)
    dataset = load_set(folder, normalise=space == "normalised")
    assert export(folder, tmp_path / "x.pt", "pt", space).clipped is None
    images, labels = torch.load(tmp_path / "x.pt", weights_only=True)
    assert torch.equal(images, dataset.batch(torch.arange(len(dataset)))) and torch.equal(labels, dataset.labels)


def test_grey_images_stay_grey(tmp_path: Path) -> None:
    folder = written(tmp_path, replace(a_card(1, 9, 1), complete=True))
    export(folder, tmp_path / "dest", "imagefolder")
    assert {Image.open(io.BytesIO(file.read_bytes())).mode for file in (tmp_path / "dest").rglob("*.png")} == {"L"}


def test_soft_labels_are_kept_where_a_format_has_a_place(tmp_path: Path) -> None:
    labels = torch.full((6, 3), 0.25)
    labels[torch.arange(6), torch.arange(3).repeat_interleave(2)] = 0.5
    folder = written(tmp_path, replace(a_card(1, 8), complete=True, labels=SOFT), labels)
    export(folder, tmp_path / "x.pt", "pt")
    assert torch.equal(torch.load(tmp_path / "x.pt", weights_only=True)[1], labels)
    export(folder, tmp_path / "tars", "webdataset")
    assert [json.loads(x["probabilities.json"]) for x in samples_of(tmp_path / "tars")] == labels.tolist()
    export(folder, tmp_path / "hf", "hf")
    datasets = pytest.importorskip("datasets")
    table = datasets.load_dataset(str(tmp_path / "hf"), split="train", cache_dir=str(tmp_path / "cache"))
    assert table["probabilities"][:] == labels.tolist() and table["label"][:] == [0, 0, 1, 1, 2, 2]
    with pytest.raises(DataError, match="folders hold no soft labels; export it as pt, webdataset or hf"):
        export(folder, tmp_path / "dest", "imagefolder")


def test_the_same_set_gives_the_same_bytes(tmp_path: Path) -> None:
    folder = written(tmp_path)
    for form in ("imagefolder", "webdataset"):
        trees = []
        for name in ("a", "b"):
            export(folder, tmp_path / form / name, form)
            root = tmp_path / form / name
            trees.append({str(x.relative_to(root)): x.read_bytes() for x in root.rglob("*") if x.is_file()})
        assert trees[0] == trees[1]


@pytest.mark.parametrize("names", [("a/b", "c"), ("..", "c"), (".hidden", "c"), ("a" * 256, "c"), ("a\nb", "c")])
def test_no_name_of_a_class_leads_out_of_the_folder(names: tuple[str, str], tmp_path: Path) -> None:
    """Names in a card are untrusted."""
    card = replace(a_card(1, 8, classes=2), complete=True)
    folder = written(tmp_path, replace(card, classes=tuple(CardClass(c, name) for c, name in enumerate(names))))
    with pytest.raises(DataError, match="no folders can have the names of the classes"):
        export(folder, tmp_path / "dest", "imagefolder")
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    export(folder, tmp_path / "tars", "webdataset")
    export(folder, tmp_path / "x.pt", "pt")


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device", str(path))

    folder = written(tmp_path)
    monkeypatch.setattr(formats, "flush", full)
    for form in formats.FORMATS:
        if form == "hf":
            pytest.importorskip("datasets")
        with pytest.raises(OSError, match="No space left"):
            export(folder, tmp_path / "dest", form)
        assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_torchs_writer_fails_like_any_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", str(written(tmp_path)), "/proc/none/x.pt", "--format", "pt"]) == 1
    assert capsys.readouterr().err.startswith("failed: ")


def test_a_destination_in_the_set_is_refused(tmp_path: Path) -> None:
    folder = written(tmp_path)
    with pytest.raises(DataError, match="is in the folder of the set"):
        export(folder, folder / "inner", "pt")


def test_the_command_says_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    classes = tuple(CardClass(c, name) for c, name in enumerate("zya"))
    folder = written(tmp_path, replace(a_card(1, 8), complete=True, classes=classes))
    words = ["export", str(folder), str(tmp_path / "dest")]
    assert cli.main([*words, "--format", "imagefolder"]) == 0
    said, note = capsys.readouterr().out.splitlines()
    assert said.startswith(f"{tmp_path}/dest: 6 images as imagefolder, rounded to bytes; ")
    assert note == "note: torchvision's ImageFolder numbers classes by their sorted names, unlike the labels of the set"
    assert cli.main([*words, "--format", "pt"]) == 2
    assert capsys.readouterr().err == f"refused: {tmp_path}/dest exists; give another destination, or remove it.\n"


@pytest.mark.parametrize(
    ("change", "words", "problem"),
    [
        ({"complete": False}, ["--format", "pt"], "is incomplete (step 30); finish its run first"),
        ({}, ["--format", "hf", "--space", "unit"], "--space is for tensors"),
        ({"value_space": "values", "bounds": (-1.0, 2.0)}, ["--format", "imagefolder"], "export it as pt"),
    ],
)
def test_what_is_refused(
    change: dict[str, Any], words: list[str], problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = written(tmp_path, replace(a_card(1, 8), **{"complete": True} | change))
    assert cli.main(["export", str(folder), str(tmp_path / "dest"), *words]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("refused: ") and problem in line
    assert cli.main(["export", str(tmp_path), str(tmp_path / "dest"), "--format", "pt"]) == 2
    assert not (tmp_path / "dest").exists()
