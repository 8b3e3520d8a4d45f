"""Writes the file that beton.py reads."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from math import prod
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Protocol

import numpy as np
import torch

from dist_condense.data.ffcv.extra import load_ffcv
from dist_condense.data.ffcv.file import IMAGE, LABEL, check_beton
from dist_condense.system.errors import DataError
from dist_condense.system.files import flush

PAGE = 8 << 20
"""Bytes of a page of the file, FFCV's default; no image is cut by a page's end. Raised to hold one larger image."""
AHEAD = 16
"""Images read ahead of writing, per thread."""
UNFINISHED = ".new"
"""Behind the name of the folder, closed to others, in which a file is being written."""

Record = tuple[np.ndarray, int]
"""uint8 [C, size, size] and its label."""


class ClassImages(Protocol):
    """The images of one class by position, such as a tensor uint8 [n, C, size, size]; asked by several threads."""

    def __len__(self) -> int:
        """Number of images."""
        ...

    def __getitem__(self, index: int, /) -> torch.Tensor:
        """The image at this position, uint8 [C, size, size]."""
        ...


def write_beton(
    path: Path,
    classes: Sequence[ClassImages],
    channels: int,
    size: int,
    workers: int,
    told: Callable[[int], None] = lambda images: None,
) -> None:
    """Write all images, raw and class after class, in place of the file at `path`, which is whole at any time.

    `workers` threads read the images and one writes them, so the bytes of the file do not depend on their number.
    (FFCV's own writing processes wait for ever once one of them has failed, as at an image that cannot be read.)
    `told` hears how many are written so far. Raises DataError for images of another form, and what reading an image
    raises; `path` is then as it was.
    """
    counts = [len(images) for images in classes]
    if sum(counts) == 0:
        raise DataError([f"{path}: there is no image to write in {len(counts)} classes."])
    ffcv = load_ffcv()
    shape = (channels, size, size)
    fields = {IMAGE: ffcv.fields.NDArrayField(np.dtype(np.uint8), shape), LABEL: ffcv.fields.IntField()}
    page = max(PAGE, 1 << (prod(shape) - 1).bit_length())
    folder = Path(mkdtemp(prefix=f".{path.name}.", suffix=UNFINISHED, dir=path.parent))  # FFCV opens it by its name
    unfinished = folder / path.name
    writer = ffcv.writer.DatasetWriter(str(unfinished), fields, page_size=page, num_workers=1)
    writer.num_samples = sum(counts)
    try:
        _write(ffcv, writer, _records(classes, shape, workers, told))
        check_beton(unfinished, counts, channels, size)  # a full disk can cut a write short without an error
        flush(unfinished)
        unfinished.replace(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(ffcv: Any, writer: Any, records: Iterator[Record]) -> None:
    """What FFCV's writing process does, here; and its header and tables."""
    metadata = np.zeros(writer.num_samples, dtype=writer.metadata_type)
    writer.prepare()
    try:
        allocator = ffcv.memory_allocator.MemoryAllocator(writer.fname, writer.data_region_start, writer.page_size)
        with allocator:
            for position, record in enumerate(records):
                names, fields = metadata.dtype.names, writer.fields
                ffcv.writer.handle_sample(record, position, names, metadata, allocator, fields)
        writer.metadata_sm.buf[:] = metadata.tobytes()
        writer.finalize(allocator.allocations)
    finally:
        writer.metadata_sm.close()
        writer.metadata_sm.unlink()


def _records(
    classes: Sequence[ClassImages], shape: tuple[int, int, int], workers: int, told: Callable[[int], None]
) -> Iterator[Record]:
    """All images with their labels, in the file's order, read by `workers` threads."""
    written = 0

    def read(place: tuple[int, int]) -> Record:
        label, index = place
        pixels = classes[label][index]
        if pixels.dtype is not torch.uint8 or tuple(pixels.shape) != shape:
            form = f"{pixels.dtype} {list(pixels.shape)}"
            raise DataError(
                [f"Image {index} of class {label} is {form}; a beton of {list(shape)} takes uint8 of these."]
            )
        return pixels.numpy(), label

    places = ((label, index) for label, images in enumerate(classes) for index in range(len(images)))
    with ThreadPoolExecutor(workers) as pool:
        while block := list(islice(places, AHEAD * workers)):
            yield from pool.map(read, block)
            written += len(block)
            told(written)
