"""Sets of real images for the rows of an evaluation, made by a run of their own and shared between runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from dist_condense.system import terminal


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """While it is entered no other process makes the selection in ``folder``; waits for one that does.

    A process that dies leaves the folder free, and what it has stored there to be continued.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{folder}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        terminal.say(f"note: another run makes {folder}; waiting for it")
        lock.acquire()
    except NotImplementedError:  # a file system without locks
        terminal.say(f"note: {folder.parent} has no locks: let no other run make {folder.name} at the same time")
    try:
        yield
    finally:
        lock.release()
