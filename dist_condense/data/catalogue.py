"""Catalogue of data sets by name."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dist_condense.data.image_set import ClassName, Facts, ImageSet
from dist_condense.data.sets.array_file import ARRAYS, open_arrays
from dist_condense.data.sets.digits import DIGITS, open_digits
from dist_condense.data.sets.folders import IMAGE_FOLDER, IMAGENET, open_image_folder, open_imagenet
from dist_condense.data.sets.huggingface import HUGGINGFACE, open_huggingface
from dist_condense.data.sets.packed import PACKED
from dist_condense.data.sets.request import Request
from dist_condense.data.shards.prepared import has_manifest, open_prepared
from dist_condense.system.errors import DataError

__all__ = ["KNOWN", "ClassName", "ImageSet", "is_url", "names", "open_dataset"]


@dataclass(frozen=True)
class Known:
    """Catalogue entry of a data set."""

    facts: Facts
    open: Callable[[Request], ImageSet]
    """Function that opens the data set in its original layout; prepared class shards are opened without it."""
    divisible: bool = False
    """Whether test images can be held out from class folders (`test_fraction`)."""


KNOWN: dict[str, Known] = {
    "digits": Known(DIGITS, open_digits),
    **{name: Known(packed.facts, packed) for name, packed in PACKED.items()},
    "imagenet": Known(IMAGENET, open_imagenet, divisible=True),
    "image_folder": Known(IMAGE_FOLDER, open_image_folder, divisible=True),
    "arrays": Known(ARRAYS, open_arrays),
    "huggingface": Known(HUGGINGFACE, open_huggingface),
}
"""Catalogue entries of all data sets by name; a new data set is added here."""


def names() -> tuple[str, ...]:
    """Return the names that open_dataset accepts."""
    return tuple(KNOWN)


def is_url(root: str | Path) -> bool:
    """Return whether a root is the url of a remote store (s3://, gs://, https://)."""
    return "://" in str(root)


def open_dataset(
    name: str,
    root: str | Path | None,
    *,
    size: int | None = None,
    classes: str | Sequence[str] | None = None,
    download: bool = False,
    orientation: bool | None = None,
    test: bool = True,
    channels: int | None = None,
    columns: Sequence[str] | None = None,
    test_fraction: float | None = None,
) -> ImageSet:
    """Open a data set without decoding its images.

    :param root: folder of the data set (None for digits), or the folder or url of its prepared class shards.
    :param size: height and width of images in pixels (None: the data set's own).
    :param classes: a named subset of ImageNet (see subsets.py), or class names in label order (None: all).
    :param download: whether torchvision may download the files.
    :param orientation: whether image files are rotated by their EXIF orientation (None: the default of the data set or
        of its shards).
    :param test: whether test images are required.
    :param channels: number of channels of an image folder, 1 (grey) or 3 (None: as prepared, or 1 if all headers are
        grey).
    :param columns: names of the columns with images and labels, for tables (None: the only ones of these types).
    :param test_fraction: fraction of each class that is held out as test images, above 0 and below 1, for a folder of
        class folders without train/ and val/ (None: the data set is divided already).
    :raises DataError: with every problem that was detected.
    """
    if name not in KNOWN:
        raise DataError([f"dataset.name is '{name}', which is not known; choose one of {', '.join(KNOWN)}."])
    facts = KNOWN[name].facts
    if channels not in (None, *((1, 3) if facts.own else (facts.channels,))):
        text = "give 1 (grey) or 3" if facts.own else f"{name} has {facts.channels}; leave it out"
        raise DataError([f"dataset.channels is {channels}; {text}."])
    if test_fraction is not None and not KNOWN[name].divisible:
        divisible = " or ".join(entry for entry, known in KNOWN.items() if known.divisible)
        problem = f"dataset.test_fraction is {test_fraction}, but {name} has test images of its own"
        raise DataError([f"{problem}; leave it out, or set dataset.name to {divisible} for a folder of class folders."])
    url = root if isinstance(root, str) and is_url(root) else None
    request = Request(
        name=name,
        root=None if root is None or url is not None else Path(os.path.expanduser(root)),
        size=size,
        classes=classes,
        download=download,
        orientation=orientation,
        test=test,
        channels=channels,
        columns=columns,
        test_fraction=test_fraction,
    )
    if url is not None:
        return open_prepared(url, request, facts)  # not str(url), which would hide its password
    if request.root is not None and has_manifest(request.root):
        return open_prepared(str(request.root), request, facts)
    return KNOWN[name].open(request)
