"""Store of prepared class shards: the encoded images of selected classes by position."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from itertools import accumulate, chain
from os import pread
from pathlib import Path
from threading import Lock
from typing import Any

from dist_condense.data.reading.decode import UNREADABLE, opened
from dist_condense.data.shards.manifest import Manifest, ShardFile
from dist_condense.data.shards.tars import Sample, index_tar, read_labels
from dist_condense.system.errors import DataError, shortened
from dist_condense.system.files import Descriptor, sha256_of
from dist_condense.system.remote import fetch, join, own_cache, scheme

OPEN_FILES = 64
"""Number of tars that a store keeps open; the least recently used one is closed first."""
OPENING_THREADS = 8
"""Number of shards downloaded, hashed and indexed at once."""


@dataclass(frozen=True)
class _Tar:
    path: Path
    offsets: array[int]
    lengths: array[int]


@dataclass(frozen=True, kw_only=True)
class _Expected:
    """What the manifest says about a shard."""

    shard: ShardFile
    number: int
    """Label in the `.cls` members of the tar."""
    size: int | None
    """Height and width of its images in pixels; None if they differ."""


class _Lazy:
    """A shard that is downloaded, hashed and indexed only once, on first use, and again after unpickling."""

    def __init__(self, root: str, expected: _Expected, cache: Path | None, verify: bool) -> None:
        self._arguments = (root, expected, cache, verify)
        self._lock = Lock()
        self._tar: _Tar | None = None

    def opened(self) -> _Tar:
        """Return the shard; the first call opens it. Raises DataError if it is missing or contradicts the manifest."""
        with self._lock:
            if self._tar is None:
                self._tar = _open(*self._arguments)
            return self._tar

    def __reduce__(self) -> tuple[type[_Lazy], tuple[str, _Expected, Path | None, bool]]:
        return _Lazy, self._arguments


@dataclass(frozen=True)
class _Class:
    shards: tuple[_Lazy, ...]
    ends: tuple[int, ...]
    """Cumulative numbers of images up to the end of each shard."""
    image_bytes: int

    def find(self, index: int) -> tuple[_Tar, int]:
        """Return the opened tar that contains the image at this position of the class, and its position in that tar.

        Raises IndexError for a position outside the class.
        """
        if not 0 <= index < self.ends[-1]:
            raise IndexError(f"ShardStore: position {index} of a class of {self.ends[-1]} images.")
        number = bisect_right(self.ends, index)
        return self.shards[number].opened(), index - (self.ends[number - 1] if number else 0)


class ShardStore:
    """A picklable Store of selected classes of one split, which raises KeyError for other classes.

    A shard is opened (downloaded, compared with the manifest, indexed) when the first of its images is read.

    :param root: folder of the manifest, or its url.
    :param labels: positions in manifest.classes.
    :param numbers: labels in the tars of all classes in manifest.classes; None: their positions.
    :param cache: folder on this node for copies of remote shards; None: this user's private folder for temporary files.
    :param verify: whether a shard's hash, its labels and the size of its first image are compared with the manifest
        when it is opened; its number of bytes and images are always compared.
    :raises ValueError: for a label outside the manifest.
    """

    def __init__(
        self,
        root: str,
        manifest: Manifest,
        split: str,
        labels: Sequence[int],
        *,
        numbers: Sequence[int] | None = None,
        cache: Path | None = None,
        verify: bool = True,
    ) -> None:
        self.labels = tuple(labels)
        outside = [label for label in self.labels if not 0 <= label < len(manifest.classes)]
        if outside:
            raise ValueError(f"ShardStore: the manifest has labels 0..{len(manifest.classes) - 1}, not {outside}.")

        def lazy(label: int, shard: ShardFile) -> _Lazy:
            number = label if numbers is None else numbers[label]
            return _Lazy(root, _Expected(shard=shard, number=number, size=manifest.size), cache, verify)

        self._classes = {
            label: _Class(
                shards=tuple(lazy(label, shard) for shard in shards),
                ends=tuple(accumulate(shard.count for shard in shards)),
                image_bytes=sum(shard.image_bytes for shard in shards),
            )
            for label in self.labels
            for shards in [manifest.splits[split][label]]
        }
        self._open_caches()

    def opened(self) -> ShardStore:
        """Open all shards and return self.

        Raises DataError naming all shards that are missing or contradict the manifest.
        """
        _open_all(shard for entry in self._classes.values() for shard in entry.shards)
        return self

    def _open_caches(self) -> None:
        self._descriptor, self._names = lru_cache(OPEN_FILES)(Descriptor), lru_cache(1)(_names)

    def count(self, label: int) -> int:
        return self._classes[label].ends[-1]

    def encoded_bytes(self, label: int) -> int:
        return self._classes[label].image_bytes

    def read(self, label: int, index: int) -> bytes:
        """Return the encoded image at this position of the class.

        Raises DataError if the shard is missing, truncated or contradicts the manifest, IndexError for a position
        outside the class.
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
        """Return the location of an image for messages, in the form `file.tar: member`."""
        return f"{self._classes[label].find(index)[0].path}: {self.member(label, index)}"

    def member(self, label: int, index: int) -> str:
        """Return the name of an image's member in its tar.

        Names are not stored: the headers of the tar are read again, but only once for consecutive images of the same
        tar.
        """
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
    """Open all shards. Raises DataError with all of their problems."""

    def problems_of(shard: _Lazy) -> list[str]:
        try:
            shard.opened()
        except DataError as error:
            return error.problems
        return []

    with ThreadPoolExecutor(OPENING_THREADS) as pool:
        problems = list(chain.from_iterable(pool.map(problems_of, shards)))
    if problems:
        raise DataError(shortened(problems, "shards"))


def _open(root: str, expected: _Expected, cache: Path | None, verify: bool) -> _Tar:
    path = _local(root, expected.shard, cache)
    try:
        return _indexed(path, expected, verify)
    except OSError as reason:
        problem = f"{path}: the shard cannot be read ({reason.strerror or reason})."
        raise DataError([f"{problem} Prepare or copy the data again."]) from reason


def _indexed(path: Path, expected: _Expected, verify: bool) -> _Tar:
    if not path.is_file():
        raise DataError([f"{path}: the shard is missing. Prepare or copy the data again."])
    shard, size = expected.shard, path.stat().st_size
    if size != shard.bytes:
        raise _unlike(path, f"has {size} bytes, the manifest says {shard.bytes}")
    samples = index_tar(path)
    if len(samples) != shard.count:
        raise _unlike(path, f"holds {len(samples)} images, the manifest says {shard.count}")
    if (image_bytes := sum(sample.length for sample in samples)) != shard.image_bytes:
        raise _unlike(path, f"holds {image_bytes} bytes of images, the manifest says {shard.image_bytes}")
    if verify:
        _verify(path, expected, samples)
    offsets, lengths = array("q"), array("q")
    for sample in samples:
        offsets.append(sample.offset)
        lengths.append(sample.length)
    return _Tar(path, offsets, lengths)


def _verify(path: Path, expected: _Expected, samples: Sequence[Sample]) -> None:
    """Compare a shard's hash, labels and first image with the manifest. Raises DataError."""
    if (digest := sha256_of(path)) != expected.shard.sha256:
        raise _unlike(path, f"has the sha256 {digest}, the manifest says {expected.shard.sha256}")
    if others := set(read_labels(path, samples)) - {expected.number}:
        raise _unlike(path, f"is of class {min(others)}, the manifest says {expected.number}")
    side, found = expected.size, _image_size(path, samples[0])
    if side is not None and found is not None and found != (side, side):
        raise _unlike(path, f"holds images of {found[0]} x {found[1]} pixels, the manifest says {side}")


def _image_size(path: Path, sample: Sample) -> tuple[int, int] | None:
    """Return the width and height of an image in a tar; None for a damaged one, which is named when it is decoded."""
    file = Descriptor(path)
    try:
        with opened(BytesIO(pread(file.number, sample.length, sample.offset))) as image:
            return image.size
    except UNREADABLE:
        return None


def _names(path: Path) -> tuple[str, ...]:
    return tuple(sample.member for sample in index_tar(path))


def _local(root: str, shard: ShardFile, cache: Path | None) -> Path:
    url = join(root, shard.url)
    if scheme(url) is None:
        return Path(url)
    return fetch(url, cache or own_cache(), shard.bytes, shard.sha256)


def _unlike(path: Path, difference: str) -> DataError:
    return DataError([f"{path}: it {difference}. Delete it, then prepare, copy or download it again."])
