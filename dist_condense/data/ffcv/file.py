"""Layout of this package's beton files, and the check of a file against it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dist_condense.data.ffcv.extra import load_ffcv
from dist_condense.system.errors import DataError

IMAGE, LABEL = "image", "label"
"""Fields of a record: uint8 [C, size, size] as an NDArrayField, because FFCV's image field supports only RGB; and an
integer.
"""
AGAIN = "Prepare the data again with --ffcv."


def check_beton(path: Path, counts: Sequence[int], channels: int, size: int) -> None:
    """Raise DataError unless the file is complete and has counts[label] images [channels, size, size] of each label."""
    ffcv = load_ffcv()
    if not path.is_file():
        raise DataError([f"{path}: there is no such file. {AGAIN}"])
    if _damaged(ffcv, path):
        raise DataError([f"{path}: not a whole beton file of FFCV. {AGAIN}"])
    try:
        reader = ffcv.reader.Reader(str(path))
    except (KeyError, TypeError, ValueError) as reason:
        raise DataError([f"{path}: its fields cannot be read ({reason!r:.200}). {AGAIN}"]) from reason
    if reader.field_names != [IMAGE, LABEL] or not isinstance(reader.handlers[IMAGE], ffcv.fields.NDArrayField):
        raise DataError([f"{path}: not written by this package; its fields are {reader.field_names!s:.200}. {AGAIN}"])
    problems = _differences(reader, counts, (channels, size, size))
    if problems:
        raise DataError([f"{path}: {problem} {AGAIN}" for problem in problems])


def _damaged(ffcv: Any, path: Path) -> bool:
    """Return whether the file violates FFCV's layout: a header, whole pages, and a table with one entry per record."""
    header = np.fromfile(path, dtype=ffcv.types.HeaderType, count=1)
    if len(header) == 0 or header[0]["version"] != ffcv.types.CURRENT_VERSION or header[0]["page_size"] == 0:
        return True
    pages_end, page, records = (int(header[0][name]) for name in ("alloc_table_ptr", "page_size", "num_samples"))
    return pages_end % page != 0 or pages_end + records * ffcv.types.ALLOC_TABLE_TYPE.itemsize != path.stat().st_size


def _differences(reader: Any, counts: Sequence[int], shape: tuple[int, int, int]) -> list[str]:
    """Return messages about differences between the file's tables and the expected images."""
    stored_shape, dtype = tuple(int(side) for side in reader.handlers[IMAGE].shape), reader.handlers[IMAGE].dtype
    if stored_shape != shape or dtype != np.uint8:
        return [f"images are {dtype} {list(stored_shape)!s:.200}, expected uint8 {list(shape)}."]
    pointers, labels = (reader.metadata[name] for name in reader.metadata.dtype.names)
    if len(labels) != sum(counts) or not np.array_equal(labels, np.repeat(np.arange(len(counts)), counts)):
        stored = np.bincount(labels[(labels >= 0) & (labels < len(counts))], minlength=len(counts)).tolist()
        return [f"images per class are {stored!s:.200}, expected {list(counts)!s:.200}, class after class."]
    table, nbytes = reader.alloc_table, np.prod(shape)
    inside = table["ptr"] + np.uint64(nbytes) <= reader.header["alloc_table_ptr"]
    if not (np.array_equal(table["ptr"], pointers) and (table["size"] == nbytes).all() and inside.all()):
        return ["its table of images is damaged."]
    return []
