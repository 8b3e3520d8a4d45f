"""The files below a folder by their names alone: which are read as images, and how many are passed over and why."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dist_condense.data.reading.store import ClassFolder
from dist_condense.system.errors import listed
from dist_condense.system.terminal import printable

ENDINGS = (
    *("jpg", "jpeg", "jpe", "jfif", "mpo", "png", "apng", "bmp", "tif", "tiff", "webp", "gif"),
    *("ppm", "pgm", "pbm", "pnm", "pfm"),
)
"""Of files that are read as images: all that Pillow knows for the formats of ``decode.SUFFIX_OF``. torchvision's
ImageFolder reads jpg, jpeg, png, ppm, bmp, pgm, tif, tiff and webp of them.
"""
SUFFIXES = tuple(f".{ending}" for ending in ENDINGS)
HIDDEN, DANGLING, SPECIAL = "hidden", "links that lead nowhere", "special files"
LOOP, OTHER = "links to a folder above", "with no or another ending"
_SURROGATE = re.compile("[\ud800-\udfff]")
_ENDING = re.compile(r".+(\.[a-z0-9]{1,8})", re.DOTALL)

PassedOver = Counter[str]
"""How many entries were passed over, by reason; the reason of a file that is no image is its ending."""


@dataclass
class Entries:
    """What a folder holds, names sorted."""

    folders: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    dangling: list[str] = field(default_factory=list)
    """Links that lead nowhere, whose names are not those of images."""
    passed: PassedOver = field(default_factory=PassedOver)

    def __str__(self) -> str:
        """For a message: `the folders a, b, 5 images, 3 .txt`; `nothing`."""
        folders = [f"the folders {listed(self.folders)}"] if self.folders else []
        images = [f"{len(self.images):,} images"] if self.images else []
        return ", ".join([*folders, *images, *([counted(self.passed)] if self.passed else [])]) or "nothing"


def entries_of(folder: Path | str) -> Entries:
    """One folder, by one scan without a stat per file (links apart). Raises OSError where it cannot be listed."""
    found = Entries()
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                found.passed[HIDDEN] += 1
            elif _is(entry.is_dir):
                found.folders.append(entry.name)
            elif not _is(entry.is_file):
                found.passed[DANGLING if entry.is_symlink() else SPECIAL] += 1
                if entry.is_symlink() and not is_image(entry.name):
                    found.dangling.append(entry.name)
            elif is_image(entry.name):
                found.images.append(entry.name)
            else:
                found.passed[ending(entry.name)] += 1
    for names in (found.folders, found.images, found.dangling):
        names.sort()
    return found


def class_files(folder: Path, split: Path) -> tuple[ClassFolder, PassedOver]:
    """The images of a class folder and of all folders below it, links followed, in the order of torchvision's
    ImageFolder: folder after folder by its path, in each by name.

    A link to a folder that it lies in is not followed (torchvision follows it 40 times). Raises OSError for a folder
    that cannot be listed.

    :param split: the folder that the class folder lies in.
    """
    passed = PassedOver()
    found = sorted(_walk(folder, split, passed))
    return ClassFolder(folder, tuple(f"{below}{name}" for _, below, names in found for name in names)), passed


def _walk(folder: Path, split: Path, passed: PassedOver) -> Iterator[tuple[str, str, list[str]]]:
    """(path of a folder below the class's, the same as a prefix of names, its images)."""
    waiting = [("", frozenset({_identity(split)}))]
    while waiting:
        path, above = waiting.pop()
        place = os.path.join(folder, path)
        here = _identity(place)
        if here in above:
            passed[LOOP] += 1
            continue
        found = entries_of(place)
        passed.update(found.passed)
        prefix = f"{path}/" if path else ""
        yield path, prefix, found.images
        waiting += [(f"{prefix}{name}", above | {here}) for name in found.folders]


def _identity(folder: Path | str) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _is(asked: Callable[[], bool]) -> bool:
    """Whether an entry is a file, or a folder; a link that leads in a circle is neither."""
    try:
        return asked()
    except OSError:
        return False


def is_image(name: str) -> bool:
    """By its ending."""
    return name.lower().endswith(SUFFIXES)


def ending(name: str) -> str:
    """The reason to pass over a file that is no image."""
    found = _ENDING.fullmatch(name.lower())
    return found[1] if found else OTHER


def counted(passed: PassedOver) -> str:
    """`12 .avif, 3 .txt, 1 hidden`: the largest first, files by at most five endings."""
    ordered = sorted(passed.items(), key=lambda entry: (-entry[1], entry[0]))
    endings = [reason for reason, _ in ordered if reason.startswith(".")]
    shown = Counter[str]()
    for reason, number in ordered:
        shown[OTHER if reason in endings[5:] else reason] += number
    return ", ".join(f"{number:,} {reason}" for reason, number in shown.items())


def told(what: str, images: int, classes: int, passed: PassedOver, below: int = 0) -> str:
    """The note on a split: what is read (`below`: how many from folders below their class's) and passed over."""
    deep = f" ({below:,} in folders below their class's)" if below else ""
    rest = f"; passed over: {counted(passed)}" if passed else ""
    return f"{what}: {images:,} images of {classes:,} classes{deep}{rest}"


def not_text(names: Sequence[str], where: str) -> list[str]:
    """A problem if some names of classes are no UTF-8, as the files that a run writes are."""
    wrong = [printable(name) for name in names if not is_utf8(name)]
    remedy = "Rename them in every split (mv; convmv for many)."
    return [f"{where}: {len(wrong)} names of classes are not UTF-8: {listed(wrong)}. {remedy}"] if wrong else []


def is_utf8(name: str) -> bool:
    """Whether a file can hold a name; Python reads other bytes in names of files as halves of surrogate pairs."""
    return not _SURROGATE.search(name)
