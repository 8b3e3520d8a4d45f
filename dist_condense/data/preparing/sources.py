"""What can be prepared: class folders and catalogue data sets. (Mixed tars: prepare_tars.py.)"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dist_condense.data.catalogue import is_url, open_dataset
from dist_condense.data.image_set import ClassName
from dist_condense.data.preparing.classes import ClassImages, encode
from dist_condense.data.reading.split import StoredSplit
from dist_condense.data.reading.store import Store
from dist_condense.data.reading.tiers import Reading
from dist_condense.data.shards.shards import ShardStore
from dist_condense.system.errors import DataError

CLI_WORDS = {
    "dataset.root": "SOURCE",
    "dataset.classes": "--classes",
    "dataset.size": "--size",
    "dataset.orientation": "--orientation",
    "null for": "none for",
}
"""What the keys of a run's config are called in this command."""


@dataclass(frozen=True)
class Source:
    """A data set as the units need it; a label is a position in `classes`."""

    dataset: str
    """The catalogue's name whose constants hold."""
    classes: tuple[ClassName, ...]
    channels: int
    size: int | None
    """Pixels of a side of what `images` gives, where all are of one size."""
    images: Callable[[str, int], ClassImages]
    """(train or val, label) -> the class's images."""
    upright: bool = False
    """Whether they are to be turned by their EXIF orientation."""
    notes: tuple[str, ...] = ()
    """What was read and what was passed over."""


@dataclass(frozen=True)
class StoredImages:
    """The files of one class in a store."""

    store: Store
    label: int

    def __len__(self) -> int:
        return self.store.count(self.label)

    def stem(self, index: int) -> str:
        """The file's name without suffix."""
        return Path(self.where(index)).stem

    def where(self, index: int) -> str:
        """The file's path."""
        return self.store.where(self.label, index)

    def read(self, index: int) -> bytes:
        """The file's bytes."""
        return self.store.read(self.label, index)


@dataclass(frozen=True)
class ShardImages(StoredImages):
    """The images of one class that was prepared before."""

    store: ShardStore

    def stem(self, index: int) -> str:
        """The name that it had then: without its position, which it is given again."""
        return re.sub(r"^\d{6,}_", "", Path(self.store.member(self.label, index)).stem)


@dataclass(frozen=True, eq=False)
class ArrayImages:
    """Decoded images uint8 [n, C, H, W] of a class, encoded as PNG: no pixel changes."""

    pixels: np.ndarray
    class_name: str

    def __len__(self) -> int:
        return len(self.pixels)

    def stem(self, index: int) -> str:
        """The position in the class."""
        return str(index)

    def where(self, index: int) -> str:
        """Class and position."""
        return f"class {self.class_name}, image {index}"

    def read(self, index: int) -> bytes:
        """The image as PNG."""
        image = self.pixels[index]
        return encode(Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)), png=True)[0]


def open_catalogued(
    name: str,
    root: str | None,
    size: int | None,
    classes: str | Sequence[str] | None,
    orientation: bool | None = None,
    channels: int | None = None,
) -> Source:
    """A data set of the catalogue, or class folders as `image_folder`; DataError with all that is wrong.

    A relative root is that of this process, wherever the images are read.
    """
    place = root if root is None or is_url(root) else Path(root).expanduser().absolute()
    opened = open_dataset(name, place, size=size, classes=classes, orientation=orientation, channels=channels)
    if opened.facts.floats or opened.facts.width:
        raise DataError([f"{name}: no image file holds its images, which are floats or not square; use it as it is."])
    splits = {"train": opened.train_split, "val": opened.test_split}

    def images(split: str, label: int) -> ClassImages:
        chosen = splits[split]
        if isinstance(chosen, StoredSplit):
            store = chosen.open_store([label], Reading(), now=False)
            return ShardImages(store, label) if isinstance(store, ShardStore) else StoredImages(store, label)
        pixels = chosen.open([label], Reading()).get(label, torch.arange(chosen.counts[label]))
        return ArrayImages(pixels.numpy(), opened.classes[label].name)

    size, upright = opened.size, False
    if isinstance(opened.train_split, StoredSplit):
        size, upright = None, opened.train_split.form.upright
    return Source(name, opened.classes, opened.channels, size, images, upright, opened.notes)


def in_words_of_the_command(problem: str) -> str:
    """A problem without the keys of a run's config."""
    for key, word in CLI_WORDS.items():
        problem = problem.replace(key, word)
    return problem
