"""Encoded images of single classes, as they lie in folders, in shards or in memory."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

READING_THREADS = 16
"""Files that are read at once into memory: a network file system answers each late."""


class Store(Protocol):
    """Encoded images by class and position; read from several threads at once.

    Positions run from 0 to count - 1 in the data set's fixed order.
    """

    @property
    def labels(self) -> tuple[int, ...]:
        """The classes that can be read here."""
        ...

    def count(self, label: int) -> int:
        """Images of this class."""
        ...

    def encoded_bytes(self, label: int) -> int:
        """Bytes of this class's files together."""
        ...

    def read(self, label: int, index: int) -> bytes:
        """The file of one image. Raises OSError."""
        ...

    def where(self, label: int, index: int) -> str:
        """The name of that file, for messages."""
        ...


@dataclass(frozen=True)
class ClassFolder:
    """The files of one class: their folder and sorted names (names, not paths: ImageNet has 1.3 million)."""

    folder: Path
    files: tuple[str, ...]


@dataclass(frozen=True)
class FolderStore:
    """One folder per class."""

    folders: Mapping[int, ClassFolder]

    @property
    def labels(self) -> tuple[int, ...]:
        """The classes given."""
        return tuple(self.folders)

    def count(self, label: int) -> int:
        """Files of this class."""
        return len(self.folders[label].files)

    def encoded_bytes(self, label: int) -> int:
        """By one stat per file, which a network file system answers slowly."""
        folder = self.folders[label]
        return sum(os.stat(folder.folder / name).st_size for name in folder.files)

    def read(self, label: int, index: int) -> bytes:
        """The file."""
        return self._path(label, index).read_bytes()

    def where(self, label: int, index: int) -> str:
        """Its path."""
        return str(self._path(label, index))

    def _path(self, label: int, index: int) -> Path:
        folder = self.folders[label]
        return folder.folder / folder.files[index]


class RamStore:
    """A copy of another store's files in memory."""

    def __init__(self, store: Store) -> None:
        self._store = store
        with ThreadPoolExecutor(READING_THREADS) as pool:
            self._files: dict[int, Sequence[bytes]] = {
                label: list(pool.map(partial(store.read, label), range(store.count(label)))) for label in store.labels
            }
        self.labels = store.labels

    def count(self, label: int) -> int:
        """Files of this class."""
        return len(self._files[label])

    def encoded_bytes(self, label: int) -> int:
        """Bytes held."""
        return sum(map(len, self._files[label]))

    def read(self, label: int, index: int) -> bytes:
        """The copy."""
        return self._files[label][index]

    def where(self, label: int, index: int) -> str:
        """Where it was copied from."""
        return self._store.where(label, index)
