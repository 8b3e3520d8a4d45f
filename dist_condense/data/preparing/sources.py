"""Sources of images to prepare: class folders and catalogue data sets (tars of mixed classes are in tars.py)."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dist_condense.data.catalogue import is_url, open_dataset
from dist_condense.data.image_set import ClassName
from dist_condense.data.preparing.classes import EncodedImages, encode
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
    "dataset.test_fraction": "--test-fraction",
    "null for": "none for",
}
"""Words of the command line that replace those of a run's config in messages, by the word in the config."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set to prepare; a label is a position in `classes`."""

    dataset: str
    """Name of the catalogue data set whose facts apply."""
    classes: tuple[ClassName, ...]
    channels: int
    size: int | None
    """Height and width in pixels if all images of the source have one size; otherwise None."""
    images: Callable[[str, int], EncodedImages]
    """Function (split, label) that returns the images of a class; the split is train or val."""
    upright: bool = False
    """Whether images are rotated by their EXIF orientation."""
    notes: tuple[str, ...] = ()
    """Messages that report which files were read and which were ignored."""


@dataclass(frozen=True)
class StoredImages:
    """EncodedImages of one class in a store."""

    store: Store
    label: int

    def __len__(self) -> int:
        return self.store.count(self.label)

    def stem(self, index: int) -> str:
        return Path(self.where(index)).stem

    def where(self, index: int) -> str:
        return self.store.where(self.label, index)

    def read(self, index: int) -> bytes:
        return self.store.read(self.label, index)


@dataclass(frozen=True)
class ShardImages(StoredImages):
    """EncodedImages of one class in previously prepared shards."""

    store: ShardStore

    def stem(self, index: int) -> str:
        """Return the original name, without the position that the earlier preparation prepended."""
        return re.sub(r"^\d{6,}_", "", Path(self.store.member(self.label, index)).stem)


@dataclass(frozen=True, eq=False)
class ArrayImages:
    """EncodedImages of one class in an array uint8 [n, C, H, W]; each image is encoded as PNG, without loss."""

    pixels: np.ndarray
    class_name: str

    def __len__(self) -> int:
        return len(self.pixels)

    def stem(self, index: int) -> str:
        return str(index)

    def where(self, index: int) -> str:
        return f"class {self.class_name}, image {index}"

    def read(self, index: int) -> bytes:
        image = self.pixels[index]
        return encode(Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)), png=True)[0]


def open_catalogued(
    name: str,
    root: str | None,
    *,
    size: int | None,
    classes: str | Sequence[str] | None,
    orientation: bool | None = None,
    channels: int | None = None,
    test_fraction: float | None = None,
) -> Source:
    """Open a catalogue data set as a source, with the arguments of open_dataset.

    Class folders that belong to no other data set are opened under the name `image_folder`.
    A relative root is resolved against the working directory of this process, even if other processes read the images.
    Raises DataError with all problems, and for images that are floats or not square.
    """
    path = root if root is None or is_url(root) else Path(os.path.expanduser(root)).absolute()
    opened = open_dataset(
        name,
        path,
        size=size,
        classes=classes,
        orientation=orientation,
        channels=channels,
        test_fraction=test_fraction,
    )
    if opened.facts.floats or opened.facts.width:
        raise DataError([f"{name}: no image file holds its images, which are floats or not square; use it as it is."])
    splits = {"train": opened.train_split, "val": opened.test_split}

    def images(name: str, label: int) -> EncodedImages:
        split = splits[name]
        if isinstance(split, StoredSplit):
            store = split.open_store([label], Reading(), now=False)
            return ShardImages(store, label) if isinstance(store, ShardStore) else StoredImages(store, label)
        pixels = split.open([label], Reading()).get(label, torch.arange(split.counts[label]))
        return ArrayImages(pixels.numpy(), opened.classes[label].name)

    stored = opened.train_split if isinstance(opened.train_split, StoredSplit) else None
    return Source(
        dataset=name,
        classes=opened.classes,
        channels=opened.channels,
        size=None if stored else opened.size,
        images=images,
        upright=stored is not None and stored.form.upright,
        notes=opened.notes,
    )


def for_command_line(problem: str) -> str:
    """Rephrase a problem for the command line, without the keys of a run's config."""
    for key, word in CLI_WORDS.items():
        problem = problem.replace(key, word)
    return problem
