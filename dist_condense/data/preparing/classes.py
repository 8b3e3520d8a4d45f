"""The unit of preparing: the images of one class of one split, into shards and a record that they are done."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Protocol

from PIL import Image

from dist_condense.data.reading.decode import crop, read_image, why_unreadable
from dist_condense.data.shards.manifest import Shard, Skipped
from dist_condense.data.shards.writer import ClassShardWriter, shard_name
from dist_condense.system import records
from dist_condense.system.errors import SHOWN, DataError
from dist_condense.system.files import write_atomically

RECORDS = ".preparing"
"""The folder of records below DEST; removed when the manifest is written."""
JPEG_QUALITY = 95


class ClassImages(Protocol):
    """The encoded images of one class in the data set's fixed order; can be pickled."""

    def __len__(self) -> int: ...

    def stem(self, index: int) -> str:
        """The name without its suffix."""
        ...

    def where(self, index: int) -> str:
        """The name with its file, for messages."""
        ...

    def read(self, index: int) -> bytes:
        """The file's bytes; OSError where they cannot be had."""
        ...


@dataclass(frozen=True)
class Pixels:
    """What images become: `size` pixels of a side (None: files are kept), as JPEG or PNG, of 1 or 3 channels."""

    channels: int
    size: int | None
    png: bool
    upright: bool = False
    """Turned by their EXIF orientation, where they are not kept as they are."""


@dataclass(frozen=True)
class Unit:
    """What a worker needs to prepare one class of one split."""

    dest: Path
    split: str
    label: int
    class_name: str
    images: ClassImages
    pixels: Pixels
    skip_bad: bool

    @property
    def names(self) -> str:
        """sha256 over the images' names in order."""
        stems = [self.images.stem(index) for index in range(len(self.images))]
        return hashlib.sha256(json.dumps(stems).encode()).hexdigest()


@dataclass(frozen=True)
class Done:
    """A unit that is finished."""

    split: str
    label: int
    shards: tuple[Shard, ...]
    skipped: tuple[Skipped, ...]
    names: str = ""
    """Of the unit's images; see Unit."""

    @property
    def count(self) -> int:
        """Images written."""
        return sum(shard.count for shard in self.shards)


def prepare_class(unit: Unit) -> Done:
    """Write the class's shards, then its record.

    Raises DataError naming the images that cannot be decoded, unless those are skipped, and for a class without
    images; DataError and MemoryError for a file that the machine does not give, which is never skipped.
    """
    skipped: list[Skipped] = []
    problems: list[str] = []
    with ClassShardWriter(unit.dest, unit.split, unit.label) as writer:
        for index, found in _images(unit):
            if isinstance(found, str):
                where = unit.images.where(index)
                problems.append(f"{where}: the image cannot be read ({found}).")
                skipped.append(Skipped(unit.split, unit.class_name, where, found))
            elif unit.skip_bad or not problems:
                writer.add(unit.images.stem(index), found[1], found[0])
        if problems and not unit.skip_bad:
            rest = [f"... and {len(problems) - SHOWN} more of this class."] if len(problems) > SHOWN else []
            raise DataError([*problems[:SHOWN], *rest, "Replace or remove these, or leave them out with --skip-bad."])
        if len(skipped) == len(unit.images):
            raise DataError([f"{unit.split}, class {unit.class_name}: no image is left; leave the class out."])
    done = Done(unit.split, unit.label, tuple(writer.shards), tuple(skipped), unit.names)
    write_atomically(record_file(unit.dest, unit.split, unit.label), json.dumps(asdict(done)).encode())
    return done


def record_file(dest: Path, split: str, label: int) -> Path:
    """Where a unit's record lies."""
    return dest / RECORDS / f"{split}-{label:04d}.json"


def read_record(unit: Unit) -> Done | None:
    """What was done of this unit; None if it is not finished, a shard's size or the images' names changed, or the
    record is none that :func:`prepare_class` writes: it names other files, which are not looked at."""
    file = record_file(unit.dest, unit.split, unit.label)
    if not file.is_file():
        return None
    try:
        done = records.read(Done, file)
    except records.Unreadable:
        return None
    own = [f"{unit.split}/{shard_name(unit.label, number)}" for number in range(len(done.shards))]
    if (done.split, done.label, [shard.url for shard in done.shards]) != (unit.split, unit.label, own):
        return None
    files = [(unit.dest / shard.url, shard.bytes) for shard in done.shards]
    whole = all(path.is_file() and path.stat().st_size == size for path, size in files)
    same = done.names == unit.names and (unit.skip_bad or not done.skipped)
    return done if whole and same else None


def _images(unit: Unit) -> Iterator[tuple[int, tuple[bytes, str] | str]]:
    """Per image its position and (bytes, suffix), or what is wrong with it."""
    for index in range(len(unit.images)):
        try:
            yield index, _image(unit.images.read(index), unit.pixels)
        except MemoryError as reason:
            raise MemoryError(f"{unit.images.where(index)}: there is too little memory for it") from reason
        except OSError as reason:
            raise DataError([f"{unit.images.where(index)}: it cannot be had ({reason})."]) from reason


def _image(data: bytes, pixels: Pixels) -> tuple[bytes, str] | str:
    """The image as it goes into the shard, or what is wrong with it; raised is what the machine is to blame for."""
    try:
        return encoded(data, pixels)
    except MemoryError:
        raise
    except Exception as reason:  # Pillow's decoders raise anything on bytes that are no image
        if isinstance(reason, OSError) and reason.errno is not None:
            raise
        return why_unreadable(reason)


def encoded(data: bytes, pixels: Pixels) -> tuple[bytes, str]:
    """The image's bytes as they go into the shard, and their suffix; the image is decoded whatever becomes of it.

    Bytes are kept where no size is asked for, or the image has it already and is upright.
    """
    image, suffix, turned = read_image(BytesIO(data), pixels.channels, pixels.upright)
    if pixels.size is None or (image.size == (pixels.size, pixels.size) and not turned):
        return data, suffix
    cropped = crop(image, pixels.size).permute(1, 2, 0).numpy()
    return encode(Image.fromarray(cropped.squeeze(2) if pixels.channels == 1 else cropped), pixels.png)


def encode(image: Image.Image, png: bool) -> tuple[bytes, str]:
    """PNG or JPEG, and its suffix."""
    stream = BytesIO()
    if png:
        image.save(stream, "PNG")
    else:
        image.save(stream, "JPEG", quality=JPEG_QUALITY)
    return stream.getvalue(), "png" if png else "jpg"
