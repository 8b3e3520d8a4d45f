"""What the caller asked for, and what is wrong with it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from dist_condense.data.sets.subsets import SUBSETS
from dist_condense.system.errors import listed

VARIABLES = {
    "cifar10": "CIFAR10_ROOT",
    "cifar100": "CIFAR100_ROOT",
    "fashion_mnist": "FASHION_MNIST_ROOT",
    "imagenet": "IMAGENET_ROOT",
}
"""Of the environment, by the data set that one stands for."""


@dataclass(frozen=True)
class Request:
    """The arguments of open_dataset; its `*_problems` return texts, so that all can be told at once."""

    name: str
    root: Path | None
    size: int | None
    classes: str | Sequence[str] | None
    download: bool
    orientation: bool | None = None
    """Whether image files are turned by their EXIF orientation; None: see :class:`Facts`."""
    test: bool = True
    """Whether test images are needed; else a folder may be without them."""
    channels: int | None = None
    """Of images of the user's own; None: as their files decide."""

    def upright(self, usual: bool) -> bool:
        """Whether image files are turned by their EXIF orientation: `usual`, unless the caller asks otherwise."""
        return usual if self.orientation is None else self.orientation

    def wanted(self) -> tuple[str, ...] | None:
        """Class names in label order; None for all of them (also when the subset's name is unknown)."""
        if isinstance(self.classes, str):
            return SUBSETS.get(self.classes)
        return None if self.classes is None else tuple(self.classes)

    def problems(self) -> list[str]:
        """What is wrong whatever the disk holds: the size, and the list of classes in itself."""
        return self._size_problems() + self._list_problems()

    def root_problems(self) -> list[str]:
        """What is wrong with the folder; with download, one that does not exist yet is right."""
        variable = VARIABLES.get(self.name, "an environment variable that they name")
        remedy = f"Set dataset.root to its folder (shipped configs read it from {variable})."
        if self.root is None:
            return [f"{self.name}: no folder was given. {remedy}"]
        if self.root.is_dir() or (self.download and not self.root.exists()):
            return []
        return [f"{self.name}: {self.root} is not a folder. {remedy}"]

    def _size_problems(self) -> list[str]:
        if self.size is None or self.size >= 1:
            return []
        return [f"{self.name}: dataset.size is {self.size}; give pixels of a side, at least 1, or leave it out."]

    def _list_problems(self) -> list[str]:
        where = f"{self.name}: dataset.classes"
        if isinstance(self.classes, str) and self.classes not in SUBSETS:
            return [
                f"{where} is '{self.classes}', which is no named subset ({', '.join(SUBSETS)}). "
                f"Class names are given as a list, [a,b]."
            ]
        names = self.wanted()
        if names is None:
            return []
        twice = [name for name, times in Counter(names).items() if times > 1]
        empty = [] if names else [f"{where} is an empty list; name classes, or leave it out for all of them."]
        return empty + ([f"{where} names these more than once: {listed(twice)}."] if twice else [])


def choose(wanted: Sequence[str] | None, available: Sequence[str], where: str) -> tuple[tuple[int, ...], list[str]]:
    """Positions in `available` of the wanted names in order (None: all); a problem if some are missing."""
    position = {name: index for index, name in enumerate(available)}
    names = available if wanted is None else wanted
    missing = [name for name in names if name not in position]
    found = tuple(position[name] for name in names if name in position)
    if not missing:
        return found, []
    count = f"{len(missing)} of the {len(names)} classes that are wanted"
    remedy = "Name others in dataset.classes, or give null for all." if wanted is not None else ""
    there = f"There are {listed(available)}." if available else "There are none at all."
    told = f"{where}: {count} are not there: {listed(missing)}. {there} {remedy}"
    return found, [f"{told.strip()}{_meant(names)}"]


def _meant(names: Sequence[str]) -> str:
    """A single name may be meant as that of a subset."""
    close = get_close_matches(names[0], SUBSETS, 1) if len(names) == 1 else []
    return f" Or is the named subset {close[0]} meant?" if close else ""
