"""The headers of image files, read before a run starts: they show most broken files, at a small part of the cost."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from itertools import islice
from typing import TypeVar

from dist_condense.data.reading.decode import opened, why_unreadable
from dist_condense.data.reading.modes import is_grey
from dist_condense.data.reading.store import READING_THREADS, ClassFolder

SHOWN = 5
"""Files named in the one message."""
BLOCK = 64
"""Files of one task."""
AHEAD = 4
"""Tasks of each thread handed over at once: there may be millions of files."""
Found = TypeVar("Found")
Item = TypeVar("Item")


def check_headers(folders: Sequence[ClassFolder]) -> str | None:
    """One text that names the first broken files and the number of the others; None where all headers are right.

    Broken: in no format that is read, truncated within the header, more pixels than Pillow's limit, a mode that is
    refused, or a file that cannot be opened. A file that is truncated behind its header is found by decoding alone.
    """
    broken = [problem for found in _in_blocks(_broken_of, paths(folders)) for problem in found]
    if not broken:
        return None
    first, others = "; ".join(broken[:SHOWN]), len(broken) - SHOWN
    return (
        f"{len(broken)} image file{'s' * (len(broken) > 1)} cannot be read: {first}"
        f"{f'; and {others} more' if others > 0 else ''}. Replace or remove them, or leave them out by "
        f"`dist-condense prepare SOURCE DEST --skip-bad`."
    )


def channels_of(files: Iterable[Item], read: Callable[[Item], str | BytesIO]) -> int:
    """3 where the header of any file says that it has colours, else 1; broken files do not count.

    Ends at the first such file. The pixels are not looked at: grey ones stored as RGB count as coloured.

    :param read: from a file to its path or its bytes.
    """
    remaining = iter(files)

    def coloured(some: Iterable[Item]) -> bool:
        return any(_has_colour(read(file)) for file in some)

    # One after the other as long as the first may decide.
    return 3 if coloured(islice(remaining, BLOCK)) or any(_in_blocks(coloured, remaining)) else 1


def paths(folders: Sequence[ClassFolder]) -> Iterator[str]:
    """Of all files, in the order of the folders."""
    return (os.path.join(entry.folder, name) for entry in folders for name in entry.files)


def _in_blocks(function: Callable[[list[Item]], Found], items: Iterator[Item]) -> Iterator[Found]:
    """Of each block of items, in their order."""
    with ThreadPoolExecutor(READING_THREADS) as pool:
        while blocks := [block for _ in range(AHEAD * READING_THREADS) if (block := list(islice(items, BLOCK)))]:
            yield from pool.map(function, blocks)


def _has_colour(file: str | BytesIO) -> bool:
    try:
        with opened(file) as image:
            return not is_grey(image)
    except MemoryError:
        raise
    except Exception:  # Pillow's readers raise anything; `check_headers` and decoding name the file
        return False


def _broken_of(paths: list[str]) -> list[str]:
    return [f"{path} ({reason})" for path in paths if (reason := _what_is_wrong(path))]


def _what_is_wrong(path: str) -> str | None:
    try:
        with opened(path):
            return None
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers raise anything on bytes that are no image
        return why_unreadable(error)
