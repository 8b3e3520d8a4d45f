"""Preparation of one class of one split: its images are written into shards, and then a record of them."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Protocol

from PIL import Image

from dist_condense.data.preparing.finished import RECORDS, read_record, write_record
from dist_condense.data.reading.decode import crop, read_image, why_unreadable
from dist_condense.data.shards.manifest import ShardFile, Skipped
from dist_condense.data.shards.writer import ClassShardWriter, shard_name
from dist_condense.system.errors import DataError, shortened

JPEG_QUALITY = 95


class EncodedImages(Protocol):
    """Encoded images of one class in the data set's fixed order; picklable."""

    def __len__(self) -> int: ...

    def stem(self, index: int) -> str:
        """Return the image's name without its suffix."""
        ...

    def where(self, index: int) -> str:
        """Return the image's name and file, for messages."""
        ...

    def read(self, index: int) -> bytes:
        """Return the file's bytes. Raises OSError."""
        ...


@dataclass(frozen=True)
class ShardFormat:
    """Format of images in shards: 1 or 3 channels, `size` pixels of a side as JPEG or PNG (None: unchanged files)."""

    channels: int
    size: int | None
    png: bool
    upright: bool = False
    """Whether resized images are rotated by their EXIF orientation."""


@dataclass(frozen=True, kw_only=True)
class ClassTask:
    """Task of preparing one class of one split."""

    dest: Path
    split: str
    label: int
    class_name: str
    images: EncodedImages
    form: ShardFormat
    skip_bad: bool

    @property
    def names(self) -> str:
        """Hash (sha256) of the images' names in order."""
        stems = [self.images.stem(index) for index in range(len(self.images))]
        return hashlib.sha256(json.dumps(stems).encode()).hexdigest()

    @property
    def record_file(self) -> Path:
        """Path of the record of the finished class."""
        return self.dest / RECORDS / f"{self.split}-{self.label:04d}.json"


@dataclass(frozen=True, kw_only=True)
class FinishedClass:
    """Record of a finished class of one split."""

    split: str
    label: int
    shards: tuple[ShardFile, ...]
    skipped: tuple[Skipped, ...]
    names: str = ""
    """Hash of the images' names; see ClassTask."""


def prepare_class(task: ClassTask) -> FinishedClass:
    """Write the class's shards, then its record.

    Raises DataError naming the images that cannot be decoded, unless they are skipped, and for a class without images;
    DataError and MemoryError for files that the machine cannot read, which are never skipped.
    """
    skipped: list[Skipped] = []
    problems: list[str] = []
    with ClassShardWriter(task.dest, task.split, task.label) as writer:
        for index, result in _images(task):
            if isinstance(result, str):
                where = task.images.where(index)
                problems.append(f"{where}: the image cannot be read ({result}).")
                skipped.append(Skipped(task.split, task.class_name, where, result))
            elif task.skip_bad or not problems:
                data, suffix = result
                writer.add(task.images.stem(index), suffix, data)
        if problems and not task.skip_bad:
            remedy = "Replace or remove these, or leave them out with --skip-bad."
            raise DataError([*shortened(problems, "of this class"), remedy])
        if len(skipped) == len(task.images):
            raise DataError([f"{task.split}, class {task.class_name}: no image is left; leave the class out."])
    finished = FinishedClass(
        split=task.split,
        label=task.label,
        shards=tuple(writer.shards),
        skipped=tuple(skipped),
        names=task.names,
    )
    write_record(task.record_file, finished)
    return finished


def finished_class(task: ClassTask) -> FinishedClass | None:
    """Return the record of an earlier start; None if the class is unfinished, or a shard's size or a name changed.

    A record that names other files than those of :func:`prepare_class` is ignored, too, and these files are not read.
    """
    finished = read_record(FinishedClass, task.record_file)
    if finished is None:
        return None
    own = [f"{task.split}/{shard_name(task.label, number)}" for number in range(len(finished.shards))]
    if (finished.split, finished.label, [shard.url for shard in finished.shards]) != (task.split, task.label, own):
        return None
    files = [(task.dest / shard.url, shard.bytes) for shard in finished.shards]
    intact = all(path.is_file() and path.stat().st_size == size for path, size in files)
    same = finished.names == task.names and (task.skip_bad or not finished.skipped)
    return finished if intact and same else None


def _images(task: ClassTask) -> Iterator[tuple[int, tuple[bytes, str] | str]]:
    """Yield the position of each image, and its (bytes, suffix) or the reason why it is unreadable."""
    for index in range(len(task.images)):
        try:
            yield index, _image(task.images.read(index), task.form)
        except MemoryError as reason:
            raise MemoryError(f"{task.images.where(index)}: there is too little memory for it") from reason
        except OSError as reason:
            raise DataError([f"{task.images.where(index)}: the file cannot be read ({reason})."]) from reason


def _image(data: bytes, form: ShardFormat) -> tuple[bytes, str] | str:
    """Return :func:`encoded`, or the reason why the image is unreadable; errors of the machine are raised."""
    try:
        return encoded(data, form)
    except MemoryError:
        raise
    except Exception as reason:  # Pillow raises any exception for bytes that are no image
        if isinstance(reason, OSError) and reason.errno is not None:
            raise
        return why_unreadable(reason)


def encoded(data: bytes, form: ShardFormat) -> tuple[bytes, str]:
    """Return the bytes and suffix of an image in a shard. Every image is decoded once, to detect damaged files.

    Bytes are unchanged if no size is requested, or if the image is upright and already has this size.
    """
    image, suffix, rotated = read_image(BytesIO(data), form.channels, form.upright)
    if form.size is None or (image.size == (form.size, form.size) and not rotated):
        return data, suffix
    cropped = crop(image, form.size).permute(1, 2, 0).numpy()
    return encode(Image.fromarray(cropped.squeeze(2) if form.channels == 1 else cropped), form.png)


def encode(image: Image.Image, png: bool) -> tuple[bytes, str]:
    """Encode an image as PNG or JPEG; return its bytes and suffix."""
    stream = BytesIO()
    if png:
        image.save(stream, "PNG")
    else:
        image.save(stream, "JPEG", quality=JPEG_QUALITY)
    return stream.getvalue(), "png" if png else "jpg"
