"""The data sets by name."""

from collections.abc import Callable, Sequence
from pathlib import Path

from dist_condense.data.digits import open_digits
from dist_condense.data.errors import DataError
from dist_condense.data.folders import open_image_folder, open_imagenet
from dist_condense.data.image_set import ClassName, ImageSet
from dist_condense.data.packed import PACKED
from dist_condense.data.request import Request

__all__ = ["OPENERS", "ClassName", "ImageSet", "names", "open_dataset"]

OPENERS: dict[str, Callable[[Request], ImageSet]] = {
    "digits": open_digits,
    **PACKED,
    "imagenet": open_imagenet,
    "image_folder": open_image_folder,
}
"""A data set is added by a line here."""


def names() -> tuple[str, ...]:
    """The names that open_dataset knows."""
    return tuple(OPENERS)


def open_dataset(
    name: str,
    root: str | Path | None,
    *,
    size: int | None = None,
    classes: str | Sequence[str] | None = None,
    download: bool = False,
) -> ImageSet:
    """Open a data set without decoding it.

    `root` is its folder (None for digits); `size` pixels of a side (None: the data set's own); `classes` a
    named subset of ImageNet (see subsets.py) or class names, in label order (None: all of them); `download`
    lets torchvision fetch it. Raises DataError with every problem found.
    """
    if name not in OPENERS:
        raise DataError([f"dataset.name is '{name}', which is not known; choose one of {', '.join(OPENERS)}."])
    folder = None if root is None else Path(root).expanduser()
    return OPENERS[name](Request(name, folder, size, classes, download))
