"""FFCV files of prepared shards: the same pixels as the shards give, in the same order."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

from dist_condense.data.ffcv.beton import write_beton
from dist_condense.data.preparing.classes import RECORDS
from dist_condense.data.reading.decode import UNREADABLE, decode_bytes
from dist_condense.data.reading.tiers import default_threads
from dist_condense.data.shards.manifest import SPLITS, Beton, Manifest
from dist_condense.data.shards.shards import ShardStore
from dist_condense.system import records
from dist_condense.system.errors import DataError
from dist_condense.system.files import sha256_of, write_atomically

Progress = Callable[[int, int, str], None]
"""(finished, in all, of what)"""


@dataclass(frozen=True)
class Done:
    """The record of a file that is finished."""

    digest: str
    """Of the manifest whose shards it was made of."""
    beton: Beton


@dataclass(frozen=True)
class DecodedClass:
    """The images of one class of a store, decoded one by one."""

    store: ShardStore
    label: int
    channels: int
    size: int

    def __len__(self) -> int:
        return self.store.count(self.label)

    def __getitem__(self, index: int) -> torch.Tensor:
        """uint8 [C, size, size]; DataError naming an image that cannot be read."""
        try:
            return decode_bytes(self.store.read(self.label, index), self.channels, self.size)
        except UNREADABLE as reason:
            raise DataError(
                [f"{self.store.where(self.label, index)}: the image cannot be read ({reason})."]
            ) from reason


def write_betons(dest: Path, manifest: Manifest, progress: Progress) -> dict[str, Beton]:
    """Write one file for each split of the shards in `dest`, whose images have one size (``manifest.size``).

    A file that an earlier start finished is kept; its record says so.
    """
    (dest / RECORDS).mkdir(exist_ok=True)
    return {split: _recorded(dest, manifest, split) or _write(dest, manifest, split, progress) for split in SPLITS}


def _recorded(dest: Path, manifest: Manifest, split: str) -> Beton | None:
    """What was written before; None if it is not finished, its size changed, the shards are others now, or the record
    is none that this module writes."""
    file = _record_file(dest, split)
    if not file.is_file():
        return None
    try:
        done = records.read(Done, file)
    except records.Unreadable:
        return None
    path, beton = _beton_file(dest, split), done.beton
    whole = beton.file == path.name and path.is_file() and path.stat().st_size == beton.bytes
    return beton if whole and done.digest == manifest.digest else None


def _write(dest: Path, manifest: Manifest, split: str, progress: Progress) -> Beton:
    assert manifest.size is not None
    store = ShardStore(str(dest), manifest, split, range(len(manifest.classes))).opened()
    classes = [DecodedClass(store, label, manifest.channels, manifest.size) for label in store.labels]
    path, total = _beton_file(dest, split), sum(manifest.counts(split))
    told = partial(_tell, progress, total, f"images in {path.name}")
    write_beton(path, classes, manifest.channels, manifest.size, default_threads(), told)
    beton = Beton(path.name, path.stat().st_size, sha256_of(path))
    write_atomically(_record_file(dest, split), json.dumps(asdict(Done(manifest.digest, beton))).encode())
    return beton


def _tell(progress: Progress, total: int, what: str, written: int) -> None:
    progress(written, total, what)


def _beton_file(dest: Path, split: str) -> Path:
    return dest / f"{split}.beton"


def _record_file(dest: Path, split: str) -> Path:
    return dest / RECORDS / f"beton-{split}.json"
