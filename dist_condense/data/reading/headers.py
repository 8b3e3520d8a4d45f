"""Checks of image headers before a run starts, which detect most broken files at a fraction of the cost of decoding."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from itertools import islice
from time import perf_counter, thread_time
from typing import BinaryIO, TypeVar

from dist_condense.data.reading.decode import opened, why_unreadable
from dist_condense.data.reading.modes import is_grey
from dist_condense.data.reading.store import FILE_BYTES, READING_THREADS, ClassFolder
from dist_condense.system.files import open_regular

SHOWN = 5
"""Number of files named in the message."""
BLOCK = 64
"""Number of files in a task."""
AHEAD = 4
"""Number of tasks submitted at once per thread, which is limited because there may be millions of files."""
WAITING = 5e-4
"""Seconds of waiting per file, as for a network file system, from which several threads are faster than one. With
files on a local disk they hinder each other: 60,000 of them took 1.7 s in one thread and 6.7 s in 16.
"""
Result = TypeVar("Result")
Item = TypeVar("Item")


def check_headers(folders: Sequence[ClassFolder]) -> str | None:
    """Return a message that names the first broken files and counts the others, or None if all headers are valid.

    A file is broken if it cannot be opened, is not a regular file of at most FILE_BYTES bytes, has an unsupported
    format or mode, is truncated within the header, or has more pixels than Pillow's limit. Only decoding detects a file
    that is truncated after the header.
    """
    broken = [problem for block in _in_blocks(_broken_of, paths(folders)) for problem in block]
    if not broken:
        return None
    first, others = "; ".join(broken[:SHOWN]), len(broken) - SHOWN
    return (
        f"{len(broken)} image file{'s' * (len(broken) > 1)} cannot be read: {first}"
        f"{f'; and {others} more' if others > 0 else ''}. Replace or remove them, or leave them out by "
        f"`dist-condense prepare SOURCE DEST --skip-bad`."
    )


def channels_of(files: Iterable[Item], read: Callable[[Item], str | BytesIO]) -> int:
    """Return 3 if the header of any file declares colours, otherwise 1; broken files are ignored.

    Reading stops soon after a coloured file is found. Pixels are not inspected: grey pixels stored as RGB count as
    coloured.

    :param read: function that returns the path or the bytes of a file.
    """
    remaining = iter(files)

    def coloured(some: Iterable[Item]) -> bool:
        return any(_has_colour(read(file)) for file in some)

    return 3 if any(_in_blocks(coloured, remaining)) else 1


def paths(folders: Sequence[ClassFolder]) -> Iterator[str]:
    """Yield the paths of all files in the order of the folders."""
    return (os.path.join(entry.folder, name) for entry in folders for name in entry.files)


def _in_blocks(function: Callable[[list[Item]], Result], items: Iterator[Item]) -> Iterator[Result]:
    """Apply a function to blocks of items and yield the results in the order of the items.

    Several threads do so from the block on whose files are waited for (:data:`WAITING`).
    """
    waited = 0.0
    while waited < WAITING * BLOCK:
        if not (block := list(islice(items, BLOCK))):
            return
        wall, computing = perf_counter(), thread_time()
        result = function(block)
        waited = (perf_counter() - wall) - (thread_time() - computing)
        yield result
    with ThreadPoolExecutor(READING_THREADS) as pool:
        while blocks := [block for _ in range(AHEAD * READING_THREADS) if (block := list(islice(items, BLOCK)))]:
            yield from pool.map(function, blocks)


def _has_colour(file: str | BytesIO) -> bool:
    try:
        with _stream(file) as stream, opened(stream) as image:
            return not is_grey(image)
    except MemoryError:
        raise
    except Exception:  # Pillow raises any exception; `check_headers` and decoding name the file
        return False


def _broken_of(paths: list[str]) -> list[str]:
    return [f"{path} ({reason})" for path in paths if (reason := _problem(path))]


def _problem(path: str) -> str | None:
    try:
        with _stream(path) as stream, opened(stream):
            return None
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises any exception for bytes that are no image
        return why_unreadable(error)


def _stream(file: str | BytesIO) -> BinaryIO:
    return open_regular(file, FILE_BYTES) if isinstance(file, str) else file
