"""Generated ImageFolders with the contents of real ones: grey, CMYK, not square, empty, corrupt."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision import transforms

from dist_condense.data import DataError, open_dataset
from tests.data.shards.shard_cases import photograph

WNIDS = ("n00000001", "n00000002", "zebra")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three classes of three training images and one test image."""
    for position, name in enumerate(WNIDS):
        for split in ("train", "val"):
            (tmp_path / split / name).mkdir(parents=True)
        photograph(position, "L").save(tmp_path / "train" / name / "a.jpg")
        photograph(position, "CMYK").save(tmp_path / "train" / name / "b.JPEG")
        photograph(position, width=61, height=33).save(tmp_path / "train" / name / "c.png")
        (tmp_path / "train" / name / ".hidden.jpg").touch()
        (tmp_path / "train" / name / "notes.txt").touch()
        photograph(position, width=20, height=27).save(tmp_path / "val" / name / "d.png")
    return tmp_path


def as_torchvision(path: Path, size: int) -> torch.Tensor:
    """Decode by torchvision's loader and transforms: uint8 [3, size, size]."""
    crop = transforms.Compose([transforms.Resize(size), transforms.CenterCrop(size), transforms.PILToTensor()])
    pixels: torch.Tensor = crop(Image.open(path).convert("RGB"))
    return pixels


def test_every_kind_of_file_equals_resize_and_center_crop(root: Path) -> None:
    folder = open_dataset("image_folder", root, size=24)
    assert folder.counts == (3, 3, 3)
    assert [(entry.name, entry.wnid) for entry in folder.classes] == [
        ("n00000001", "n00000001"),
        ("n00000002", "n00000002"),
        ("zebra", None),
    ]
    pixels = folder.train([1]).images[1]
    for index, name in enumerate(("a.jpg", "b.JPEG", "c.png")):
        assert torch.equal(pixels[index], as_torchvision(root / "train" / WNIDS[1] / name, 24))


def test_test_images_larger_than_the_files(root: Path) -> None:
    test = open_dataset("imagenet", str(root)).test()
    assert test.images.shape == (3, 3, 224, 224)
    assert test.labels.tolist() == [0, 1, 2]
    assert torch.equal(test.images[2], as_torchvision(root / "val" / "zebra" / "d.png", 224))


def test_the_folder_may_be_called_test(root: Path) -> None:
    (root / "val").rename(root / "test")
    assert len(open_dataset("image_folder", root, size=8).test().labels) == 3


def test_listed_classes_in_the_given_order(root: Path) -> None:
    folder = open_dataset("image_folder", root, size=8, classes=["zebra", "n00000001"])
    assert [entry.name for entry in folder.classes] == ["zebra", "n00000001"]
    assert torch.equal(folder.train([0]).images[0][2], as_torchvision(root / "train" / "zebra" / "c.png", 8))
    assert len(folder.test().labels) == 2


def test_grey_data_sets_read_folders_as_grey(root: Path) -> None:
    grey = open_dataset("mnist", root)
    assert (grey.channels, grey.size, grey.mean) == (1, 28, (0.1307,))
    assert grey.train([0]).images[0].shape == (3, 1, 28, 28)


def test_corrupt_files_are_named_together(root: Path) -> None:
    broken = root / "train" / "zebra" / "a.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    (root / "train" / "zebra" / "c.png").write_bytes(b"no image")
    folder = open_dataset("image_folder", root, size=8)
    assert len(folder.train([0]).images[0]) == 3  # other classes are not touched
    with pytest.raises(DataError) as caught:
        folder.train([2])
    assert len(caught.value.problems) == 2
    assert str(broken) in caught.value.problems[0]
    assert "c.png" in caught.value.problems[1]


def test_empty_and_missing_classes_are_reported_at_once(root: Path) -> None:
    (root / "train" / "empty").mkdir()
    (root / "val" / "empty").mkdir()
    (root / "val" / "zebra" / "d.png").unlink()
    absent = [f"n9{number:07}" for number in range(12)]
    with pytest.raises(DataError) as caught:
        open_dataset("imagenet", root, size=-1, classes=["empty", "zebra", *absent])
    text = str(caught.value)
    assert "dataset.size is -1" in text
    assert str(root / "train" / "empty") in text
    assert str(root / "val" / "zebra") in text
    assert "12 of the 14 requested classes" in text
    assert "n90000009 and 2 more" in text
    assert "n90000010" not in text


def test_a_size_that_no_image_may_have_is_refused_by_arithmetic(root: Path) -> None:
    with pytest.raises(DataError, match=r"dataset\.size is 9460; give pixels of a side, 1 to 9459, or leave it out"):
        open_dataset("image_folder", root, size=9460)
    assert open_dataset("image_folder", root, size=9459).decoded_bytes([1]) == [3 * 9459**2]


def test_an_unknown_subset_lists_the_known_ones(root: Path) -> None:
    with pytest.raises(DataError, match="imagenet100_idc"):
        open_dataset("imagenet", root, classes="imagenet10")
    with pytest.raises(DataError, match="empty list"):
        open_dataset("imagenet", root, classes=[])


@pytest.mark.parametrize("name", ["cifar10", "imagenet"])
def test_a_missing_root_names_key_and_variable(name: str, tmp_path: Path) -> None:
    for root in (None, tmp_path / "nowhere"):
        with pytest.raises(DataError) as caught:
            open_dataset(name, root, size=0)
        assert len(caught.value.problems) == 2
        assert "dataset.root" in str(caught.value)
        assert f"{name.upper()}_ROOT" in str(caught.value)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100", "svhn", "imagenet"])
def test_a_root_without_the_data_is_refused_with_the_expected_layout(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train/<class>/.*"):
        open_dataset(name, tmp_path)


def test_a_root_without_test_images(root: Path) -> None:
    (root / "val").rename(root / "validation")
    with pytest.raises(DataError, match="no folder val or test"):
        open_dataset("image_folder", root)
