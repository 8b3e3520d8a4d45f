"""Locks for sets of real images that a separate run selects and several runs share in their evaluations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from dist_condense.system import terminal


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Exclude other processes from the selection in ``folder`` within the context; wait for one that is working on it.

    The lock of a process that dies is released, and its stored state can be continued.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{folder}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        terminal.say(f"note: another run is making {folder}; waiting for it")
        lock.acquire()
    except NotImplementedError:  # a file system without locks
        terminal.say(f"note: {folder.parent} has no locks: let no other run make {folder.name} at the same time")
    try:
        yield
    finally:
        lock.release()
