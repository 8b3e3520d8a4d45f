"""Prepared class shards, opened: the encoded images of chosen classes by position."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from os import pread
from pathlib import Path
from typing import Any

from dist_condense.data.errors import SHOWN, DataError
from dist_condense.data.files import Descriptor, sha256_of
from dist_condense.data.manifest import Manifest, Shard
from dist_condense.data.remote import fetch, join, own_cache, scheme
from dist_condense.data.tars import index_tar

OPEN_FILES = 64
"""Tars that a store holds open; the one not used for longest is closed first."""
OPENING_THREADS = 8
"""Shards fetched, hashed and indexed at once."""


@dataclass(frozen=True)
class _Tar:
    path: Path
    offsets: array[int]
    lengths: array[int]


@dataclass(frozen=True)
class _Class:
    tars: tuple[_Tar, ...]
    ends: tuple[int, ...]
    """Images up to and with each tar."""

    def find(self, index: int) -> tuple[_Tar, int]:
        """The tar that holds the image at this position, and its position there."""
        if not 0 <= index < self.ends[-1]:
            raise IndexError(f"ShardStore: position {index} of a class of {self.ends[-1]} images.")
        number = bisect_right(self.ends, index)
        return self.tars[number], index - (self.ends[number - 1] if number else 0)


class ShardStore:
    """Encoded images of the chosen classes of one split; reads from any number of threads, can be pickled.

    :param root: folder of the manifest, or its url.
    :param labels: positions in manifest.classes.
    :param cache: where remote shards are kept on this node; None: in this user's folder under that for temporary files.
    :param verify: whether every shard is hashed when the store is opened; size and count always are compared.
    :raises DataError: naming every shard that is missing or is not what the manifest says.
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
        shards = {label: manifest.splits[split][label] for label in self.labels}
        every = [shard for entries in shards.values() for shard in entries]
        tars = dict(zip(every, _open_all(root, every, cache, verify), strict=True))
        self._classes = {label: _class_of([tars[shard] for shard in shards[label]]) for label in self.labels}
        self._open_caches()

    def _open_caches(self) -> None:
        self._descriptor, self._names = lru_cache(OPEN_FILES)(Descriptor), lru_cache(1)(_names)

    def count(self, label: int) -> int:
        """Images of this class; KeyError for one that was not chosen."""
        return self._classes[label].ends[-1]

    def encoded_bytes(self, label: int) -> int:
        """Bytes of all encoded images of this class."""
        return sum(sum(tar.lengths) for tar in self._classes[label].tars)

    def read(self, label: int, index: int) -> bytes:
        """The encoded image at this position of the class.

        Raises DataError when the file is gone or ends before it, IndexError and KeyError for what is not there.
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


def _open_all(root: str, shards: Sequence[Shard], cache: Path | None, verify: bool) -> list[_Tar]:
    """The shards in order; DataError with the problems of all of them."""

    def opened(shard: Shard) -> _Tar | list[str]:
        try:
            return _open(root, shard, cache, verify)
        except DataError as error:
            return error.problems

    with ThreadPoolExecutor(OPENING_THREADS) as pool:
        found = list(pool.map(opened, shards))
    problems = [problem for entry in found if isinstance(entry, list) for problem in entry]
    if problems:
        rest = [f"... and {len(problems) - SHOWN} more shards."] if len(problems) > SHOWN else []
        raise DataError(problems[:SHOWN] + rest)
    return [entry for entry in found if isinstance(entry, _Tar)]


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


def _class_of(tars: Sequence[_Tar]) -> _Class:
    return _Class(tuple(tars), tuple(accumulate(len(tar.offsets) for tar in tars)))
