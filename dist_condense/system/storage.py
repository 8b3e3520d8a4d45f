"""Storage of checkpoints in a folder shared by all nodes or in an object store; entries are written atomically."""

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
    """Store of named byte strings, called entries.

    The name of an entry is a relative path with ``/`` as separator. On failure, methods raise OSError with the name.
    """

    def write(self, name: str, data: bytes) -> None:
        """Create or replace an entry atomically; it survives a power cut once this returns."""
        ...

    def read(self, name: str, limit: int) -> bytes:
        """Read all bytes of an entry.

        Raises FileNotFoundError if it is missing, and OSError if it has more than ``limit`` bytes.
        """
        ...

    def head(self, name: str, count: int) -> bytes:
        """Read at most the first ``count`` bytes of an entry. Raises FileNotFoundError if it is missing."""
        ...

    def names(self) -> list[str]:
        """Return the first path components of all entry names, sorted and without duplicates."""
        ...

    def sizes(self, name: str) -> dict[str, int]:
        """Return the sizes in bytes of the entries directly below ``name/``, by the last component of their names.

        The store is listed only once.
        """
        ...

    def remove(self, name: str) -> None:
        """Remove the entry ``name``, or all entries below ``name/``; do nothing if there are none."""
        ...


@dataclass(frozen=True)
class Folder:
    """Storage in a local or shared folder."""

    path: Path

    def write(self, name: str, data: bytes) -> None:
        """Write and sync a temporary file, rename it, and sync the folders whose directory entries change.

        A folder in place of the entry, and a file in place of its folder, are replaced.
        """
        target = self.path / checked(name)
        _make_way(target, self.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, data)
        for folder in (target.parent, target.parent.parent):
            flush_names(folder)

    def read(self, name: str, limit: int) -> bytes:
        return read_regular(self.path / checked(name), limit)

    def head(self, name: str, count: int) -> bytes:
        return read_regular(self.path / checked(name), first=count)

    def names(self) -> list[str]:
        return sorted(os.listdir(self.path)) if self.path.is_dir() else []

    def sizes(self, name: str) -> dict[str, int]:
        """Return the size in bytes of each file in a folder; broken links are omitted."""
        folder, sizes = self.path / checked(name), dict[str, int]()
        for file in os.scandir(folder) if folder.is_dir() else ():
            with suppress(FileNotFoundError):
                sizes[file.name] = file.stat().st_size
        return sizes

    def remove(self, name: str) -> None:
        target = self.path / checked(name)
        if target.is_dir():
            shutil.rmtree(target, ignore_errors=True)
        else:
            with suppress(FileNotFoundError, NotADirectoryError):
                target.unlink()

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class Bucket:
    """Storage in an object store, below an s3:// or gs:// url, through fsspec.

    A PUT request is atomic; :func:`persistent` retries requests while the store does not answer.
    """

    url: str

    def write(self, name: str, data: bytes) -> None:
        """Write an object in one PUT request."""
        self._request(checked(name), lambda store, url: store.pipe_file(url, data))

    def read(self, name: str, limit: int) -> bytes:
        data = self.head(name, limit + 1)
        if len(data) > limit:
            raise OSError(errno.EFBIG, f"more than {limit} bytes", join(self.url, name))
        return data

    def head(self, name: str, count: int) -> bytes:
        """Read at most the first ``count`` bytes of an object in one GET request with a range."""
        return bytes(self._request(checked(name), lambda store, url: _first(store, url, count)))

    def names(self) -> list[str]:
        """List the names without fsspec's cache; a missing bucket counts as empty until a write reports it."""
        return sorted(self._listed(""))

    def sizes(self, name: str) -> dict[str, int]:
        return self._listed(checked(name))

    def _listed(self, name: str) -> dict[str, int]:
        try:
            objects = self._request(name, _listed)
        except FileNotFoundError:
            return {}
        return {each["name"].rstrip("/").rsplit("/", 1)[-1]: int(each.get("size") or 0) for each in objects}

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._request(checked(name), _removed)

    def _request(self, name: str, action: Callable[[Any, str], Any]) -> Any:
        """Call ``action`` with the file system and the full address of an entry, and return its result.

        Transient errors are retried; messages of errors contain the masked address.
        """
        url = join(self.url, name) if name else self.url
        return persistent(url, lambda: action(filesystem(self.url), revealed(url).rstrip("/")))

    def __str__(self) -> str:
        return self.url


def checked(name: str) -> str:
    """Return ``name`` if it stays inside its storage location. Raises OSError otherwise."""
    if not stays_below(name):
        raise OSError(errno.EINVAL, "not the name of an entry", name)
    return name


def _make_way(target: Path, root: Path) -> None:
    """Remove a folder at ``target``, and a file in place of its folder; other writers may do the same.

    A file in place of ``root``, the folder of the storage, is kept.
    """
    folder = target.parent
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target, ignore_errors=True)
    elif folder != root and folder.exists() and not folder.is_dir():
        with suppress(OSError):
            folder.unlink()


def _first(store: Any, url: str, count: int) -> bytes:
    try:
        return bytes(store.cat_file(url, start=0, end=count))
    except FileNotFoundError:
        raise
    except Exception:  # each kind of store has its own for the range of an empty object
        if store.size(url) == 0:
            return b""
        raise


def _listed(store: Any, url: str) -> list[dict[str, Any]]:
    store.invalidate_cache()
    return list(store.ls(url, detail=True))


def _removed(store: Any, url: str) -> None:
    if store.exists(url):
        store.rm(url, recursive=True)


def storage(location: str | Path) -> Storage:
    """Return the storage at a path or url. Raises DataError for a url that cannot be written to."""
    kind = scheme(str(location))
    if kind == "https":
        raise DataError([f"'{location}' cannot be written to: give a path, s3:// or gs://."])
    return Folder(Path(location)) if isinstance(location, Path) or kind is None else Bucket(location)
