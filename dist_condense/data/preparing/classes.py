"""Preparation of one class of one split: its images are written into shards, then a record is written."""

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
        """Return the image's location, such as its path, for messages."""
        ...

    def read(self, index: int) -> bytes:
        """Return the bytes of the encoded image. Raises OSError."""
        ...


@dataclass(frozen=True)
class ShardFormat:
    """Format of the images in shards."""

    channels: int
    """Number of channels: 1 (grey) or 3 (RGB)."""
    size: int | None
    """Height and width in pixels; None if image files are stored unchanged."""
    png: bool
    """Whether resized images are encoded as PNG instead of JPEG."""
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
    """Hash of the images' names; see :attr:`ClassTask.names`."""


def prepare_class(task: ClassTask) -> FinishedClass:
    """Write the shards of a class and then its record, and return the record.

    Raises DataError naming the images that cannot be decoded (unless ``task.skip_bad``), and for a class without
    readable images. Files that the machine cannot read are never skipped: they raise DataError, or MemoryError.
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
    """Return the record of a class that an earlier command finished, or None if the class must be prepared.

    A class must be prepared if it has no record, if the size of a shard or the names of the images changed, or if
    images were skipped and ``task.skip_bad`` is now false. A record with other file names than those that
    :func:`prepare_class` writes is ignored, and the files that it names are not opened.
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
    """Yield each image's position, with its (bytes, suffix) or the reason why it is unreadable."""
    for index in range(len(task.images)):
        try:
            yield index, _image(task.images.read(index), task.form)
        except MemoryError as reason:
            raise MemoryError(f"{task.images.where(index)}: there is too little memory for it") from reason
        except OSError as reason:
            raise DataError([f"{task.images.where(index)}: the file cannot be read ({reason})."]) from reason


def _image(data: bytes, form: ShardFormat) -> tuple[bytes, str] | str:
    """Return the result of :func:`encoded`, or the reason why the image is unreadable.

    Raises MemoryError and errors of the operating system, which do not prove that the image is damaged.
    """
    try:
        return encoded(data, form)
    except MemoryError:
        raise
    except Exception as reason:  # Pillow raises any exception for bytes that are no image
        if isinstance(reason, OSError) and reason.errno is not None:
            raise
        return why_unreadable(reason)


def encoded(data: bytes, form: ShardFormat) -> tuple[bytes, str]:
    """Return the bytes and suffix with which an image is written to a shard; decode the image to detect damage.

    The bytes are unchanged if no size is requested, or if the image already has this size and needs no rotation.
    """
    image, suffix, rotated = read_image(BytesIO(data), form.channels, form.upright, form.size)
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
