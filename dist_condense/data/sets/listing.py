"""Listing of image files by their names alone, and counts of the ignored files by reason."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dist_condense.data.reading.store import ClassFolder
from dist_condense.system.errors import DataError, listed
from dist_condense.system.terminal import printable

ENDINGS = (
    *("jpg", "jpeg", "jpe", "jfif", "mpo", "png", "apng", "bmp", "tif", "tiff", "webp", "gif"),
    *("ppm", "pgm", "pbm", "pnm", "pfm"),
)
"""Endings of image files: all that Pillow knows for the formats of ``decode.SUFFIX_OF``. Of these, torchvision's
ImageFolder reads jpg, jpeg, png, ppm, bmp, pgm, tif, tiff and webp.
"""
SUFFIXES = tuple(f".{ending}" for ending in ENDINGS)
REVISITS = 10_000
"""Maximum number of times that links in a class lead to a folder again; they could multiply folders without end."""
HIDDEN, DANGLING, SPECIAL = "hidden", "broken links", "special files"
LOOP, OTHER = "links to a folder above", "with no or another ending"
_SURROGATE = re.compile("[\ud800-\udfff]")
_ENDING = re.compile(r".+(\.[a-z0-9]{1,8})", re.DOTALL)

Ignored = Counter[str]
"""Number of ignored entries by reason; the reason of a file that is no image is its ending."""


@dataclass
class Entries:
    """Sorted names of a folder's entries by kind."""

    folders: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    dangling: list[str] = field(default_factory=list)
    """Broken links whose names do not have the ending of an image."""
    ignored: Ignored = field(default_factory=Ignored)

    def __str__(self) -> str:
        """Format for a message: `the folders a, b, 5 images, 3 .txt`, or `nothing`."""
        folders = [f"the folders {listed(self.folders)}"] if self.folders else []
        images = [f"{len(self.images):,} images"] if self.images else []
        return ", ".join([*folders, *images, *([formatted(self.ignored)] if self.ignored else [])]) or "nothing"


def entries_of(folder: Path | str) -> Entries:
    """List the entries of one folder in a single scan; only links need a stat call. Raises OSError."""
    listing = Entries()
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                listing.ignored[HIDDEN] += 1
            elif _is(entry.is_dir):
                listing.folders.append(entry.name)
            elif not _is(entry.is_file):
                listing.ignored[DANGLING if entry.is_symlink() else SPECIAL] += 1
                if entry.is_symlink() and not is_image(entry.name):
                    listing.dangling.append(entry.name)
            elif is_image(entry.name):
                listing.images.append(entry.name)
            else:
                listing.ignored[ending(entry.name)] += 1
    for names in (listing.folders, listing.images, listing.dangling):
        names.sort()
    return listing


def class_files(folder: Path, split: Path) -> tuple[ClassFolder, Ignored]:
    """List the images of a class folder and of all folders below it, following links; count ignored files by reason.

    The order is that of torchvision's ImageFolder: folders by path, then files by name. A link to a folder that
    contains the link is not followed (torchvision follows it 40 times). Raises OSError for an unreadable folder, and
    DataError if links lead to folders again more than REVISITS times.

    :param split: the parent of the class folder.
    """
    ignored = Ignored()
    folders = sorted(_walk(folder, split, ignored))
    return ClassFolder(folder, tuple(f"{prefix}{name}" for _, prefix, names in folders for name in names)), ignored


def _walk(folder: Path, split: Path, ignored: Ignored) -> Iterator[tuple[str, str, list[str]]]:
    """Yield each folder's path relative to the class folder, the prefix of its file names, and its images.

    The prefix is the path with a slash, or empty for the class folder itself.
    """
    waiting, visited, revisits = [("", frozenset({_identity(split)}))], set[tuple[int, int]](), 0
    while waiting:
        path, parents = waiting.pop()
        current = os.path.join(folder, path)
        identity = _identity(current)
        if identity in parents:
            ignored[LOOP] += 1
            continue
        revisits += identity in visited
        visited.add(identity)
        if revisits > REVISITS:
            problem = f"links in it lead to folders again, more than {REVISITS:,} times"
            raise DataError([f"{folder}: {problem}. Remove them."])
        listing = entries_of(current)
        ignored.update(listing.ignored)
        prefix = f"{path}/" if path else ""
        yield path, prefix, listing.images
        above = parents | {identity}
        waiting.extend((f"{prefix}{name}", above) for name in listing.folders)


def _identity(folder: Path | str) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _is(test: Callable[[], bool]) -> bool:
    """Return the result of an entry's `is_file` or `is_dir`; return False if it fails, as for a circular link."""
    try:
        return test()
    except OSError:
        return False


def is_image(name: str) -> bool:
    """Return whether a file name has the ending of an image format."""
    return name.lower().endswith(SUFFIXES)


def ending(name: str) -> str:
    """Return the reason to ignore a file that is not an image: its ending, such as `.txt`, or OTHER."""
    match = _ENDING.fullmatch(name.lower())
    return match[1] if match else OTHER


def formatted(ignored: Ignored) -> str:
    """Format the counts of ignored files, largest first, such as `12 .avif, 3 .txt, 1 hidden`.

    At most five endings are named; the rest are summed.
    """
    ordered = sorted(ignored.items(), key=lambda entry: (-entry[1], entry[0]))
    endings = [reason for reason, _ in ordered if reason.startswith(".")]
    shown = Counter[str]()
    for reason, number in ordered:
        shown[OTHER if reason in endings[5:] else reason] += number
    return ", ".join(f"{number:,} {reason}" for reason, number in shown.items())


def listing_note(where: str, images: int, classes: int, ignored: Ignored, *, below: int = 0) -> str:
    """Format the note on a split: the numbers of its images, classes and ignored files.

    :param below: number of images in subfolders of the class folders.
    """
    nested = f" ({below:,} in folders below their class's)" if below else ""
    others = f"; ignored: {formatted(ignored)}" if ignored else ""
    return f"{where}: {images:,} images of {classes:,} classes{nested}{others}"


def non_utf8_names(names: Sequence[str], where: str) -> list[str]:
    """Return a problem if class names are not UTF-8, the encoding of a run's files; otherwise an empty list."""
    invalid = [printable(name) for name in names if not is_utf8(name)]
    remedy = "Rename them in every split (mv; convmv for many)."
    return [f"{where}: {len(invalid)} names of classes are not UTF-8: {listed(invalid)}. {remedy}"] if invalid else []


def is_utf8(name: str) -> bool:
    """Return whether a file's name is UTF-8; Python decodes other bytes as lone surrogates."""
    return not _SURROGATE.search(name)
