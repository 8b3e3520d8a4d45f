"""Writer of one class's shards: tars in WebDataset's layout, byte-identical for identical images."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType, TracebackType
from typing import IO, cast

from dist_condense.data.shards.manifest import ShardFile
from dist_condense.system.files import temporary_beside

PART_BYTES = 256 * 2**20
"""Maximum image bytes of a shard; further images of the class are written into the next shard."""
STEM_LENGTH = 60
"""Maximum number of characters of a file's name in a key; a tar header has room for 100."""


def webdataset() -> ModuleType:
    """Import webdataset, which then refuses commands and pickles in this process, and is not needed to read shards."""
    os.environ["WDS_SECURE"] = "1"  # read at the import
    import webdataset as secured

    return cast(ModuleType, secured)


class _Hashing:
    """A writable file that counts and hashes its bytes."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream, self.digest, self.size = stream, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.size += len(data)
        return self.stream.write(data)


class _Part:
    """An unfinished shard, which is renamed to its final name when it is complete."""

    def __init__(self, path: Path) -> None:
        self.path, self.stream = path, temporary_beside(path)
        self.writing = Path(self.stream.name)
        self.hashing = _Hashing(self.stream)
        self.tar = webdataset().TarWriter(self.hashing, encoder=False, mtime=0, compress=False)
        self.count = self.image_bytes = 0

    def add(self, key: str, suffix: str, image: bytes, label: int) -> None:
        with _named(self.path):
            self.tar.write({"__key__": key, suffix: image, "cls": str(label).encode()})
        self.count += 1
        self.image_bytes += len(image)

    def close(self) -> ShardFile:
        with _named(self.path):
            self.tar.close()
            self.stream.flush()
            os.fsync(self.stream.fileno())
            self.stream.close()
            os.replace(self.writing, self.path)
        return ShardFile(
            url=f"{self.path.parent.name}/{self.path.name}",
            count=self.count,
            bytes=self.hashing.size,
            image_bytes=self.image_bytes,
            sha256=self.hashing.digest.hexdigest(),
        )

    def abort(self) -> None:
        for close in (self.tar.close, self.stream.close):
            with suppress(OSError):  # a full disk, which refuses what is still to be written
                close()
        self.writing.unlink(missing_ok=True)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Add the path to an OSError of writing, which has none."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


class ClassShardWriter:
    """Context manager that writes the shards folder/<split>/<label>-<part>.tar of one class.

    `shards` is complete after the with block. The members of an image are `<position>_<stem>.<suffix>` and
    `<position>_<stem>.cls`; their times and owners are fixed. After an error, the unfinished shard is removed.
    """

    def __init__(self, folder: Path, split: str, label: int, part_bytes: int = PART_BYTES) -> None:
        self.folder, self.label, self.part_bytes = folder / split, label, part_bytes
        self.shards: list[ShardFile] = []
        self._position = 0
        self._part: _Part | None = None

    def add(self, stem: str, suffix: str, image: bytes) -> None:
        """Append an encoded image; characters of `stem` that are invalid in a key are replaced."""
        if self._part is not None and self._part.image_bytes + len(image) > self.part_bytes:
            self._finish()
        if self._part is None:
            self._part = _Part(self.folder / shard_name(self.label, len(self.shards)))
        self._part.add(f"{self._position:06d}_{clean(stem)}", suffix, image, self.label)
        self._position += 1

    def _finish(self) -> None:
        if self._part is not None:
            self.shards.append(self._part.close())
        self._part = None

    def __enter__(self) -> ClassShardWriter:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            if self._part is not None:
                self._part.abort()


def shard_name(label: int, number: int) -> str:
    """Return the file name of a class's shard; `number` counts the shards of the class from 0."""
    return f"{label:04d}-{number:03d}.tar"


def clean(stem: str) -> str:
    """Replace characters that are not ASCII letters, digits, - or _ by _, and shorten the stem to STEM_LENGTH.

    A dot would end the key.
    """
    return re.sub(r"[^A-Za-z0-9_-]+", "_", stem)[:STEM_LENGTH]
