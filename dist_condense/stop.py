"""SIGTERM at the driver: the workers are asked to save at one step and stop."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType, TracebackType

from dist_condense.engine.journal import STOP


class Terminated(Exception):
    """The run was stopped on request and has saved its state; the message says where."""


class Stop:
    """While it is entered, SIGTERM leaves a file in the run's folder, for which the workers look about once a second.

    A file, since the workers may be on other nodes, and what a signal handler can do without harm. Enter it when Ray
    has been started, which sets a handler of its own.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / STOP
        self.by: str | None = None
        """Who asked, where somebody did: a signal, or whoever made the file."""

    def __enter__(self) -> Stop:
        self._forget()
        self._before = signal.signal(signal.SIGTERM, self._asked)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGTERM, self._before)
        if self.by is None and self.file.exists():
            self.by = f"a request ({self.file})"
        self._forget()

    def _forget(self) -> None:
        if self.file.exists():  # else nothing is written, also where nothing can be
            self.file.unlink()

    def _asked(self, number: int, frame: FrameType | None) -> None:
        self.by = signal.Signals(number).name
        self.file.touch()
