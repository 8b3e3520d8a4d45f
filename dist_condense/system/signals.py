"""Handling of Ctrl-C and SIGTERM during a whole command; this module imports nothing slow.

Before a command starts to write, either signal ends the command at once. Afterwards the first signal raises
:class:`Interrupted` in the main thread, or makes a run save its state (:class:`dist_condense.job.stop.Stop`), and a
second Ctrl-C ends the command at once.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

ENDING = (signal.SIGINT, signal.SIGTERM)
ONE_PRESS = 0.1
"""Seconds within which two signals count as one Ctrl-C, because `timeout` and scripts signal both a process and its
group."""
SHOW_CURSOR = "\x1b[?25h"
"""Escape sequence that shows the cursor, which progress bars hide."""


class Interrupted(KeyboardInterrupt):
    """Exception that ends the command on request; it is not an error, and only the command itself catches it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """Return the exit code after a signal: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + getattr(interrupt, "number", signal.SIGINT)


def description(interrupt: KeyboardInterrupt) -> str:
    """Describe the signal for the user: ``interrupted``, or ``stopped by SIGTERM``."""
    return _description(getattr(interrupt, "number", signal.SIGINT))


def writing_starts() -> None:
    """Record that the command starts to write, so that a first signal no longer ends it at once."""
    _state.writing = True


def guarded(command: Callable[[], int]) -> int:
    """Run a command with handlers for Ctrl-C and SIGTERM, and return its exit code.

    The handlers are not removed, because the process ends after the command.
    """
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, and `&` in a script, request to ignore it
            signal.signal(number, _handle)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reading,), name="signals", daemon=True).start()
    from dist_condense.system import terminal  # imports rich, which is slow

    terminal.guard()
    try:
        return command()
    except KeyboardInterrupt as interrupt:  # raised where the command itself does not handle it
        say(description(interrupt))
        return exit_code(interrupt)


def say(line: str) -> None:
    """Write a line to stderr from a signal handler, without a lock that the interrupted code may hold."""
    shown = SHOW_CURSOR if sys.__stderr__ is not None and sys.__stderr__.isatty() else ""
    os.write(2, f"{line}{shown}\n".encode())


class _State:
    writing = False


_state = _State()
_leaving = threading.RLock()


def _handle(number: int, frame: FrameType | None) -> None:
    """Handle a signal in the main thread; called as soon as that thread executes Python code again."""
    if not _state.writing:
        _leave(number, f"{_description(number)} before anything was written")
    raise Interrupted(number)


def _watch(reading: int) -> None:
    """Handle each signal as it arrives in the pipe, even while the main thread is in native code and cannot respond.

    :param reading: descriptor of the pipe's reading end.
    """
    first: float | None = None
    while numbers := os.read(reading, 64):
        for number in numbers:
            if number not in ENDING:
                continue
            if not _state.writing:
                _leave(number, f"{_description(number)} before anything was written")
            now = time.monotonic()
            if first is None:
                first = now
            elif number == signal.SIGINT and now - first > ONE_PRESS:
                _leave(number, "ended at once; the same command continues from the last saved state")


def _leave(number: int, line: str) -> NoReturn:
    """Print a line and end the process at once; child processes notice this and end, as they do after SIGKILL."""
    _leaving.acquire()  # blocks for ever if the other thread ends the process
    say(line)
    os._exit(128 + number)


def _description(number: int) -> str:
    return "interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}"
