"""Stores of encoded images by class: in folders, in shards or in memory."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from dist_condense.system.files import read_regular

READING_THREADS = 16
"""Number of files read into memory at once; several, because a network file system responds slowly."""
FILE_BYTES = 2**28
"""Limit of an image file in bytes: three for each pixel of the largest image that Pillow accepts."""


class Store(Protocol):
    """Protocol of encoded images by class and position, readable from several threads at once.

    Positions run from 0 to count - 1 in the data set's fixed order.
    """

    @property
    def labels(self) -> tuple[int, ...]:
        """Labels of the classes in the store."""
        ...

    def count(self, label: int) -> int:
        """Return the number of images of a class."""
        ...

    def encoded_bytes(self, label: int) -> int:
        """Return the total bytes of a class's files."""
        ...

    def read(self, label: int, index: int) -> bytes:
        """Return the encoded bytes of one image. Raises OSError, or DataError for a damaged shard."""
        ...

    def where(self, label: int, index: int) -> str:
        """Return the location of an image, such as its path, for messages."""
        ...


@dataclass(frozen=True)
class ClassFolder:
    """Files of one class: their folder, and their sorted names relative to it.

    Names are stored instead of paths because they need less memory: ImageNet has 1.3 million files.
    """

    folder: Path
    files: tuple[str, ...]


@dataclass(frozen=True)
class FolderStore:
    """A Store with one folder per class."""

    folders: Mapping[int, ClassFolder]

    @property
    def labels(self) -> tuple[int, ...]:
        return tuple(self.folders)

    def count(self, label: int) -> int:
        return len(self.folders[label].files)

    def encoded_bytes(self, label: int) -> int:
        """Return the total size in bytes of a class's files.

        This needs one stat per file, which is slow on a network file system.
        """
        folder = self.folders[label]
        return sum(os.stat(folder.folder / name).st_size for name in folder.files)

    def read(self, label: int, index: int) -> bytes:
        """Read a regular file of at most FILE_BYTES bytes. Raises OSError."""
        return read_regular(self._path(label, index), FILE_BYTES)

    def where(self, label: int, index: int) -> str:
        return str(self._path(label, index))

    def _path(self, label: int, index: int) -> Path:
        folder = self.folders[label]
        return folder.folder / folder.files[index]


class RamStore:
    """A Store that keeps a copy of another store's files in memory."""

    def __init__(self, store: Store) -> None:
        self._store = store
        with ThreadPoolExecutor(READING_THREADS) as pool:
            self._files: dict[int, Sequence[bytes]] = {
                label: list(pool.map(partial(store.read, label), range(store.count(label)))) for label in store.labels
            }
        self.labels = store.labels

    def count(self, label: int) -> int:
        return len(self._files[label])

    def encoded_bytes(self, label: int) -> int:
        return sum(map(len, self._files[label]))

    def read(self, label: int, index: int) -> bytes:
        return self._files[label][index]

    def where(self, label: int, index: int) -> str:
        return self._store.where(label, index)
