"""manifest.json of prepared class shards: their content and origin. It is written last, to mark a complete folder."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from dist_condense.data.image_set import ClassName
from dist_condense.data.reading.decode import MAX_SIZE
from dist_condense.system.conversion import NonNegative, Positive, Rule, Sha256
from dist_condense.system.files import stays_below, write_atomically
from dist_condense.system.remote import entry_problem

BLOCK = 512
"""Size of a tar's header in bytes; each image has one."""
FILE = "manifest.json"
FORMAT = "dist_condense class shards 1"
SPLITS = ("train", "val")
LOCAL_PATH = "a path below the manifest's folder, without '..'"
Url = Annotated[str, Rule(f"{LOCAL_PATH}, or s3://, gs://, https://", lambda url: entry_problem(url) is None)]
SplitName = Annotated[str, Rule(" or ".join(SPLITS), SPLITS.__contains__)]
Below = Annotated[str, Rule(LOCAL_PATH, stays_below)]
Size = Annotated[int, Rule(f"an integer from 1 to {MAX_SIZE}", lambda x: 1 <= x <= MAX_SIZE)]
Channels = Annotated[int, Rule("1 or 3", (1, 3).__contains__)]


@dataclass(frozen=True, kw_only=True)
class ShardFile:
    """Manifest entry of a tar with images of one class."""

    url: Url
    """Path relative to the manifest's folder, or an address s3://, gs://, https://."""
    count: Positive
    """Number of images."""
    bytes: Positive
    """Size of the tar in bytes."""
    image_bytes: Positive
    """Total size in bytes of the encoded images in the tar."""
    sha256: Sha256

    def __post_init__(self) -> None:
        if self.image_bytes < self.count or self.image_bytes + BLOCK * self.count > self.bytes:
            found = f"count={self.count}, image_bytes={self.image_bytes}, bytes={self.bytes}"
            raise ValueError(f"found {found}, expected a tar that can hold so many images of so many bytes")


@dataclass(frozen=True)
class Skipped:
    """An image of the source that could not be read and was left out."""

    split: SplitName
    class_name: str
    name: str
    """Path of the file, or `tar: member`."""
    reason: str


@dataclass(frozen=True)
class Made:
    """Origin of the shards. It is excluded from the digest, which is therefore equal for equal images of any origin."""

    source: str
    dataset: str
    """Name of the catalogue data set whose facts (mean, flip, ...) apply to these images."""
    options: dict[str, Any]
    version: str
    """Version of this package."""


@dataclass(frozen=True)
class Beton:
    """Manifest entry of the FFCV file of one split."""

    file: Below
    bytes: NonNegative
    sha256: Sha256


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Description of prepared class shards; a label is a position in `classes`."""

    classes: tuple[ClassName, ...]
    size: Size | None
    """Height and width in pixels; None for files of the original size."""
    channels: Channels
    made: Made
    splits: Mapping[SplitName, tuple[tuple[ShardFile, ...], ...]]
    """Shards of each class in order: splits["train" or "val"][label]."""
    skipped: tuple[Skipped, ...] = ()
    ffcv: Mapping[SplitName, Beton] | None = None
    """FFCV file of each split."""
    upright: bool = False
    """Whether runs rotate files of the original size (size None) by their EXIF orientation. For resized images, this
    was decided when they were written.
    """

    def counts(self, split: str) -> tuple[int, ...]:
        """Return the number of images of each class in a split."""
        return tuple(sum(shard.count for shard in shards) for shards in self.splits[split])

    def image_bytes(self, split: str) -> tuple[int, ...]:
        """Return the total bytes of each class's encoded images in a split."""
        return tuple(sum(shard.image_bytes for shard in shards) for shards in self.splits[split])

    @property
    def digest(self) -> str:
        """Identity of the images: the sha256 of the canonical JSON without `made`, `skipped` and `ffcv`."""
        content = {key: value for key, value in as_json(self).items() if key not in ("made", "skipped", "ffcv")}
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def as_json(manifest: Manifest) -> dict[str, Any]:
    """Return the manifest as plain JSON values, with the format's name."""
    content: dict[str, Any] = json.loads(json.dumps(asdict(manifest)))
    return {"format": FORMAT, **content}


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write folder/manifest.json atomically."""
    write_atomically(folder / FILE, (json.dumps(as_json(manifest), indent=1) + "\n").encode())
