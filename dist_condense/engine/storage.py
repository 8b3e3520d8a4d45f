"""Where checkpoints are kept: a folder that all nodes see, or an object store. An entry is whole or not there."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dist_condense.data.errors import DataError
from dist_condense.data.files import flush_names, write_atomically
from dist_condense.data.remote import filesystem, scheme


class Storage(Protocol):
    """Named bytes; names are relative paths with ``/``. Failures are OSErrors that name the entry."""

    def write(self, name: str, data: bytes) -> None:
        """Make or replace an entry, as a whole; it survives a power cut once this returns."""
        ...

    def read(self, name: str) -> bytes:
        """All bytes of an entry; FileNotFoundError when there is none."""
        ...

    def names(self) -> list[str]:
        """First parts of the names of all entries, sorted."""
        ...

    def remove(self, name: str) -> None:
        """The entry, or all entries below ``name/``; nothing when there are none."""
        ...


@dataclass(frozen=True)
class Folder:
    """A local or shared folder."""

    path: Path

    def write(self, name: str, data: bytes) -> None:
        """Aside, synced, renamed; the folder synced too, since a rename is an entry in it."""
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, data)
        for folder in (target.parent, target.parent.parent):
            flush_names(folder)

    def read(self, name: str) -> bytes:
        """The file."""
        return (self.path / name).read_bytes()

    def names(self) -> list[str]:
        """What lies in the folder."""
        return sorted(entry.name for entry in os.scandir(self.path)) if self.path.is_dir() else []

    def remove(self, name: str) -> None:
        """File or folder."""
        target = self.path / name
        if target.is_dir():
            shutil.rmtree(target, ignore_errors=True)
        else:
            target.unlink(missing_ok=True)

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class Bucket:
    """Below an url of s3:// or gs://, by fsspec; a put is whole by itself there."""

    url: str

    def write(self, name: str, data: bytes) -> None:
        """One put."""
        filesystem(self.url).pipe_file(self._at(name), data)

    def read(self, name: str) -> bytes:
        """One get."""
        return bytes(filesystem(self.url).cat_file(self._at(name)))

    def names(self) -> list[str]:
        """By listing; never from fsspec's cache."""
        store = filesystem(self.url)
        store.invalidate_cache()
        try:
            return sorted(path.rstrip("/").rsplit("/", 1)[-1] for path in store.ls(self.url, detail=False))
        except FileNotFoundError:
            return []

    def remove(self, name: str) -> None:
        """All below it."""
        store = filesystem(self.url)
        if store.exists(self._at(name)):
            store.rm(self._at(name), recursive=True)

    def _at(self, name: str) -> str:
        return f"{self.url.rstrip('/')}/{name}"

    def __str__(self) -> str:
        return self.url


def storage(place: str | Path) -> Storage:
    """By its address: an url is a bucket, all else is a path. DataError for one that cannot be written to."""
    found = scheme(str(place))
    if found == "https":
        raise DataError([f"'{place}' cannot be written to: give a path, s3:// or gs://."])
    return Folder(Path(place)) if found is None else Bucket(str(place))
