"""Prepared class shards, opened: the encoded images of chosen classes by position."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from os import pread
from pathlib import Path
from threading import Lock
from typing import Any

from dist_condense.data.shards.manifest import Manifest, Shard
from dist_condense.data.shards.tars import index_tar
from dist_condense.system.errors import SHOWN, DataError
from dist_condense.system.files import Descriptor, sha256_of
from dist_condense.system.remote import fetch, join, own_cache, scheme

OPEN_FILES = 64
"""Tars that a store holds open; the one not used for longest is closed first."""
OPENING_THREADS = 8
"""Shards fetched, hashed and indexed at once."""


@dataclass(frozen=True)
class _Tar:
    path: Path
    offsets: array[int]
    lengths: array[int]


class _Lazy:
    """A shard that is fetched, hashed and indexed once, by the first who needs it; anew where it is unpickled."""

    def __init__(self, root: str, shard: Shard, cache: Path | None, verify: bool) -> None:
        self._given = (root, shard, cache, verify)
        self._lock = Lock()
        self._tar: _Tar | None = None

    def opened(self) -> _Tar:
        """DataError where it is missing or is not what the manifest says."""
        with self._lock:
            if self._tar is None:
                self._tar = _open(*self._given)
            return self._tar

    def __reduce__(self) -> tuple[type[_Lazy], tuple[str, Shard, Path | None, bool]]:
        return _Lazy, self._given


@dataclass(frozen=True)
class _Class:
    shards: tuple[_Lazy, ...]
    ends: tuple[int, ...]
    """Images up to and with each shard."""
    image_bytes: int

    def find(self, index: int) -> tuple[_Tar, int]:
        """The tar that holds the image at this position, opened, and its position there."""
        if not 0 <= index < self.ends[-1]:
            raise IndexError(f"ShardStore: position {index} of a class of {self.ends[-1]} images.")
        number = bisect_right(self.ends, index)
        return self.shards[number].opened(), index - (self.ends[number - 1] if number else 0)


class ShardStore:
    """Encoded images of the chosen classes of one split; reads from any number of threads, can be pickled.

    A shard is opened (fetched, compared with the manifest, indexed) when the first of its images is read.

    :param root: folder of the manifest, or its url.
    :param labels: positions in manifest.classes.
    :param cache: where remote shards are kept on this node; None: in this user's folder under that for temporary files.
    :param verify: whether a shard is hashed when it is opened; size and count always are compared.
    """

    def __init__(
        self,
        root: str,
        manifest: Manifest,
        split: str,
        labels: Sequence[int],
        cache: Path | None = None,
        verify: bool = True,
    ) -> None:
        self.labels = tuple(labels)
        outside = [label for label in self.labels if not 0 <= label < len(manifest.classes)]
        if outside:
            raise ValueError(f"ShardStore: the manifest has labels 0..{len(manifest.classes) - 1}, not {outside}.")
        entries = manifest.splits[split]
        self._classes = {label: _class_of(root, entries[label], cache, verify) for label in self.labels}
        self._open_caches()

    def opened(self) -> ShardStore:
        """The same with all its shards open; DataError naming every one that is missing or unlike the manifest."""
        _open_all(shard for entry in self._classes.values() for shard in entry.shards)
        return self

    def _open_caches(self) -> None:
        self._descriptor, self._names = lru_cache(OPEN_FILES)(Descriptor), lru_cache(1)(_names)

    def count(self, label: int) -> int:
        """Images of this class; KeyError for one that was not chosen."""
        return self._classes[label].ends[-1]

    def encoded_bytes(self, label: int) -> int:
        """Bytes of all encoded images of this class."""
        return self._classes[label].image_bytes

    def read(self, label: int, index: int) -> bytes:
        """The encoded image at this position of the class.

        Raises DataError when the file is gone, ends before it or is not what the manifest says, IndexError and
        KeyError for what is not there.
        """
        tar, position = self._classes[label].find(index)
        try:
            descriptor = self._descriptor(tar.path)
            data = pread(descriptor.number, tar.lengths[position], tar.offsets[position])
        except OSError as reason:
            raise DataError([f"{tar.path}: it cannot be read any more ({reason}). Put it back."]) from reason
        if len(data) != tar.lengths[position]:
            raise DataError([f"{tar.path}: it ends before image {position}: it was changed while in use. Put it back."])
        return data

    def where(self, label: int, index: int) -> str:
        """`file.tar: member`, for messages."""
        return f"{self._classes[label].find(index)[0].path}: {self.member(label, index)}"

    def member(self, label: int, index: int) -> str:
        """The image's name in its tar; the tar's headers are read again, once for all of its images in order."""
        tar, position = self._classes[label].find(index)
        try:
            return self._names(tar.path)[position]
        except (DataError, IndexError, OSError):
            return f"image {position}"

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key not in ("_descriptor", "_names")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open_caches()


def _open_all(shards: Iterable[_Lazy]) -> None:
    """DataError with the problems of all of them."""

    def problems_of(shard: _Lazy) -> list[str]:
        try:
            shard.opened()
        except DataError as error:
            return error.problems
        return []

    with ThreadPoolExecutor(OPENING_THREADS) as pool:
        problems = [problem for found in pool.map(problems_of, shards) for problem in found]
    if problems:
        rest = [f"... and {len(problems) - SHOWN} more shards."] if len(problems) > SHOWN else []
        raise DataError(problems[:SHOWN] + rest)


def _open(root: str, shard: Shard, cache: Path | None, verify: bool) -> _Tar:
    path = _local(root, shard, cache)
    try:
        return _indexed(path, shard, verify)
    except OSError as reason:
        raise DataError([f"{path}: the shard cannot be read ({reason}). Prepare or copy the data again."]) from reason


def _indexed(path: Path, shard: Shard, verify: bool) -> _Tar:
    if not path.is_file():
        raise DataError([f"{path}: the shard is missing. Prepare or copy the data again."])
    size = path.stat().st_size
    if size != shard.bytes:
        raise _unlike(path, f"has {size} bytes, the manifest says {shard.bytes}")
    if verify and (digest := sha256_of(path)) != shard.sha256:
        raise _unlike(path, f"has the sha256 {digest}, the manifest says {shard.sha256}")
    samples = index_tar(path)
    if len(samples) != shard.count:
        raise _unlike(path, f"holds {len(samples)} images, the manifest says {shard.count}")
    offsets, lengths = array("q"), array("q")
    for sample in samples:
        offsets.append(sample.offset)
        lengths.append(sample.length)
    return _Tar(path, offsets, lengths)


def _names(path: Path) -> tuple[str, ...]:
    return tuple(sample.member for sample in index_tar(path))


def _local(root: str, shard: Shard, cache: Path | None) -> Path:
    url = join(root, shard.url)
    if scheme(url) is None:
        return Path(url)
    return fetch(url, cache or own_cache(), shard.bytes, shard.sha256)


def _unlike(path: Path, what: str) -> DataError:
    return DataError([f"{path}: it {what}. Delete it, then prepare, copy or download it again."])


def _class_of(root: str, shards: Sequence[Shard], cache: Path | None, verify: bool) -> _Class:
    return _Class(
        tuple(_Lazy(root, shard, cache, verify) for shard in shards),
        tuple(accumulate(shard.count for shard in shards)),
        sum(shard.image_bytes for shard in shards),
    )
