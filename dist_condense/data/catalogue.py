"""The data sets by name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dist_condense.data.image_set import ClassName, Facts, ImageSet
from dist_condense.data.sets.digits import DIGITS, open_digits
from dist_condense.data.sets.folders import IMAGE_FOLDER, IMAGENET, open_image_folder, open_imagenet
from dist_condense.data.sets.packed import PACKED
from dist_condense.data.sets.request import Request
from dist_condense.data.shards.prepared import has_manifest, open_prepared
from dist_condense.system.errors import DataError

__all__ = ["KNOWN", "ClassName", "ImageSet", "is_url", "names", "open_dataset"]


@dataclass(frozen=True)
class Known:
    """A data set of the catalogue."""

    facts: Facts
    open: Callable[[Request], ImageSet]
    """Opens what lies at the root, unless it is prepared class shards."""


KNOWN: dict[str, Known] = {
    "digits": Known(DIGITS, open_digits),
    **{name: Known(packed.facts, packed) for name, packed in PACKED.items()},
    "imagenet": Known(IMAGENET, open_imagenet),
    "image_folder": Known(IMAGE_FOLDER, open_image_folder),
}
"""A data set is added by a line here."""


def names() -> tuple[str, ...]:
    """The names that open_dataset knows."""
    return tuple(KNOWN)


def is_url(root: str | Path) -> bool:
    """Whether a root lies in a remote store (s3://, gs://, https://)."""
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
) -> ImageSet:
    """Open a data set without decoding it.

    `root` is its folder (None for digits), or the folder or url of its prepared class shards, which any data set can
    have; `size` pixels of a side (None: the data set's own); `classes` a named subset of ImageNet (see subsets.py) or
    class names, in label order (None: all of them); `download` lets torchvision fetch it; `orientation` turns image
    files by their EXIF orientation (None: see Facts); without `test` a folder needs no test images; `channels` of an
    image folder, 1 (grey) or 3 (None: grey where all its files are, by their headers, or as they were prepared). Raises
    DataError with every problem found.
    """
    if name not in KNOWN:
        raise DataError([f"dataset.name is '{name}', which is not known; choose one of {', '.join(KNOWN)}."])
    facts = KNOWN[name].facts
    if channels not in (None, *((1, 3) if facts.own else (facts.channels,))):
        text = "give 1 (grey) or 3" if facts.own else f"{name} has {facts.channels}; leave it out"
        raise DataError([f"dataset.channels is {channels}; {text}."])
    if isinstance(root, str) and is_url(root):
        return open_prepared(root, Request(name, None, size, classes, download, orientation, test, channels), facts)
    folder = None if root is None else Path(root).expanduser()
    request = Request(name, folder, size, classes, download, orientation, test, channels)
    if folder is not None and has_manifest(folder):
        return open_prepared(str(folder), request, facts)
    return KNOWN[name].open(request)
