"""Test images held out of class folders: a choice by the names of the files, equal to a folder of that division."""

import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from dist_condense.commands import cli
from dist_condense.data import DataError, ImageSet, open_dataset
from dist_condense.data.reading.store import ClassFolder
from dist_condense.data.sets.division import divided
from tests.data.shards.shard_cases import photograph, prepared

CLASSES = {"cat": 5, "dog": 8, "eel": 2}
"""Number of images of each class."""


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """Three classes of different numbers of images, some in a folder below."""
    for position, (name, count) in enumerate(CLASSES.items()):
        (tmp_path / "flat" / name / "more").mkdir(parents=True)
        for index in range(count):
            file = f"more/{index}.png" if index % 3 == 2 else f"{index}.png"
            photograph(10 * position + index).save(tmp_path / "flat" / name / file)
    return tmp_path / "flat"


def names(opened: ImageSet) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Return the names of the training images and the test images of each class."""
    return [(a.files, b.files) for a, b in zip(opened.train_split.unread, opened.test_split.unread, strict=True)]


def as_folders(opened: ImageSet, root: Path) -> Path:
    """Copy the images of a divided set to train/ and val/."""
    for name, split in {"train": opened.train_split, "val": opened.test_split}.items():
        for entry in split.unread:
            for file in entry.files:
                place = root / name / entry.folder.name / file
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(entry.folder / file, place)
    return root


def equal(one: ImageSet, other: ImageSet) -> bool:
    pairs = zip(one.train().images.values(), other.train().images.values(), strict=True)
    return one.classes == other.classes and all(
        [*(torch.equal(*pair) for pair in pairs), torch.equal(one.test().images, other.test().images)]
    )


@pytest.mark.parametrize("classes", [None, ["eel", "cat"]])
def test_a_divided_folder_of_the_same_images(flat: Path, tmp_path: Path, classes: list[str] | None) -> None:
    held = open_dataset("image_folder", flat, size=8, classes=classes, test_fraction=0.3)
    given = open_dataset("image_folder", as_folders(held, tmp_path / "given"), size=8, classes=classes)
    assert equal(held, given) and names(held) == names(given)
    assert [split.digest() for split in (held.train_split, held.test_split)] == [
        split.digest() for split in (given.train_split, given.test_split)
    ]
    assert held.test().labels.tolist() == given.test().labels.tolist()


def test_every_image_is_in_one_split_and_the_number_is_rounded(flat: Path) -> None:
    opened = open_dataset("image_folder", flat, test_fraction=0.3)
    assert [len(test) for _, test in names(opened)] == [2, 2, 1]  # of 1.5, 2.4 and 0.6
    for count, (train, test) in zip(CLASSES.values(), names(opened), strict=True):
        assert len({*train, *test}) == len(train) + len(test) == count
    assert opened.notes[-1].startswith(f"{flat}: 5 of these images are test images, by a hash of their names")
    without = open_dataset("image_folder", flat, test_fraction=0.3, test=False)
    assert without.counts == opened.counts and without.test_split.counts == ()


@pytest.mark.parametrize(("fraction", "tests"), [(1e-9, 1), (1 - 1e-9, 1)])
def test_no_split_is_empty(fraction: float, tests: int) -> None:
    train, test = divided(ClassFolder(Path("eel"), ("1.png", "2.png")), fraction)
    assert (len(train.files), len(test.files)) == (1, tests)


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.77])
def test_a_new_image_moves_at_most_one_other(fraction: float) -> None:
    files = [f"{number}.jpg" for number in range(60)]
    tests = [
        set(divided(ClassFolder(Path("here/cat"), tuple(sorted(files[:count]))), fraction)[1].files)
        for count in range(2, 60)
    ]
    for new, (before, after) in zip(files[2:], pairwise(tests), strict=False):
        assert len((before ^ after) - {new}) <= 1


def test_the_choice_is_by_class_and_name_alone() -> None:
    files = tuple(sorted(f"{number}.jpg" for number in range(40)))
    choices = [set(divided(ClassFolder(Path(place), files), 0.2)[1].files) for place in ("a/cat", "b/cat", "a/dog")]
    assert choices[0] == choices[1] != choices[2]
    assert set(divided(ClassFolder(Path("a/cat"), files[::-1]), 0.2)[1].files) == choices[0]


def refused(root: Path, name: str = "image_folder", fraction: float | None = 0.2) -> str:
    with pytest.raises(DataError) as caught:
        open_dataset(name, root, test_fraction=fraction)
    return str(caught.value)


def test_a_class_of_one_image_is_named(flat: Path) -> None:
    (flat / "eel" / "1.png").unlink()
    assert refused(flat).startswith(f"{flat}: 1 class has one image") and "images: eel. Add" in refused(flat)
    assert open_dataset("image_folder", flat, classes=["cat", "dog"], test_fraction=0.2).counts == (4, 6)


@pytest.mark.parametrize("file", ["run/config.yaml", "runs/two/seed=0/config.yaml", "runs/mlartifacts/1/x"])
def test_a_folder_of_runs_is_no_class(flat: Path, file: str) -> None:
    folder = (flat / file).parent
    (folder / "synthetic_set").mkdir(parents=True)
    (flat / file).write_text("")
    for name in ("preview.png", "again.png"):
        photograph(1).save(folder / "synthetic_set" / name)
    assert (
        f"{flat}: these folders are of runs of this package and no classes of images: {file.split('/')[0]}. Move"
        in (refused(flat))
    )
    assert len(open_dataset("image_folder", flat, classes=["cat", "dog"], test_fraction=0.2).classes) == 2


def test_flat_and_divided_folders_are_told_apart(flat: Path, tmp_path: Path) -> None:
    assert "or <class>/ alone with dataset.test_fraction" in refused(flat, fraction=None)
    held = open_dataset("image_folder", flat, test_fraction=0.2)
    given = as_folders(held, tmp_path / "given")
    assert f"into the folders train, val. Leave out dataset.test_fraction, or set dataset.root={given}/train" in (
        refused(given)
    )
    assert len(open_dataset("image_folder", given / "train", classes=["cat", "dog"], test_fraction=0.4).classes) == 2
    (flat / "eel").rename(flat / "train")
    shutil.rmtree(flat / "train" / "more")
    assert [entry.name for entry in open_dataset("image_folder", flat, test_fraction=0.2).classes] == [
        *("cat", "dog", "train")  # a class of photographs of trains
    ]


def test_sets_with_test_images_of_their_own(flat: Path, tmp_path: Path) -> None:
    for name in ("digits", "cifar10", "arrays"):
        assert f"dataset.test_fraction is 0.2, but {name} has test images of its own" in refused(flat, name)
    prepared(flat, tmp_path / "shards", test_fraction=0.2)
    assert "were divided when they were prepared; leave it out" in refused(tmp_path / "shards")


def test_shards_equal_the_flat_folder(flat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["prepare", str(flat), str(tmp_path / "shards"), "--test-fraction"]
    assert cli.main([*command, "0.3"]) == 0
    held = open_dataset("image_folder", flat, size=8, test_fraction=0.3)
    assert equal(open_dataset("image_folder", tmp_path / "shards", size=8), held)
    capsys.readouterr()
    for given, said in {
        "0.2": "test_fraction was 0.3, now 0.2",
        "1.0": "--test-fraction: 1.0 is not in the range above 0 to below 1",
    }.items():
        assert cli.main([*command, given]) == 2
        assert said in capsys.readouterr().err
    assert cli.main(["prepare", str(flat), str(flat / "shards"), "--test-fraction", "0.3"]) == 2
    assert "whose folders are classes of images; give a folder outside" in capsys.readouterr().err
    assert cli.main(["prepare", "x.tar", str(tmp_path / "tars"), "--val", "x.tar", "--test-fraction", "0.3"]) == 2
    assert "--test-fraction is for class folders" in capsys.readouterr().err
    assert cli.main(["prepare", str(flat), str(tmp_path / "none")]) == 2
    assert "or <class>/ alone with --test-fraction" in capsys.readouterr().err
