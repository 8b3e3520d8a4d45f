"""Which start of a run may write in its folder: the newest one. An earlier start writes nothing more."""

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
from dist_condense.system.files import write_atomically

PATIENCE, LOOK = 60.0, 0.05
"""Seconds that a new start waits for the writes of an earlier one, and between two looks."""


@dataclass(frozen=True)
class Claim:
    """The claim of one start to the run's folder, the same in its driver and in all its workers.

    Every write to a shared record is made within :meth:`writing`, which holds a shared lock and compares the owner
    inside it. A new start first names itself the owner and then waits for the exclusive lock, so afterwards no write of
    an earlier start is under way, and none can begin. On a file system without locks the owner alone is compared.
    """

    folder: Path
    owner: str
    """Host, process and a random number."""

    @classmethod
    def new(cls, folder: Path) -> Claim:
        """That of this process, not yet taken."""
        return cls(folder, f"{socket.gethostname()}, process {os.getpid()}, {uuid.uuid4().hex[:8]}")

    @classmethod
    def standing(cls, folder: Path) -> Claim:
        """That of the start which owns the folder now; its owner is empty where no command began the run."""
        return cls(folder, _owner(folder))

    @property
    def start(self) -> str:
        """The owner in short, for logs."""
        return self.owner.rpartition(", ")[2]

    @property
    def lost(self) -> bool:
        """Whether another start owns the folder now."""
        return _owner(self.folder) != self.owner

    def take(self) -> None:
        """Own the folder, which is made where it is missing. Returns when no earlier start writes in it any more."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(RunFolder(self.folder).owner, self.owner.encode())
        deadline = time.monotonic() + PATIENCE
        while not self._is_quiet():
            if time.monotonic() > deadline:
                held = f"an earlier start has held {RunFolder(self.folder).lock} for {PATIENCE:.0f} s"
                terminal.say(f"note: {held}; this one goes on without waiting for it")
                return
            time.sleep(LOOK)

    def check(self) -> None:
        """Raises RunFailed where another start owns the folder."""
        if self.lost:
            now = _owner(self.folder) or "nobody"
            raise RunFailed(
                f"another start of this run has taken over {self.folder} ({now}); this one writes nothing more"
            )

    @contextmanager
    def writing(self) -> Iterator[None]:
        """While it is entered no other start begins to write. Raises RunFailed where one has taken the folder over."""
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
    file = RunFolder(folder).owner
    return file.read_text() if file.exists() else ""


def _opened(file: Path) -> int | None:
    """None on a disk that is full or read-only: the write itself will say so. RunFailed for a link."""
    try:
        return os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise RunFailed(f"{file} is a link, which nothing here has made; remove it") from error
        return None


def _flock(lock: int | None, how: int) -> bool:
    """False where another process holds it and ``how`` does not wait; True also where there are no locks."""
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
        os.close(lock)  # unlocks
