"""Every file on a user's disk is read in torchvision's order, or counted as ignored."""

import os
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from dist_condense.data import DataError, open_dataset
from dist_condense.data.reading.decode import SUFFIX_OF
from dist_condense.data.reading.store import FolderStore
from dist_condense.data.sets import listing
from dist_condense.data.sets.listing import SUFFIXES, class_files, formatted
from tests.data.shards.shard_cases import photograph

LATIN = os.fsdecode(b"caf\xe9")
"""A name that is no UTF-8."""


def make(root: Path, *files: str) -> Path:
    """Make empty files and their parent folders."""
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


def two(root: Path, *files: str) -> Path:
    """Make two classes with one image in each split, and further files."""
    return make(root, *(f"{split}/{name}/1.jpg" for split in ("train", "val") for name in "ab"), *files)


def refused(root: Path, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        open_dataset("image_folder", root, size=8, **options)
    return str(caught.value)


def paths(root: Path, split: str = "train") -> list[tuple[str, int]]:
    """Return every image and its label, as a run reads them."""
    opened = open_dataset("image_folder", root, size=8)
    selected = opened.train_split if split == "train" else opened.test_split
    store = selected.open_store(range(len(opened.classes)), None)
    return [(store.where(label, index), label) for label in store.labels for index in range(store.count(label))]


def test_every_ending_that_pillow_has_for_a_readable_format() -> None:
    readable = {*SUFFIX_OF, "MPO"}  # Pillow's word for a JPEG with more pictures behind it
    assert {end for end, form in Image.registered_extensions().items() if form in readable} == set(SUFFIXES)


def test_images_come_in_the_order_of_torchvision(tmp_path: Path) -> None:
    root = two(
        tmp_path,
        *(
            f"train/b/{name}"
            for name in ("z.PNG", "sub/0.jpg", "sub-1/0.jpg", "sub/deep/0.tiff", "Sub/9.bmp", "10.jpg")
        ),
        *(f"train/B/{name}" for name in ("2.webp", "only/deep/down/1.jpeg", "notes.txt", "x.avif", "sub/y.pdf")),
        *("train/a.jpg", "train/readme.txt", "val/B/1.jpg", "train/b/sub.jpg/1.pgm", "elsewhere/linked.jpg"),
    )
    (root / "train" / "b" / "link.jpg").symlink_to(root / "elsewhere" / "linked.jpg")
    (root / "train" / "b" / "again").symlink_to(root / "train" / "a")
    (root / "train" / "ab").symlink_to(root / "train" / "a")
    (root / "val" / "ab").symlink_to(root / "elsewhere")
    for split in ("train", "val"):
        assert paths(root, split) == ImageFolder(root / split).samples
    assert len(paths(root)) == 14


def test_one_note_per_split_counts_read_and_ignored_files(tmp_path: Path) -> None:
    root = two(
        tmp_path, "train/a/x.avif", "train/a/y.AVIF", "train/b/.z.jpg", "train/b/no", "train/1.jpg", "val/a/n.txt"
    )
    make(root, "train/.cache/1.jpg", "train/a/sub/2.gif", "val/c/1.jpg")
    (root / "train" / "b" / "gone.jpg").symlink_to(root / "nowhere")
    os.mkfifo(root / "train" / "b" / "pipe.jpg")  # opening it would wait for ever
    assert open_dataset("image_folder", root).notes == (
        f"{root}/train: 3 images of 2 classes (1 in folders below their class's); ignored: 2 .avif, 2 hidden, "
        f"1 broken links, 1 images beside the class folders, 1 special files, 1 with no or another ending",
        f"{root}/val: 2 images of 2 classes; ignored: 1 .txt",
        f"{root}/val: classes that train does not have are not used: c",
    )
    assert len(open_dataset("image_folder", root, classes=["b", "a"]).notes) == 2


def test_many_endings_become_a_count() -> None:
    assert formatted(Counter({f".{name}": 9 - at for at, name in enumerate("abcdefg")})) == (
        "9 .a, 8 .b, 7 .c, 6 .d, 5 .e, 7 with no or another ending"
    )


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    root = two(tmp_path)
    (root / "train" / "a" / "up").symlink_to(root / "train")
    (root / "train" / "a" / "self").symlink_to("self")
    (root / "train" / "a" / "here").symlink_to(".")
    (root / "train" / "a" / "b").symlink_to(root / "train" / "b")
    (root / "train" / "b" / "a").symlink_to(root / "train" / "a")
    folder, ignored = class_files(root / "train" / "a", root / "train")
    assert folder.files == ("1.jpg", "b/1.jpg")
    assert ignored == {listing.LOOP: 3, listing.DANGLING: 1}


def test_links_that_multiply_folders_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = two(tmp_path, *(f"train/b/{number}/1.jpg" for number in range(60)))
    for number in range(20):
        (root / "layers" / str(number)).mkdir(parents=True)
        for name in ("x", "y"):
            (root / "layers" / str(number) / name).symlink_to(root / "layers" / str(number + 1))
    make(root, "layers/20/1.jpg")
    (root / "train" / "a" / "many").symlink_to(root / "layers" / "0")  # leads to a million folders
    monkeypatch.setattr(listing, "REVISITS", 50)
    text = "links in it lead to folders again, more than 50 times. Remove them."
    assert refused(root) == f"{root}/train/a: {text}"
    (root / "train" / "a" / "many").unlink()
    (root / "train" / "c").symlink_to(root / "train" / "b")
    make(root, "val/c/1.jpg")
    assert open_dataset("image_folder", root).counts == (1, 61, 61)  # links to 61 different folders, each visited once


@pytest.mark.parametrize("linked", ["val", "val/a"])
def test_a_note_names_test_images_that_are_training_images(tmp_path: Path, linked: str) -> None:
    root = two(tmp_path)
    (root / linked).rename(root / "other")
    (root / linked).symlink_to(root / linked.replace("val", "train"))
    names = "a" if linked == "val/a" else "a, b"
    note = f"{root}/val: test images are training images, by links: {names}"
    assert open_dataset("image_folder", root).notes[-1] == note
    assert note not in open_dataset("image_folder", root, test=False).notes
    (root / linked).unlink()
    (root / linked).symlink_to(root / "other")
    assert note not in open_dataset("image_folder", root).notes


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_class_that_loses_everything_is_named_with_what_it_holds(tmp_path: Path, split: str) -> None:
    root = two(tmp_path, f"{split}/a/x.avif", f"{split}/a/sub/y.avif")
    (root / split / "a" / "1.jpg").unlink()
    text = refused(root)
    assert f"1 class folders hold no image that is read: {root}/{split}/a (it holds 2 .avif)" in text
    assert "remove their folders" in text


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_class_link_that_leads_nowhere_is_named(tmp_path: Path, split: str) -> None:
    root = two(tmp_path)
    for name in (("train", "c"), ("val", "c")):
        root.joinpath(*name).mkdir()
        make(root.joinpath(*name), "1.jpg")
    (root / split / "c" / "1.jpg").unlink()
    (root / split / "c").rmdir()
    (root / split / "c").symlink_to("/gone")
    assert refused(root) == f"{root}/{split}: class folders are broken links: c -> /gone. " + (
        "Mend or remove the links."
    )
    assert open_dataset("image_folder", root, classes=["b", "a"]).counts == (1, 1)


def test_classes_that_val_lacks_are_named_as_such(tmp_path: Path) -> None:
    text = refused(two(tmp_path, "train/c/1.jpg", "train/d/1.jpg"))
    assert f"{tmp_path}/val lacks 2 of train's 4 classes: c, d; it holds the folders a, b." in text
    assert "There are" not in text


def test_images_without_class_folders(tmp_path: Path) -> None:
    root = two(tmp_path / "flat")
    (root / "val").rename(root / "sorted")
    make(root, *(f"val/ILSVRC2012_val_{number}.JPEG" for number in range(1200)))
    text = refused(root)
    assert f"{root}/val has no class folders; it holds 1,200 images. Put each class's images" in text
    assert "val/<class>/, called as in train" in text
    text = refused(make(tmp_path / "none", "train/1.jpg", "val/1.jpg"))
    assert text.count("\n") == 0 and "train has no class folders; it holds 1 images" in text


def test_a_root_that_is_not_split_tells_what_it_holds(tmp_path: Path) -> None:
    text = refused(make(tmp_path, "cat/1.jpg", "dog/1.jpg", "readme.md"))
    assert "has no folder train (it holds the folders cat, dog, 1 .md)" in text


def test_a_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, scandir = two(tmp_path), os.scandir

    def denied(folder: Path | str) -> object:
        if str(folder).endswith("train/b/"):
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(listing.os, "scandir", denied)
    assert f"{root}/train: a folder in it cannot be listed" in refused(root)


def test_class_names_that_are_no_utf8_are_refused_at_the_start(tmp_path: Path) -> None:
    root = two(tmp_path, f"train/{LATIN}/1.jpg", f"val/{LATIN}/1.jpg", f"train/a/{LATIN}.jpg")
    assert rf"{root}/train: 1 names of classes are not UTF-8: caf\xe9. Rename them" in refused(root)
    assert open_dataset("image_folder", root, classes=["a", "b"]).counts == (2, 1)  # files may be called so


def test_without_test_images_where_none_are_required(tmp_path: Path) -> None:
    root = two(tmp_path)
    (root / "val").rename(root / "validation")
    opened = open_dataset("image_folder", root, test=False)
    assert (opened.counts, len(opened.notes)) == ((1, 1), 1)
    with pytest.raises(DataError, match="opened without its test images"):
        opened.test()


def tiny(root: Path) -> Path:
    """Tiny-ImageNet's layout: two classes of three training images and two test images."""
    lines = []
    for position, name in enumerate(("n00000002", "n00000001")):
        for index in range(3):
            make(root, f"train/{name}/images/{name}_{index}.JPEG", f"train/{name}/{name}_boxes.txt")
        for index in (position, position + 2):
            (root / "val" / "images").mkdir(parents=True, exist_ok=True)
            photograph(index).save(root / "val" / "images" / f"val_{index}.JPEG")
            lines.append(f"val_{index}.JPEG\t{name}\t0\t32\t44\t62\n")
    (root / "val" / "val_annotations.txt").write_text("\ufeff" + "".join(sorted(lines)) + "\n")
    return make(root, "test/images/test_0.JPEG", "wnids.txt", "words.txt")


def test_tiny_imagenet(tmp_path: Path) -> None:
    root = tiny(tmp_path)
    opened = open_dataset("image_folder", root, size=64)
    assert [entry.wnid for entry in opened.classes] == ["n00000001", "n00000002"]
    assert paths(root) == ImageFolder(root / "train").samples
    images = root / "val" / "images"
    files = [images / f"val_{number}.JPEG" for number in (1, 3, 0, 2)]
    assert [path for path, _ in paths(root, "val")] == [str(file) for file in files]
    as_folders = tmp_path / "sorted"
    for file, name in zip(files, ("n00000001", "n00000001", "n00000002", "n00000002"), strict=True):
        for split in ("train", "val"):
            (as_folders / split / name).mkdir(parents=True, exist_ok=True)
            (as_folders / split / name / file.name).write_bytes(file.read_bytes())
    test, expected = opened.test(), open_dataset("image_folder", as_folders, size=64).test()
    assert test.labels.tolist() == expected.labels.tolist() == [0, 0, 1, 1]
    assert test.images.equal(expected.images)
    assert opened.notes[1] == f"{root}/val (classes by val_annotations.txt): 4 images of 2 classes"


def test_what_can_be_wrong_with_annotations(tmp_path: Path) -> None:
    root = tiny(tmp_path)
    (root / "val" / "images" / "val_3.JPEG").unlink()
    make(root, "val/images/unnamed.JPEG")
    text = (root / "val" / "val_annotations.txt").read_text()
    (root / "val" / "val_annotations.txt").write_text(text + "no tab\nval_0.JPEG\tn00000001\nval_9.JPEG\tn9\n")
    message = refused(root)
    assert "val_annotations.txt: these lines cannot be used: 6, 7." in message
    assert f"{root}/val/images lacks 1 images that val_annotations.txt names: val_3.JPEG" in message
    (root / "val" / "val_annotations.txt").write_text("val_1.JPEG\tn00000001\nval_2.JPEG\tn9\n")
    assert "names no image of 1 of train's classes: n00000002" in refused(root)
    opened = open_dataset("image_folder", root, classes=["n00000001"])
    assert opened.notes[1].endswith(
        "1 images of 1 classes; ignored: 2 images that val_annotations.txt does not name, 1 images of other classes"
    )


def test_annotations_are_a_text_of_limited_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tiny(tmp_path)
    file = root / "val" / "val_annotations.txt"
    file.write_bytes(file.read_bytes() + b"caf\xe9.JPEG\tn00000001\n")
    assert refused(root) == f"{file}, line 6: this is not UTF-8; save the file in that encoding"
    os.truncate(file, 2**26 + 1)
    assert refused(root) == f"{file} cannot be read: {2**26 + 1} bytes, expected at most {2**26}"


def test_sorted_images_beside_their_annotations_are_folders(tmp_path: Path) -> None:
    make(two(tmp_path), "val/val_annotations.txt", "val/images/1.jpg")
    assert open_dataset("image_folder", tmp_path).notes[1:] == (
        f"{tmp_path}/val: 2 images of 2 classes; ignored: 1 .txt",
        f"{tmp_path}/val: classes that train does not have are not used: images",
    )


def test_names_with_subfolders_are_read(tmp_path: Path) -> None:
    photograph(0).save(make(tmp_path, "train/a/sub/x") / "train" / "a" / "sub" / "1.jpg")
    folder, _ = class_files(tmp_path / "train" / "a", tmp_path / "train")
    store = FolderStore({0: folder})
    assert store.read(0, 0) == (tmp_path / "train" / "a" / "sub" / "1.jpg").read_bytes()
    assert store.encoded_bytes(0) == len(store.read(0, 0))
