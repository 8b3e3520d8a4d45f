"""The arguments of open_dataset, and checks that do not depend on the kind of data set."""

import os
import stat
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from dist_condense.data.sets.subsets import SUBSETS
from dist_condense.system.errors import listed
from dist_condense.system.files import PATH_LENGTH

VARIABLES = {
    "cifar10": "CIFAR10_ROOT",
    "cifar100": "CIFAR100_ROOT",
    "fashion_mnist": "FASHION_MNIST_ROOT",
    "imagenet": "IMAGENET_ROOT",
}
"""Environment variable from which shipped configs read a data set's root, by the name of the data set."""

LARGEST_SIDE = 9459
"""Largest height and width in pixels, whose square is just below Pillow's limit (Image.MAX_IMAGE_PIXELS)."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """The arguments of open_dataset; its checks return messages, so that all problems can be reported at once."""

    name: str
    root: Path | None
    size: int | None
    classes: str | Sequence[str] | None
    download: bool
    orientation: bool | None = None
    """Whether image files are rotated by their EXIF orientation; None for the data set's default."""
    test: bool = True
    """Whether test images are required."""
    channels: int | None = None
    """Number of channels of the user's own images; None: decided by their files."""
    columns: Sequence[str] | None = None
    """Names of the columns with images and labels of a table; None: the only ones of these types."""
    test_fraction: float | None = None
    """Fraction of each class of a folder of class folders that is held out as test images; None: the folder is divided
    already, into train/ and val/."""

    def upright(self, default: bool) -> bool:
        """Return whether to rotate image files by their EXIF orientation: `orientation`, or `default` if it is None."""
        return default if self.orientation is None else self.orientation

    def class_names(self) -> tuple[str, ...] | None:
        """Return the requested classes in label order; None if all are requested, and for an unknown subset."""
        if isinstance(self.classes, str):
            return SUBSETS.get(self.classes)
        return None if self.classes is None else tuple(self.classes)

    def problems(self) -> list[str]:
        """Return the problems of size and classes that can be detected without the files."""
        return self._size_problems() + self._list_problems()

    def root_problems(self) -> list[str]:
        """Return the problems of the root folder, which may be missing if download is requested."""
        variable = VARIABLES.get(self.name, "an environment variable that they name")
        remedy = f"Set dataset.root to its folder (shipped configs read it from {variable})."
        if self.root is None:
            return [f"{self.name}: no folder was given. {remedy}"]
        try:
            if stat.S_ISDIR(os.stat(self.root).st_mode):
                return []
            reason = "is not a folder"
        except FileNotFoundError:
            if self.download:
                return []
            reason = "is not a folder"
        except (OSError, ValueError) as error:  # a folder that may not be searched, or a name that is none
            reason = f"cannot be read: {getattr(error, 'strerror', None) or error}"
        return [f"{self.name}: {self.root!s:.{PATH_LENGTH}} {reason}. {remedy}"]

    def _size_problems(self) -> list[str]:
        if self.size is None or 1 <= self.size <= LARGEST_SIDE:
            return []
        return [
            f"{self.name}: dataset.size is {self.size}; give pixels of a side, 1 to {LARGEST_SIDE}, or leave it out."
        ]

    def _list_problems(self) -> list[str]:
        where = f"{self.name}: dataset.classes"
        if isinstance(self.classes, str) and self.classes not in SUBSETS:
            return [
                f"{where} is '{self.classes}', which is no named subset ({', '.join(SUBSETS)}). "
                f"Class names are given as a list, [a,b]."
            ]
        names = self.class_names()
        if names is None:
            return []
        twice = [name for name, count in Counter(names).items() if count > 1]
        empty = [] if names else [f"{where} is an empty list; name classes, or leave it out for all of them."]
        return empty + ([f"{where} names these more than once: {listed(twice)}."] if twice else [])


def select_classes(
    requested: Sequence[str] | None, available: Sequence[str], where: str
) -> tuple[tuple[int, ...], list[str]]:
    """Return the positions in `available` of the requested names (None: all), and a problem if names are missing.

    :param where: source of the available names, for the message.
    """
    position = {name: index for index, name in enumerate(available)}
    names = available if requested is None else requested
    missing = [name for name in names if name not in position]
    positions = tuple(position[name] for name in names if name in position)
    if not missing:
        return positions, []
    count = f"{len(missing)} of the {len(names)} requested classes"
    remedy = "Name others in dataset.classes, or give null for all." if requested is not None else ""
    existing = f"There are {listed(available)}." if available else "There are none at all."
    problem = f"{where}: {count} do not exist: {listed(missing)}. {existing} {remedy}"
    return positions, [f"{problem.strip()}{_subset_hint(names)}"]


def _subset_hint(names: Sequence[str]) -> str:
    """Return a hint if there is a single name and it resembles that of a subset; otherwise an empty text."""
    close = get_close_matches(names[0], SUBSETS, 1) if len(names) == 1 else []
    return f" Or is the named subset {close[0]} meant?" if close else ""
