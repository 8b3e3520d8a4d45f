"""The headers of image files, read before a run starts: they show most broken files, at a small part of the cost."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from dist_condense.data.reading.decode import opened, why_unreadable
from dist_condense.data.reading.store import READING_THREADS, ClassFolder

SHOWN = 5
"""Files named in the one message."""
BLOCK = 64
"""Files of one task."""
AHEAD = 4
"""Tasks of each thread handed over at once: there may be millions of files."""


def check_headers(folders: Sequence[ClassFolder]) -> str | None:
    """One text that names the first broken files and the number of the others; None where all headers are right.

    Broken: in no format that is read, truncated within the header, more pixels than Pillow's limit, a mode that is
    refused, or a file that cannot be opened. A file that is truncated behind its header is found by decoding alone.
    """
    paths = (os.path.join(entry.folder, name) for entry in folders for name in entry.files)
    broken = list(_broken(paths))
    if not broken:
        return None
    first, others = "; ".join(broken[:SHOWN]), len(broken) - SHOWN
    return (
        f"{len(broken)} image file{'s' * (len(broken) > 1)} cannot be read: {first}"
        f"{f'; and {others} more' if others > 0 else ''}. Replace or remove them, or leave them out by "
        f"`dist-condense prepare SOURCE DEST --skip-bad`."
    )


def _broken(paths: Iterator[str]) -> Iterator[str]:
    """`path (reason)` of each, in the order of the paths."""
    with ThreadPoolExecutor(READING_THREADS) as pool:
        while blocks := [block for _ in range(AHEAD * READING_THREADS) if (block := list(islice(paths, BLOCK)))]:
            for found in pool.map(_broken_of, blocks):
                yield from found


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
