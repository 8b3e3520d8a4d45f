"""Ctrl-C and SIGTERM from the first line of a command to its last. Imports nothing that takes time.

Before a command has begun to write, either ends it at once. After that it is raised in the main thread as
:class:`Interrupted` (:class:`dist_condense.job.stop.Stop` saves instead), and Ctrl-C once more ends it at once.
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
"""Seconds within which two signals are one Ctrl-C: `timeout` and scripts send it to a process and to its group."""
SHOW_CURSOR = "\x1b[?25h"
"""A bar on a terminal hides it."""


class Interrupted(KeyboardInterrupt):
    """The command was asked to end; it is not an error and nobody but the command catches it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def exit_code(asked: KeyboardInterrupt) -> int:
    """130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + getattr(asked, "number", signal.SIGINT)


def told(asked: KeyboardInterrupt) -> str:
    """What has happened, for a line to the user."""
    return _told(getattr(asked, "number", signal.SIGINT))


def begun() -> None:
    """The command begins to write: from now on it has to be ended with care."""
    _state.begun = True


def guarded(command: Callable[[], int]) -> int:
    """The exit code of a command of this process, which ends with it: its answers to signals stay."""
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup asks, and a script for what it starts with `&`
            signal.signal(number, _asked)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reading,), name="signals", daemon=True).start()
    from dist_condense.system import terminal  # it brings rich, which takes time

    terminal.guard()
    try:
        return command()
    except KeyboardInterrupt as asked:  # between two commands' own answers
        say(told(asked))
        return exit_code(asked)


def say(line: str) -> None:
    """To stderr, from wherever a signal was met: it takes no lock that the code which was interrupted may hold."""
    shown = SHOW_CURSOR if sys.__stderr__ is not None and sys.__stderr__.isatty() else ""
    os.write(2, f"{line}{shown}\n".encode())


class _State:
    begun = False


_state = _State()
_leaving = threading.RLock()


def _asked(number: int, frame: FrameType | None) -> None:
    """In the main thread, as soon as it runs Python again."""
    if not _state.begun:
        _leave(number, f"{_told(number)} before anything was written")
    raise Interrupted(number)


def _watch(reading: int) -> None:
    """Each signal as it comes, also while the main thread is in foreign code and cannot answer."""
    first: float | None = None
    while numbers := os.read(reading, 64):
        for number in numbers:
            if number not in ENDING:
                continue
            if not _state.begun:
                _leave(number, f"{_told(number)} before anything was written")
            now = time.monotonic()
            if first is None:
                first = now
            elif number == signal.SIGINT and now - first > ONE_PRESS:
                _leave(number, "left at once; the same command continues from what was saved")


def _leave(number: int, line: str) -> NoReturn:
    """End here and now; what was started dies with this process, as when it is killed."""
    _leaving.acquire()  # for ever where the other thread leaves
    say(line)
    os._exit(128 + number)


def _told(number: int) -> str:
    return "interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}"
