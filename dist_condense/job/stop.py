"""Ctrl-C and SIGTERM at the driver: the workers are asked to save at one step and stop."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType, TracebackType

from dist_condense.settings.run_folder import RunFolder
from dist_condense.system import signals


class Terminated(Exception):
    """The run was stopped on request and has saved its state; the message says where.

    :param number: the signal that asked, SIGTERM where it was another request.
    """

    def __init__(self, told: str, number: int = signal.SIGTERM) -> None:
        super().__init__(told)
        self.exit_code = 128 + number


class Stop:
    """While it is entered, Ctrl-C and SIGTERM leave a file in the run's folder, for which the workers look about once
    a second.

    A file, since the workers may be on other nodes, and what a signal handler can do without harm.
    """

    def __init__(self, folder: Path) -> None:
        self.file = RunFolder(folder).stop
        self.by: str | None = None
        """Who asked, where somebody did: a signal, or whoever made the file."""
        self.number = signal.SIGTERM
        """The signal that asked first."""

    def __enter__(self) -> Stop:
        self._forget()
        self._before = {number: signal.getsignal(number) for number in signals.ENDING}
        for number, before in self._before.items():
            if before is not signal.SIG_IGN:
                signal.signal(number, self._asked)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        if self.by is None and self.file.exists():
            self.by = f"a request ({self.file})"
        self._forget()

    def _forget(self) -> None:
        if self.file.exists():  # else nothing is written, also where nothing can be
            self.file.unlink()

    def _asked(self, number: int, frame: FrameType | None) -> None:
        self.file.touch()
        if self.by is None:
            self.number = signal.Signals(number)
            self.by = self.number.name
            again = "; Ctrl-C once more leaves at once" if number == signal.SIGINT else ""
            signals.say(f"stopping by {self.by}: the workers save at their next step{again}")
