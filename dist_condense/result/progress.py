"""What a person sees of a run: metrics.jsonl, followed from the driver."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn

from dist_condense.engine.procedure import Units
from dist_condense.result.metrics_file import STEP, Entry, measures, parsed
from dist_condense.system import terminal

Callback = Callable[[Sequence[Entry]], None]

INTERVAL = 0.5
PLAIN_EVERY = 10.0
RATES = 10
"""Entries whose median rate the time left is told from."""


class Follower(threading.Thread):
    """Hands the lines of a file that grows to ``callbacks``, each once and in order.

    The file may be made later, and a resumed run cuts it back to its checkpoint: it is then read again from its
    start, and only lines that were not handed over before are.

    :param skip: lines that stand there now count as handed over.
    """

    def __init__(self, file: str | Path, *callbacks: Callback, interval: float = INTERVAL, skip: bool = False) -> None:
        super().__init__(name="follower", daemon=True)
        self.file, self.callbacks, self.interval = Path(file), list(callbacks), interval
        self._end = threading.Event()
        self._offset, self._last = 0, b""
        self._handed: dict[int, bytes] = {}
        """The line of each step."""
        if skip:
            self._new()

    def run(self) -> None:
        """Until :meth:`stop`, and once more after it."""
        while not self._end.wait(self.interval):
            self._poll()
        self._poll()

    def stop(self, timeout: float = 30.0) -> None:
        """Hand over what is left and end."""
        self._end.set()
        self.join(timeout)

    def _poll(self) -> None:
        new = self._new()
        if not new:
            return
        for callback in list(self.callbacks):
            try:
                callback(new)
            except Exception as error:  # who watches must not stop the others
                self.callbacks.remove(callback)
                terminal.say(f"progress: {type(error).__name__}: {error}; no longer told")

    def _new(self) -> list[Entry]:
        new: list[Entry] = []
        for line in self._lines():
            entry = parsed(line)
            if entry is not None and self._handed.get(entry["step"]) != line:
                self._handed[entry["step"]] = line
                new.append(entry)
        return new

    def _lines(self) -> list[bytes]:
        """Whole lines since the last call; a last line without its end waits."""
        try:
            with self.file.open("rb") as stream:
                stream.seek(max(0, self._offset - len(self._last)))
                if stream.read(len(self._last)) != self._last:  # cut, or written anew
                    self._offset, self._last = 0, b""
                stream.seek(self._offset)
                content = stream.read()
        except OSError:
            return []
        whole = content[: content.rfind(b"\n") + 1]
        lines = whole.splitlines(keepends=True)
        if lines:
            self._offset, self._last = self._offset + len(whole), lines[-1]
        return lines


class Notes(Follower):
    """Hands the lines that come to a file of plain text to ``tell``; what stood there before is left out."""

    def __init__(self, file: str | Path, tell: Callable[[str], None], interval: float = INTERVAL) -> None:
        super().__init__(file, interval=interval)
        self.tell = tell
        self._offset = self.file.stat().st_size if self.file.exists() else 0

    def _poll(self) -> None:
        for line in self._lines():
            self.tell(line.decode(errors="replace").rstrip())


class Progress:
    """A bar on a terminal, else a plain line at most every ten seconds; a callback of :class:`Follower`."""

    def __init__(
        self,
        units: Units,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.units, self.clock = units, clock
        self.console = console or terminal.console(stderr=True)
        self._rates: deque[float] = deque(maxlen=RATES)
        self._entry: Entry | None = None
        self._shown: Entry | None = None
        self._next = float("-inf")
        self._display: tuple[terminal.Bars, TaskID] | None = None

    def __enter__(self) -> Progress:
        if self.console.is_terminal:
            bar = terminal.Bars(BarColumn(24), TextColumn("{task.description}", markup=False), console=self.console)
            self._display = bar, bar.add_task("starting", total=self.units.total)
            bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._display is not None:
            self._display[0].stop()
        elif self._entry is not self._shown:
            self._print()

    def __call__(self, entries: Sequence[Entry]) -> None:
        """Take new entries."""
        for entry in entries:
            self._entry = entry
            self._rates.append(entry["steps_per_second"])
        if self._entry is None:
            return
        if self._display is not None:
            bar, task = self._display
            bar.update(task, completed=self._entry["step"], description=self._line(self._entry))
        elif self.clock() >= self._next:
            self._print()

    def _print(self) -> None:
        if self._entry is not None:
            self.console.print(self._line(self._entry))
            self._shown, self._next = self._entry, self.clock() + PLAIN_EVERY

    def _line(self, entry: Entry) -> str:
        return line(entry, self.units, median(self._rates))


def line(entry: Entry, units: Units, rate: float) -> str:
    """``network 3/20, matching step 4/10, 2.5 steps/s, loss 81.2, 1 min 8 s left``.

    :param rate: steps per second.
    """
    left = units.total - entry[STEP]
    end = "done" if left <= 0 else f"{duration(left / rate)} left" if rate > 0 else "time left unknown"
    measured = [f"{name} {value:.4g}" for name, value in measures(entry).items()]
    return ", ".join([units.place(entry[STEP]), f"{rate:.3g} steps/s", *measured, end])


def duration(seconds: float) -> str:
    """``45 s``, ``3 min 5 s``, ``2 h 4 min``, ``3 d 4 h``."""
    whole = max(0, round(seconds))
    for size, unit, smaller, small_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {unit}" + (f" {rest} {small_unit}" if rest else "")
    return f"{whole} s"
