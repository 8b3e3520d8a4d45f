"""Data sets in ImageFolder layout: root/train/<class>/<file> and root/val/<class>/<file> (or root/test)."""

import os
import re
from collections.abc import Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path

from dist_condense.data.decode import Form
from dist_condense.data.errors import DataError, listed
from dist_condense.data.image_set import ClassName, Facts, ImageSet
from dist_condense.data.request import Request, choose
from dist_condense.data.split import StoredSplit
from dist_condense.data.store import ClassFolder, FolderStore
from dist_condense.data.tiers import Reading

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGENET = Facts(3, 224, IMAGENET_MEAN, IMAGENET_STD, True, "ImageNet photographs")
IMAGE_FOLDER = Facts(3, 224, IMAGENET_MEAN, IMAGENET_STD, True, "photographs in class folders", upright=True)
TEST_FOLDERS = ("val", "test")
"""The first of these that exists holds the test images."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""torchvision's ImageFolder reads the same."""
_WNID = re.compile(r"n\d{8}")


def has_folder_layout(root: Path) -> bool:
    """Whether the root is an ImageFolder."""
    return (root / "train").is_dir()


def open_imagenet(request: Request) -> ImageSet:
    """ImageNet, or some of its classes, as its users have it on disk."""
    return open_folder(request, IMAGENET)


def open_image_folder(request: Request) -> ImageSet:
    """Any folder of photographs, normalised as ImageNet."""
    return open_folder(request, IMAGE_FOLDER)


def open_folder(request: Request, facts: Facts) -> ImageSet:
    """List the folders of the wanted classes (all, in alphabetical order, when none are named).

    Raises DataError with all that is wrong: the root, missing splits, missing classes, empty class folders.
    """
    train, test, problems = _list_splits(request)
    problems = request.problems() + problems
    if problems:
        raise DataError(problems)
    size = request.size or facts.size
    form = Form(facts.channels, size, request.upright(facts.upright))
    return ImageSet(
        name=request.name,
        facts=facts,
        size=size,
        classes=tuple(class_name(entry.folder.name) for entry in train),
        train_split=_split(train, form),
        test_split=_split(test, form),
    )


def _split(folders: tuple[ClassFolder, ...], form: Form) -> StoredSplit:
    counts = tuple(len(entry.files) for entry in folders)
    opened, sizes, digest = partial(_store, folders), partial(_sizes, folders), partial(_digest, folders, form)
    return StoredSplit(counts, form, opened, sizes, digest, unread=folders)


def _store(folders: tuple[ClassFolder, ...], labels: Sequence[int], reading: Reading, now: bool = True) -> FolderStore:
    return FolderStore({label: folders[label] for label in labels})


def _sizes(folders: tuple[ClassFolder, ...]) -> list[int]:
    store = FolderStore(dict(enumerate(folders)))
    return [store.encoded_bytes(label) for label in store.labels]


def _digest(folders: tuple[ClassFolder, ...], form: Form) -> str:
    """Over the names of classes and files, not what is in them: a file that was replaced under its name is not seen
    (ImageNet's folders have 1.3 million files; prepared shards are known by their hashes).
    """
    listing = [(entry.folder.name, entry.files) for entry in folders]
    return sha256(repr((listing, *form.key)).encode()).hexdigest()


Listed = tuple[tuple[ClassFolder, ...], list[str]]


def _list_splits(request: Request) -> tuple[tuple[ClassFolder, ...], tuple[ClassFolder, ...], list[str]]:
    """Class folders of the two splits, and what is wrong with them."""
    root_problems = request.root_problems()
    if root_problems or request.root is None:
        return (), (), root_problems
    train_root, layout_problems = _split_folder(request, ("train",))
    test_root, more = _split_folder(request, TEST_FOLDERS)
    if layout_problems:
        return (), (), layout_problems + more
    train, train_problems = _list_classes(train_root, request.wanted())
    test, test_problems = ((), more) if more else _list_classes(test_root, [entry.folder.name for entry in train])
    return train, test, train_problems + test_problems


def _split_folder(request: Request, candidates: Sequence[str]) -> tuple[Path, list[str]]:
    root = request.root or Path()
    found = [root / name for name in candidates if (root / name).is_dir()]
    if found:
        return found[0], []
    return root, [
        f"{request.name}: {root} has no folder {' or '.join(candidates)}; "
        f"dataset.root must hold train/<class>/ and val/<class>/."
    ]


def _list_classes(split: Path, wanted: Sequence[str] | None) -> Listed:
    """The folders of the wanted classes in that order, with problems for missing and empty ones."""
    with os.scandir(split) as entries:
        available = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    positions, problems = choose(wanted, available, str(split))
    found = tuple(_list_class(split / available[index]) for index in positions)
    empty = [str(entry.folder) for entry in found if not entry.files]
    if empty:
        problems.append(
            f"{len(empty)} class folders hold no image: {listed(empty)}. "
            f"Fill them or leave them out of dataset.classes."
        )
    if not available:
        problems.append(f"{split} has no class folders; put each class's images in a folder of its own.")
    return found, problems


def _list_class(folder: Path) -> ClassFolder:
    """One listing without a stat per file; hidden files and files that are no images are passed over."""
    names = (name for name in os.listdir(folder) if name.lower().endswith(SUFFIXES) and not name.startswith("."))
    return ClassFolder(folder, tuple(sorted(names)))


def class_name(folder: str) -> ClassName:
    """The name of a class folder, which may be a WordNet id."""
    return ClassName(folder, folder if _WNID.fullmatch(folder) else None)
