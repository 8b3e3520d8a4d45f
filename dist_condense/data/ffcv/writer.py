"""Writer of FFCV's beton files."""

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
"""Minimum size of a page in bytes, FFCV's default. A page never splits an image; pages are larger if an image needs it.
"""
AHEAD = 16
"""Number of images per thread that are read ahead of writing."""
UNFINISHED = ".new"
"""Suffix of the private temporary folder of an unfinished file."""

LabelledPixels = tuple[np.ndarray, int]
"""An image, uint8 [C, size, size], and its label."""


class PixelSequence(Protocol):
    """Decoded images of one class by position, for example a tensor uint8 [n, C, size, size].

    Several threads call :meth:`__getitem__` concurrently.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> torch.Tensor:
        """Return the image at this position, uint8 [C, size, size]."""
        ...


def write_beton(
    path: Path,
    classes: Sequence[PixelSequence],
    *,
    channels: int,
    size: int,
    workers: int,
    report: Callable[[int], None] = lambda images: None,
) -> None:
    """Write all images uncompressed, class after class, to a new file that then replaces `path` atomically.

    One thread writes, so that the bytes of the file do not depend on the number of reading threads. (FFCV's own writing
    processes hang for ever once one of them has failed, for instance at an unreadable image.)

    :param workers: number of threads that read images.
    :param report: called with the number of images written so far.
    :raises DataError: if there are no images, or an image has another shape or dtype. Errors of reading an image are
        raised unchanged. After any error, the file at `path` is unchanged.
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
        _write(ffcv, writer, _records(classes, shape, workers, report))
        check_beton(unfinished, counts, channels, size)  # a full disk can cut a write short without an error
        flush(unfinished)
        unfinished.replace(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(ffcv: Any, writer: Any, records: Iterator[LabelledPixels]) -> None:
    """Write the records, header and tables in this process, in the same way as FFCV's own writing process."""
    metadata = np.zeros(writer.num_samples, dtype=writer.metadata_type)
    writer.prepare()
    try:
        allocator = ffcv.memory_allocator.MemoryAllocator(writer.fname, writer.data_region_start, writer.page_size)
        with allocator:
            for position, record in enumerate(records):
                ffcv.writer.handle_sample(
                    sample=record,
                    dest_ix=position,
                    field_names=metadata.dtype.names,
                    metadata=metadata,
                    allocator=allocator,
                    fields=writer.fields,
                )
        writer.metadata_sm.buf[:] = metadata.tobytes()
        writer.finalize(allocator.allocations)
    finally:
        writer.metadata_sm.close()
        writer.metadata_sm.unlink()


def _records(
    classes: Sequence[PixelSequence], shape: tuple[int, int, int], workers: int, report: Callable[[int], None]
) -> Iterator[LabelledPixels]:
    """Yield all images with their labels in the file's order, read by `workers` threads."""
    written = 0

    def read(position: tuple[int, int]) -> LabelledPixels:
        label, index = position
        pixels = classes[label][index]
        if pixels.dtype is not torch.uint8 or tuple(pixels.shape) != shape:
            form = f"{pixels.dtype} {list(pixels.shape)}"
            raise DataError(
                [f"Image {index} of class {label} is {form}; a beton of {list(shape)} takes uint8 of these."]
            )
        return pixels.numpy(), label

    positions = ((label, index) for label, images in enumerate(classes) for index in range(len(images)))
    with ThreadPoolExecutor(workers) as pool:
        while block := list(islice(positions, AHEAD * workers)):
            yield from pool.map(read, block)
            written += len(block)
            report(written)
