"""FFCV files of prepared shards: the decoded pixels of the shards' images, in the same order."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from dist_condense.data.ffcv.writer import write_beton
from dist_condense.data.preparing.finished import RECORDS, read_record, write_record
from dist_condense.data.reading.decode import UNREADABLE, decode_bytes
from dist_condense.data.reading.tiers import default_threads
from dist_condense.data.shards.manifest import SPLITS, Beton, Manifest
from dist_condense.data.shards.shards import ShardStore
from dist_condense.system.errors import DataError
from dist_condense.system.files import sha256_of

ReportProgress = Callable[[int, int, str], None]
"""Callback that receives the number of finished items, their total, and their name."""


@dataclass(frozen=True)
class FinishedBeton:
    """Record of a finished FFCV file."""

    digest: str
    """Digest of the manifest whose shards were decoded."""
    beton: Beton


@dataclass(frozen=True)
class DecodedClass:
    """Images of one class in a store, decoded when they are indexed."""

    store: ShardStore
    label: int
    channels: int
    size: int

    def __len__(self) -> int:
        return self.store.count(self.label)

    def __getitem__(self, index: int) -> torch.Tensor:
        """Decode the image at this position to uint8 [C, size, size]. Raises DataError naming an unreadable image."""
        try:
            return decode_bytes(self.store.read(self.label, index), self.channels, self.size)
        except UNREADABLE as reason:
            raise DataError(
                [f"{self.store.where(self.label, index)}: the image cannot be read ({reason})."]
            ) from reason


def write_betons(dest: Path, manifest: Manifest, report: ReportProgress) -> dict[str, Beton]:
    """Write one FFCV file per split of the shards in `dest`; return the manifest entry of each file by split.

    Images have the size ``manifest.size``. A file is kept if an earlier command finished it, according to its record.
    """
    (dest / RECORDS).mkdir(exist_ok=True)
    return {split: _recorded(dest, manifest, split) or _write(dest, manifest, split, report) for split in SPLITS}


def _recorded(dest: Path, manifest: Manifest, split: str) -> Beton | None:
    """Return the manifest entry of a split's FFCV file if an earlier command finished the file; None otherwise.

    The file counts as unfinished if it has no record, is missing or has another size, or if the shards have changed.
    """
    finished = read_record(FinishedBeton, _record_file(dest, split))
    if finished is None:
        return None
    path, beton = _beton_file(dest, split), finished.beton
    intact = beton.file == path.name and path.is_file() and path.stat().st_size == beton.bytes
    return beton if intact and finished.digest == manifest.digest else None


def _write(dest: Path, manifest: Manifest, split: str, report: ReportProgress) -> Beton:
    assert manifest.size is not None
    store = ShardStore(str(dest), manifest, split, range(len(manifest.classes))).opened()
    classes = [DecodedClass(store, label, manifest.channels, manifest.size) for label in store.labels]
    path, total = _beton_file(dest, split), sum(manifest.counts(split))
    write_beton(
        path,
        classes,
        channels=manifest.channels,
        size=manifest.size,
        workers=default_threads(),
        report=lambda written: report(written, total, f"images in {path.name}"),
    )
    beton = Beton(path.name, path.stat().st_size, sha256_of(path))
    write_record(_record_file(dest, split), FinishedBeton(manifest.digest, beton))
    return beton


def _beton_file(dest: Path, split: str) -> Path:
    return dest / f"{split}.beton"


def _record_file(dest: Path, split: str) -> Path:
    return dest / RECORDS / f"beton-{split}.json"
