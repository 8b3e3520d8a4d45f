"""manifest.json of prepared class shards: what there is and how it was made. Written last: with it, all is there."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from dist_condense.data.image_set import ClassName
from dist_condense.system.conversion import NonNegative, Positive, Rule, Sha256
from dist_condense.system.files import stays_below, write_atomically
from dist_condense.system.remote import entry_problem

FILE = "manifest.json"
FORMAT = "dist_condense class shards 1"
SPLITS = ("train", "val")
PLACE = "a path below the manifest's folder, without '..'"
Url = Annotated[str, Rule(f"{PLACE}, or s3://, gs://, https://", lambda url: entry_problem(url) is None)]
Split = Annotated[str, Rule(" or ".join(SPLITS), SPLITS.__contains__)]
Below = Annotated[str, Rule(PLACE, stays_below)]


@dataclass(frozen=True)
class Shard:
    """A tar of images of one class."""

    url: Url
    """Relative to the manifest's folder, or s3://, gs://, https://."""
    count: Positive
    """Images."""
    bytes: Positive
    """Of the tar."""
    image_bytes: Positive
    """Of the encoded images in it."""
    sha256: Sha256


@dataclass(frozen=True)
class Skipped:
    """An image of the source that could not be read and was left out."""

    split: str
    class_name: str
    name: str
    """Where it lay: the file's path, or `tar: member`."""
    reason: str


@dataclass(frozen=True)
class Made:
    """How the shards were made; not part of the digest, so that a copy made elsewhere is the same data."""

    source: str
    dataset: str
    """The name in the catalogue whose constants (mean, flip, ...) hold for these images."""
    options: dict[str, Any]
    version: str
    """Of this package."""


@dataclass(frozen=True)
class Beton:
    """An FFCV file of one split."""

    file: Below
    bytes: NonNegative
    sha256: Sha256


@dataclass(frozen=True)
class Manifest:
    """Prepared class shards; a label is a position in `classes`."""

    classes: tuple[ClassName, ...]
    size: Positive | None
    """Pixels of a side; None where files were kept as they are."""
    channels: Annotated[int, Rule("1 or 3", (1, 3).__contains__)]
    made: Made
    splits: Mapping[Split, tuple[tuple[Shard, ...], ...]]
    """splits["train" or "val"][label] are the class's shards in order."""
    skipped: tuple[Skipped, ...] = ()
    ffcv: Mapping[Split, Beton] | None = None
    """By split."""
    upright: bool = False
    """Whether files that were kept as they are (size None) are to be turned by their EXIF orientation. Images of one
    size were, or were not, when they were written.
    """

    def counts(self, split: str) -> tuple[int, ...]:
        """Images of each class."""
        return tuple(sum(shard.count for shard in shards) for shards in self.splits[split])

    def image_bytes(self, split: str) -> tuple[int, ...]:
        """Encoded bytes of each class's images."""
        return tuple(sum(shard.image_bytes for shard in shards) for shards in self.splits[split])

    @property
    def digest(self) -> str:
        """sha256 over what the images are: the canonical JSON without `made`, `skipped` and `ffcv`."""
        content = {key: value for key, value in as_json(self).items() if key not in ("made", "skipped", "ffcv")}
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def as_json(manifest: Manifest) -> dict[str, Any]:
    """The manifest as JSON holds it."""
    made: dict[str, Any] = json.loads(json.dumps(asdict(manifest)))
    return {"format": FORMAT, **made}


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write folder/manifest.json, atomically."""
    write_atomically(folder / FILE, (json.dumps(as_json(manifest), indent=1) + "\n").encode())
