"""Handling of Ctrl-C and SIGTERM in the driver, where a signal makes all workers save at the same step and stop."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType

from dist_condense.settings.run_folder import RunFolder
from dist_condense.system import signals


class Terminated(Exception):
    """Exception for a run that was stopped on request after saving its state; the message states the step.

    :param number: number of the signal that requested the stop; SIGTERM for any other request.
    """

    def __init__(self, message: str, number: int = signal.SIGTERM) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


class Stop:
    """Context in which Ctrl-C and SIGTERM create a file in the run's folder; workers look for it about once a second.

    A file is used because workers on other nodes can see it, and a signal handler can create it safely.
    """

    def __init__(self, folder: Path) -> None:
        self.file = RunFolder(folder).stop
        self.by: str | None = None
        """Source of the request to stop, a signal or the file; None without a request."""
        self.number = signal.SIGTERM
        """First signal that requested the stop; SIGTERM if there was none."""

    def __enter__(self) -> Stop:
        self._remove_request()
        is_main = threading.current_thread() is threading.main_thread()  # other threads cannot handle signals
        self._before = {number: signal.getsignal(number) for number in signals.ENDING if is_main}
        for number, before in self._before.items():
            if before is not signal.SIG_IGN:
                signal.signal(number, self._request)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        if self.by is None and self.file.exists():
            self.by = f"a request ({self.file})"
        self._remove_request()

    def _remove_request(self) -> None:
        if self.file.exists():  # a read-only folder is not written to
            self.file.unlink()

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.file.touch()
        if self.by is None:
            self.number = signal.Signals(number)
            self.by = self.number.name
            again = "; press Ctrl-C again to end at once" if number == signal.SIGINT else ""
            signals.say(f"stopping by {self.by}: the workers save after the step that they compute or compile{again}")
