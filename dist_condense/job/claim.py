"""Ownership of a run's folder: only the most recently started driver and its workers may write to it."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dist_condense.engine.errors import RunFailed
from dist_condense.settings.run_folder import RunFolder
from dist_condense.system import terminal
from dist_condense.system.files import read_regular, write_atomically

PATIENCE, LOOK = 60.0, 0.05
"""Maximum number of seconds that a new start waits for writes of an earlier start, and seconds between two checks."""
LONGEST = 1000
"""Maximum number of bytes of the name of an owner that are read."""


@dataclass(frozen=True)
class Claim:
    """Claim to a run's folder, equal in the driver and all workers of one start of the run.

    A start is one execution of the command that runs or resumes the run. Every write to a shared record is made within
    :meth:`writing`, which takes a shared lock and then compares the owner. A new start first writes itself as the owner
    and then waits for the exclusive lock, so that afterwards no write of an earlier start is in progress, and none can
    begin. On a file system without locks, only the owner is compared.
    """

    folder: Path
    owner: str
    """Identifier of the start: host, process id and a random number."""

    @classmethod
    def new(cls, folder: Path) -> Claim:
        """Create the claim of a new start, made by this process; it owns the folder only after :meth:`take`."""
        return cls(folder, f"{socket.gethostname()}, process {os.getpid()}, {uuid.uuid4().hex[:8]}")

    @classmethod
    def present(cls, folder: Path) -> Claim:
        """Return the claim of the folder's current owner; :attr:`owner` is empty if no command started the run."""
        return cls(folder, _owner(folder))

    @property
    def start(self) -> str:
        """Short identifier of the start for logs: the random number in ``owner``."""
        return self.owner.rpartition(", ")[2]

    @property
    def lost(self) -> bool:
        """Whether another start owns the folder now."""
        return _owner(self.folder) != self.owner

    def take(self) -> None:
        """Take ownership of the folder (created if it is missing), and wait until no earlier start is writing to it.

        After :data:`PATIENCE` seconds, print a note and return without waiting longer.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(RunFolder(self.folder).owner, self.owner.encode())
        deadline = time.monotonic() + PATIENCE
        while not self._is_quiet():
            if time.monotonic() > deadline:
                locked = f"an earlier start has locked {RunFolder(self.folder).lock} for {PATIENCE:.0f} s"
                terminal.event(f"note: {locked}; this one continues without waiting for it")
                return
            time.sleep(LOOK)

    def check(self) -> None:
        """Check that this start owns the folder. Raises RunFailed otherwise."""
        if self.lost:
            now = _owner(self.folder) or "no owner"
            raise RunFailed(
                f"another start of this run has taken over {self.folder} ({now}); this one writes nothing more"
            )

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the folder's lock within the context, so that a new start waits for its end before writing.

        Raises RunFailed if another start already owns the folder.
        """
        lock = _opened(RunFolder(self.folder).lock)
        try:
            _flock(lock, fcntl.LOCK_SH)
            self.check()
            yield
        finally:
            _close(lock)

    def _is_quiet(self) -> bool:
        lock = _opened(RunFolder(self.folder).lock)
        try:
            return _flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            _close(lock)


def _owner(folder: Path) -> str:
    try:
        return read_regular(RunFolder(folder).owner, first=LONGEST).decode(errors="replace")
    except FileNotFoundError:
        return ""


def _opened(file: Path) -> int | None:
    """Open the lock file; return None on a full or read-only disk, because later writes report it.

    Raises RunFailed if the file is a link.
    """
    try:
        return os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise RunFailed(f"{file} is a link, which this program does not create; remove it") from error
        return None


def _flock(lock: int | None, how: int) -> bool:
    """Lock a file; return False if another process has locked it and ``how`` does not wait.

    Returns True if the file system does not support locks.

    :param lock: descriptor of the open file; None to lock nothing.
    :param how: operation of :func:`fcntl.flock`.
    """
    try:
        if lock is not None:
            fcntl.flock(lock, how)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _close(lock: int | None) -> None:
    if lock is not None:
        os.close(lock)  # releases the lock
