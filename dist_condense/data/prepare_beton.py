"""FFCV files of prepared shards: the same pixels as the shards give, in the same order."""

from dataclasses import dataclass
from pathlib import Path

import torch

from dist_condense.data.beton import write_beton
from dist_condense.data.decode import UNREADABLE, decode_bytes
from dist_condense.data.errors import DataError
from dist_condense.data.files import sha256_of
from dist_condense.data.manifest import SPLITS, Beton, Manifest
from dist_condense.data.shards import ShardStore
from dist_condense.data.tiers import default_threads


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


def write_betons(dest: Path, manifest: Manifest) -> dict[str, Beton]:
    """Write one file for each split of the shards in `dest`, whose images have one size (``manifest.size``)."""
    assert manifest.size is not None
    written = {}
    for split in SPLITS:
        store = ShardStore(str(dest), manifest, split, range(len(manifest.classes)))
        classes = [DecodedClass(store, label, manifest.channels, manifest.size) for label in store.labels]
        path = dest / f"{split}.beton"
        write_beton(path, classes, manifest.channels, manifest.size, default_threads())
        written[split] = Beton(path.name, path.stat().st_size, sha256_of(path))
    return written
