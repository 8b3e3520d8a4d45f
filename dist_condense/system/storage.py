"""Where checkpoints are kept: a folder that all nodes see, or an object store. An entry is whole or not there."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from dist_condense.system.credentials import revealed
from dist_condense.system.errors import DataError
from dist_condense.system.files import flush_names, read_regular, stays_below, write_atomically
from dist_condense.system.remote import filesystem, join, persistent, scheme


class Storage(Protocol):
    """Named bytes; names are relative paths with ``/`` (:func:`entry`). Failures are OSErrors that name the entry."""

    def write(self, name: str, data: bytes) -> None:
        """Make or replace an entry, as a whole; it survives a power cut once this returns."""
        ...

    def read(self, name: str) -> bytes:
        """All bytes of an entry; FileNotFoundError when there is none."""
        ...

    def head(self, name: str, count: int) -> bytes:
        """The first bytes of an entry, at most so many; FileNotFoundError when there is none."""
        ...

    def names(self) -> list[str]:
        """First parts of the names of all entries, sorted."""
        ...

    def sizes(self, name: str) -> dict[str, int]:
        """Bytes of each entry directly below ``name/``, by the last part of its name; by one listing."""
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
        target = self.path / entry(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, data)
        for folder in (target.parent, target.parent.parent):
            flush_names(folder)

    def read(self, name: str) -> bytes:
        """The file."""
        return read_regular(self.path / entry(name))

    def head(self, name: str, count: int) -> bytes:
        """Its beginning."""
        return read_regular(self.path / entry(name), first=count)

    def names(self) -> list[str]:
        """What lies in the folder."""
        return sorted(found.name for found in os.scandir(self.path)) if self.path.is_dir() else []

    def sizes(self, name: str) -> dict[str, int]:
        """Of all that lies in a folder; a link that leads nowhere is left out."""
        folder, found = self.path / entry(name), dict[str, int]()
        for file in os.scandir(folder) if folder.is_dir() else ():
            with suppress(FileNotFoundError):
                found[file.name] = file.stat().st_size
        return found

    def remove(self, name: str) -> None:
        """File or folder."""
        target = self.path / entry(name)
        if target.is_dir():
            shutil.rmtree(target, ignore_errors=True)
        else:
            target.unlink(missing_ok=True)

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class Bucket:
    """Below an url of s3:// or gs://, by fsspec; a put is whole by itself there. A store that is away for some
    seconds is waited for.
    """

    url: str

    def write(self, name: str, data: bytes) -> None:
        """One put."""
        self._asked(entry(name), lambda store, place: store.pipe_file(place, data))

    def read(self, name: str) -> bytes:
        """One get."""
        return bytes(self._asked(entry(name), lambda store, place: store.cat_file(place)))

    def head(self, name: str, count: int) -> bytes:
        """One get of a range."""
        return bytes(self._asked(entry(name), lambda store, place: store.cat_file(place, start=0, end=count)))

    def names(self) -> list[str]:
        """By listing; never from fsspec's cache. None in a bucket that is not there: the first write refuses it."""
        return sorted(self._listed(""))

    def sizes(self, name: str) -> dict[str, int]:
        """By listing as well."""
        return self._listed(entry(name))

    def _listed(self, name: str) -> dict[str, int]:
        try:
            found = self._asked(name, _listed)
        except FileNotFoundError:
            return {}
        return {each["name"].rstrip("/").rsplit("/", 1)[-1]: int(each.get("size") or 0) for each in found}

    def remove(self, name: str) -> None:
        """All below it."""
        with suppress(FileNotFoundError):
            self._asked(entry(name), _removed)

    def _asked(self, name: str, action: Callable[[Any, str], Any]) -> Any:
        """The result of an action on (the store, the entry's address). Failures name the address."""
        place = join(self.url, name) if name else self.url
        return persistent(place, lambda: action(filesystem(self.url), revealed(place).rstrip("/")))

    def __str__(self) -> str:
        return self.url


def entry(name: str) -> str:
    """A name that stays below the place of its storage; OSError for every other."""
    if not stays_below(name):
        raise OSError(errno.EINVAL, "not the name of an entry", name)
    return name


def _listed(store: Any, place: str) -> list[dict[str, Any]]:
    store.invalidate_cache()
    return list(store.ls(place, detail=True))


def _removed(store: Any, place: str) -> None:
    if store.exists(place):
        store.rm(place, recursive=True)


def storage(place: str | Path) -> Storage:
    """By its address: an url is a bucket, all else is a path. DataError for one that cannot be written to."""
    found = scheme(str(place))
    if found == "https":
        raise DataError([f"'{place}' cannot be written to: give a path, s3:// or gs://."])
    return Folder(Path(place)) if isinstance(place, Path) or found is None else Bucket(place)
