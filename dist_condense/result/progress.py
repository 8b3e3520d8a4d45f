"""Progress of a run on the terminal: the driver follows metrics.jsonl, which the worker of rank 0 writes."""

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
from dist_condense.result.metrics_file import RATE, STEP, MetricsEntry, measures, parsed
from dist_condense.system import terminal

Callback = Callable[[Sequence[MetricsEntry]], None]

INTERVAL = 0.5
"""Seconds between two checks of a followed file."""
PLAIN_EVERY = 10.0
"""Minimum number of seconds between two progress lines if the output is not a terminal."""
RATES = 10
"""Number of recent entries used to estimate the remaining time, by their median rate; the first entry of a start, whose
rate includes compiling, only until there is another one."""


class Follower(threading.Thread):
    """Thread that passes new entries of a metrics file to ``callbacks``, each once and in order.

    The file may be created later. When a resumed run cuts the file back to its checkpoint, the thread reads the file
    again from the beginning and passes on only lines that are new.

    :param interval: seconds between two checks of the file.
    :param skip: do not pass on entries that are in the file already.
    """

    def __init__(self, file: str | Path, *callbacks: Callback, interval: float = INTERVAL, skip: bool = False) -> None:
        super().__init__(name="follower", daemon=True)
        self.file, self.callbacks, self.interval = Path(file), list(callbacks), interval
        self._end = threading.Event()
        self._offset, self._last = 0, b""
        self._seen: dict[int, bytes] = {}
        """Latest line of each step."""
        if skip:
            self._new_entries()

    def run(self) -> None:
        """Check the file repeatedly until :meth:`stop` is called, and once more after that."""
        while not self._end.wait(self.interval):
            self._poll()
        self._poll()

    def stop(self, timeout: float = 30.0) -> None:
        """Pass on the remaining entries and end the thread, waiting at most ``timeout`` seconds."""
        self._end.set()
        self.join(timeout)

    def _poll(self) -> None:
        entries = self._new_entries()
        if not entries:
            return
        for callback in list(self.callbacks):
            try:
                callback(entries)
            except Exception as error:  # an error of one callback must not stop the others
                self.callbacks.remove(callback)
                terminal.event(f"progress: {type(error).__name__}: {error}; no longer reported")

    def _new_entries(self) -> list[MetricsEntry]:
        entries: list[MetricsEntry] = []
        for line in self._new_lines():
            entry = parsed(line)
            if entry is not None and self._seen.get(entry[STEP]) != line:
                self._seen[entry[STEP]] = line
                entries.append(entry)
        return entries

    def _new_lines(self) -> list[bytes]:
        """Return the lines completed since the previous call; an incomplete last line is left for the next call."""
        try:
            with self.file.open("rb") as stream:
                stream.seek(max(0, self._offset - len(self._last)))
                if stream.read(len(self._last)) != self._last:  # the file was cut or rewritten
                    self._offset, self._last = 0, b""
                stream.seek(self._offset)
                content = stream.read()
        except OSError:
            return []
        complete = content[: content.rfind(b"\n") + 1]
        lines = complete.splitlines(keepends=True)
        if lines:
            self._offset, self._last = self._offset + len(complete), lines[-1]
        return lines


class Notes(Follower):
    """Thread that passes new lines of a text file to ``report``; lines already in the file are skipped."""

    def __init__(self, file: str | Path, report: Callable[[str], None], interval: float = INTERVAL) -> None:
        super().__init__(file, interval=interval)
        self.report = report
        self._offset = self.file.stat().st_size if self.file.exists() else 0

    def _poll(self) -> None:
        for line in self._new_lines():
            self.report(line.decode(errors="replace").rstrip())


class ProgressDisplay:
    """Callback of :class:`Follower` that draws a progress bar on a terminal, or prints a line every 10 s elsewhere.

    :param clock: function that returns the time in seconds; only differences are used.
    """

    def __init__(
        self,
        units: Units,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.units, self.clock = units, clock
        self.console = console or terminal.console(stderr=True)
        self._rates: deque[float] = deque(maxlen=RATES)
        self._entry: MetricsEntry | None = None
        self._is_first = False
        """Whether no other entry came before the latest one."""
        self._printed: MetricsEntry | None = None
        self._next_print = float("-inf")
        self._display: tuple[terminal.Bars, TaskID] | None = None

    def __enter__(self) -> ProgressDisplay:
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
        elif self._entry is not self._printed:
            self._print()

    def __call__(self, entries: Sequence[MetricsEntry]) -> None:
        """Show the progress at the last of ``entries``."""
        for entry in entries:
            if self._is_first:
                self._rates.clear()
            self._is_first = self._entry is None
            self._entry = entry
            self._rates.append(entry[RATE])
        if self._entry is None:
            return
        if self._display is not None:
            bar, task = self._display
            bar.update(task, completed=self._entry[STEP], description=self._line(self._entry))
        elif self.clock() >= self._next_print:
            self._print()

    def _print(self) -> None:
        if self._entry is not None:
            self.console.print(f"{terminal.clock()} {self._line(self._entry)}")
            self._printed, self._next_print = self._entry, self.clock() + PLAIN_EVERY

    def _line(self, entry: MetricsEntry) -> str:
        return line(entry, self.units, median(self._rates), is_first=self._is_first)


def line(entry: MetricsEntry, units: Units, rate: float, is_first: bool = False) -> str:
    """Format an entry as a line, such as ``network 3/20, matching step 4/10, 2.5 steps/s, 1 min 8 s left, loss 81.2``.

    The measures are last, because a narrow terminal omits the end.

    :param rate: steps per second, from which the remaining time is estimated.
    :param is_first: whether the rate may include compiling, so that the remaining time is an upper bound.
    """
    left = units.total - entry[STEP]
    at_most = "at most " if is_first else ""
    end = "done" if left <= 0 else f"{at_most}{duration(left / rate)} left" if rate > 0 else "time left unknown"
    values = [f"{name} {value:.4g}" for name, value in measures(entry).items()]
    return ", ".join([units.place(entry[STEP]), speed(rate), end, *values])


def speed(rate: float) -> str:
    """Format steps per second; below 1 as seconds per step: ``2.5 steps/s``, ``4.2 s/step``."""
    return f"{rate:.3g} steps/s" if rate >= 1 or rate <= 0 else f"{1 / rate:.3g} s/step"


def duration(seconds: float) -> str:
    """Format a duration in its two largest units, such as ``45 s``, ``3 min 5 s``, ``2 h 4 min`` or ``3 d 4 h``."""
    whole = max(0, round(seconds))
    for size, unit, smaller, small_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            remainder = whole % size // smaller
            return f"{whole // size} {unit}" + (f" {remainder} {small_unit}" if remainder else "")
    return f"{whole} s"
