"""Data sets in ImageFolder layout: root/train/<class>/<file> and root/val/<class>/<file> (or root/test).

Without this division, as root/<class>/<file>, test images are held out of each class.
"""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path

from dist_condense.data.image_set import NOT_STATED, ClassName, Facts, ImageSet, Licence
from dist_condense.data.reading.decode import Form
from dist_condense.data.reading.headers import channels_of, paths
from dist_condense.data.reading.split import StoredSplit
from dist_condense.data.reading.store import ClassFolder, FolderStore
from dist_condense.data.reading.tiers import Reading
from dist_condense.data.sets import annotated
from dist_condense.data.sets.division import divided, indivisible, of_runs
from dist_condense.data.sets.listing import (
    ENDINGS,
    Entries,
    Ignored,
    class_files,
    entries_of,
    formatted,
    listing_note,
    non_utf8_names,
)
from dist_condense.data.sets.request import Request, select_classes
from dist_condense.system.errors import DataError, listed

IMAGENET = Facts(
    channels=3,
    size=224,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    flip=True,
    family="ImageNet photographs",
    # image-net.org/download; the photographers keep their rights
    licence=Licence("other", "ImageNet's terms permit non-commercial research and educational use only."),
)
IMAGE_FOLDER = replace(IMAGENET, family="photographs in class folders", upright=True, own=True, licence=NOT_STATED)
TEST_FOLDERS = ("val", "test")
"""Folder names of test images; the first that exists is used."""
_WNID = re.compile(r"n\d{8}")


def open_imagenet(request: Request) -> ImageSet:
    """Open ImageNet, or some of its classes, in ImageFolder layout."""
    return open_folder(request, IMAGENET)


def open_image_folder(request: Request) -> ImageSet:
    """Open any folder of photographs.

    If the number of channels is not requested, images are grey if all files are grey, and RGB otherwise.
    """
    return open_folder(request, IMAGE_FOLDER)


def open_folder(request: Request, facts: Facts) -> ImageSet:
    """Open a data set in ImageFolder layout by listing the folders of the requested classes.

    All classes, in alphabetical order, are used if none are requested. Raises DataError with all problems: an invalid
    root, missing splits, missing classes, empty class folders, and names that are not UTF-8. The `notes` of the result
    report which files were read and which were ignored.
    """
    train_split, test_split = _list_splits(request)
    problems = [*request.problems(), *train_split.problems, *test_split.problems]
    if problems:
        raise DataError(problems)
    train, test = train_split.classes, test_split.classes
    size = request.size or facts.size
    if facts.own:
        facts = facts.with_channels(request.channels or channels_of(paths((*train, *test)), str))
    form = Form(facts.channels, size, request.upright(facts.upright))
    return ImageSet(
        name=request.name,
        facts=facts,
        size=size,
        classes=tuple(class_name(entry.folder.name) for entry in train),
        train_split=_split(train, form),
        test_split=_split(test, form),
        notes=(*train_split.notes, *test_split.notes),
    )


def _split(folders: tuple[ClassFolder, ...], form: Form) -> StoredSplit:
    return StoredSplit(
        counts=tuple(len(entry.files) for entry in folders),
        form=form,
        open_store=partial(_store, folders),
        sizes=partial(_sizes, folders),
        digest=partial(_digest, folders, form),
        unread=folders,
    )


def _store(folders: tuple[ClassFolder, ...], labels: Sequence[int], reading: Reading, now: bool = True) -> FolderStore:
    return FolderStore({label: folders[label] for label in labels})


def _sizes(folders: tuple[ClassFolder, ...]) -> list[int]:
    store = FolderStore(dict(enumerate(folders)))
    return [store.encoded_bytes(label) for label in store.labels]


def _digest(folders: tuple[ClassFolder, ...], form: Form) -> str:
    """Return a hash of `form` and of the names of classes and files, but not of file contents.

    Contents are not hashed because ImageNet has 1.3 million files; a file that was replaced under the same name is
    therefore not detected. Prepared shards are identified by the hashes of their content.
    """
    listing = [(entry.folder.name, entry.files) for entry in folders]
    return sha256(repr((listing, *form.key)).encode()).hexdigest()


@dataclass(frozen=True)
class _Listed:
    """Class folders of one split, their problems, and notes for the user."""

    classes: tuple[ClassFolder, ...] = ()
    problems: Sequence[str] = ()
    notes: Sequence[str] = ()


def _list_splits(request: Request) -> tuple[_Listed, _Listed]:
    """List the training split and the test split; the test split is empty if test images are not requested."""
    problems = request.root_problems()
    if problems or request.root is None:
        return _Listed(problems=problems), _Listed()
    if request.test_fraction is not None:
        return _list_divided(request, request.root, request.test_fraction)
    train_root, test_root = _split_folder(request.root, ("train",)), _split_folder(request.root, TEST_FOLDERS)
    if train_root is None:
        train = _Listed(problems=_no_split(request, ("train",)))
    else:
        train = _guarded(_list_train, train_root, request.class_names())
    if not request.test:
        return train, _Listed()
    if test_root is None:
        return train, _Listed(problems=_no_split(request, TEST_FOLDERS))
    if not train.classes:
        return train, _Listed()
    return train, _guarded(_list_test, test_root, train.classes, request.class_names() is None)


def _list_divided(request: Request, root: Path, fraction: float) -> tuple[_Listed, _Listed]:
    """List class folders without train and val, and hold out test images of each class."""
    every = _guarded(_list_undivided, root, request)
    if every.problems:
        return every, _Listed()
    train, test = zip(*(divided(entry, fraction) for entry in every.classes), strict=True)
    held_out = f"{sum(len(entry.files) for entry in test):,} of these images"
    note = f"{root}: {held_out} are test images, by a hash of their names (dataset.test_fraction={fraction})"
    return _Listed(train, notes=[*every.notes, note]), _Listed(test if request.test else ())


def _list_undivided(root: Path, request: Request) -> _Listed:
    """List the requested classes in a folder of class folders; refuse one that is divided already."""
    named = (name for name in ("train", *TEST_FOLDERS) if os.path.isdir(root / name))
    if splits := [name for name in named if entries_of(root / name).folders]:
        problem = (
            f"{request.name}: {root} is divided already, into the folders {listed(splits)}. Leave out "
            f"dataset.test_fraction, or set dataset.root={root / splits[0]} to divide only the images of that folder."
        )
        return _Listed(problems=[problem])
    every = _list_train(root, request.class_names())
    if every.problems:
        return every
    where = str(root)
    return replace(every, problems=[*of_runs(every.classes, where), *indivisible(every.classes, where)])


def _guarded(listing: Callable[..., _Listed], split: Path, *arguments: object) -> _Listed:
    try:
        return listing(split, *arguments)
    except DataError as error:
        return _Listed(problems=error.problems)
    except OSError as reason:
        return _Listed(problems=[f"{split}: a folder in it cannot be listed ({reason}); make it readable."])


def _split_folder(root: Path, candidates: Sequence[str]) -> Path | None:
    return next((root / name for name in candidates if os.path.isdir(root / name)), None)


def _no_split(request: Request, candidates: Sequence[str]) -> list[str]:
    assert request.root is not None
    remedy = (
        " (without evaluation, evaluation.epochs=0, no test images)"
        if candidates == TEST_FOLDERS
        else ", or <class>/ alone with dataset.test_fraction, which holds out test images"
    )
    try:
        holds = f"it holds {entries_of(request.root)}"
    except OSError as reason:
        holds = f"it cannot be listed: {reason}"
    return [
        f"{request.name}: {request.root} has no folder {' or '.join(candidates)} ({holds}); "
        f"dataset.root must hold train/<class>/ and val/<class>/{remedy}."
    ]


def _list_train(split: Path, requested: Sequence[str] | None) -> _Listed:
    """List the requested classes in the requested order, or all classes (None), sorted by name as in torchvision."""
    entries = entries_of(split)
    wanted = entries.dangling if requested is None else requested
    dangling = sorted(set(entries.dangling).intersection(wanted))
    problems = _dangling(split, dangling)
    if not entries.folders:
        return _Listed(problems=problems or [_flat(split, entries)])
    lost = set(dangling)
    names = None if requested is None else [name for name in requested if name not in lost]
    positions, missing = select_classes(names, entries.folders, str(split))
    selected = [entries.folders[index] for index in positions]
    folders, empty, note = _read_classes(split, selected, entries)
    return _Listed(folders, [*problems, *missing, *non_utf8_names(selected, str(split)), *empty], [note])


def _list_test(split: Path, train: Sequence[ClassFolder], every: bool) -> _Listed:
    """List the test images of the training classes, in the order of `train`.

    :param every: whether all training classes are used; if so, a note names test classes that do not occur in training.

    A further note names the classes whose test images are, by links, their training images.
    """
    names = [entry.folder.name for entry in train]
    entries = entries_of(split)
    if annotated.is_annotated(split, entries):
        return _Listed(*annotated.read(split, names))
    dangling = sorted(set(entries.dangling).intersection(names))
    if not entries.folders:
        return _Listed(problems=_dangling(split, dangling) or [_flat(split, entries)])
    present = set(entries.folders)
    known = present.union(dangling)
    missing = [name for name in names if name not in known]
    folders, empty, note = _read_classes(split, [name for name in names if name in present], entries)
    others = sorted(present - set(names)) if every else []
    extra = [f"{split}: classes that train does not have are not used: {listed(others)}"] if others else []
    same = [entry.folder.name for entry in train if entry.folder.name in present and _is_of(entry, split)]
    shared = [f"{split}: test images are training images, by links: {listed(same)}"] if same else []
    problems = [*_dangling(split, dangling), *_missing(split, missing, len(names), entries), *empty]
    return _Listed(folders, problems, [note, *extra, *shared])


def _is_of(train: ClassFolder, split: Path) -> bool:
    """Return whether the folder of a class in `split` is its folder of training images."""
    return os.path.samefile(train.folder, os.path.join(split, train.folder.name))


def _read_classes(
    split: Path, names: Sequence[str], entries: Entries
) -> tuple[tuple[ClassFolder, ...], list[str], str]:
    """List the files of these classes; return their folders, a problem if classes have no image, and a note."""
    ignored = Ignored(entries.ignored)
    if entries.images:
        ignored["images beside the class folders"] += len(entries.images)
    folders, empty = [], []
    for name in names:
        folder, others = class_files(split / name, split)
        folders.append(folder)
        ignored.update(others)
        if not folder.files:
            empty.append(f"{folder.folder} (it holds {formatted(others) or 'nothing'})")
    files = [name for folder in folders for name in folder.files]
    note = listing_note(str(split), len(files), len(folders), ignored, below=sum("/" in name for name in files))
    return tuple(folders), _empty(empty), note


def _empty(folders: Sequence[str]) -> list[str]:
    if not folders:
        return []
    return [
        f"{len(folders)} class folders hold no image that is read: {listed(folders)}. Put images there "
        f"({', '.join(ENDINGS)}), or leave these classes out: remove their folders, or name the others in "
        f"dataset.classes."
    ]


def _flat(split: Path, entries: Entries) -> str:
    return (
        f"{split} has no class folders; it holds {entries}. "
        f"Put each class's images in a folder of its own, {split.name}/<class>/, called as in train."
    )


def _missing(split: Path, names: Sequence[str], of: int, entries: Entries) -> list[str]:
    if not names:
        return []
    return [
        f"{split} lacks {len(names)} of train's {of} classes: {listed(names)}; it holds {entries}. "
        f"Add folders of these names with test images, or name the classes that both have in dataset.classes."
    ]


def _dangling(split: Path, names: Sequence[str]) -> list[str]:
    links = [f"{name} -> {os.readlink(split / name)}" for name in names]
    remedy = "Mend or remove the links."
    return [f"{split}: class folders are broken links: {listed(links)}. {remedy}"] if links else []


def class_name(folder: str) -> ClassName:
    """Return the ClassName of a folder; its WordNet id is the folder's name if that has the form of one, else None."""
    return ClassName(folder, folder if _WNID.fullmatch(folder) else None)


def class_folders(root: Path, classes: Sequence[ClassName], form: Form) -> StoredSplit:
    """Open the images of a folder with a folder for each class, root/<class>/<file>, which may be named by WordNet id.

    A folder ``train`` in the root is taken for it. Raises DataError if a class has no folder or no images, or if there
    is a folder of another class.
    """
    names = [name for entry in classes for name in (entry.name, entry.wnid) if name]
    is_divided = not any(os.path.isdir(root / name) for name in names if name != "train")
    split = (_split_folder(root, ("train",)) if is_divided else None) or root
    try:
        entries = entries_of(split)
    except OSError as reason:
        raise DataError([f"{split} cannot be listed: {reason}"]) from reason
    present = set(entries.folders)
    names = [next((key for key in (x.name, x.wnid) if key in present), x.name) for x in classes]
    missing = [name for name in names if name not in present]
    others = sorted(present - set(names))
    problems = [f"{split} has no folder of {listed(missing)}; it holds {entries}."] if missing else []
    problems += [f"{split}: the test images have no class of these folders: {listed(others)}."] if others else []
    if problems:
        raise DataError(problems)
    folders, empty, _ = _read_classes(split, names, entries)
    if empty:
        raise DataError(empty)
    return _split(folders, form)
