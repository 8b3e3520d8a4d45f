"""Repeated timing of pieces of work, with reports of its progress and of other processes on the machine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TypeVar

import torch

from dist_condense.settings.schema import CUDA

ROUNDS, MOST_ROUNDS, WINDOW = 3, 30, 5.0
"""Smallest and largest number of timings of each piece of work, and the seconds in which all timings should end."""
LONGEST = 2.0
"""Longest duration of a piece in seconds; a longer piece is timed with fewer images and extrapolated."""
FEW = 4
"""Number of images from which the search for an affordable number starts."""
SILENCE = 4.0
"""Seconds after which the progress is reported again."""
STAT = Path("/proc/stat")
"""Where Linux counts the time of its cores."""

Key = TypeVar("Key")
Piece = Callable[[], object]


@dataclass
class Stopwatch:
    """Timer of the parts of a measurement, each of which consists of pieces of work.

    Pieces are timed in turn, so that a disturbance affects all of them, and the least time of each is used, because
    other work on the machine can only add to it.
    """

    device: torch.device
    parts: int
    """Number of calls of :meth:`least`, for the reports."""
    tell: Callable[[str], None]
    """Callback that receives lines which report the progress."""
    spread: float = 0.0
    """Largest relative difference so far between the median and the least time of a piece."""
    _part: int = 1
    _told: float = field(default_factory=lambda: time.monotonic())

    def least(self, name: str, pieces: Mapping[Key, Piece]) -> dict[Key, float]:
        """Return the least of the repeated times of each piece, in seconds.

        :param name: name of the part, for the reports.
        """
        rounds: list[dict[Key, float]] = []
        number = ROUNDS

        def turn() -> dict[Key, float]:
            times: dict[Key, float] = {}
            for key, piece in pieces.items():
                times[key] = self.seconds(piece)
                done = len(rounds) * len(pieces) + len(times)
                self._report(f"{name}: {done} of {number * len(pieces)} timings")
            return times

        for piece in pieces.values():  # a warm-up: the first step of a shape takes longer
            self.seconds(piece)
            self._report(f"{name}: first steps")
        rounds.append(turn())
        number = min(MOST_ROUNDS, max(ROUNDS, int(WINDOW / sum(rounds[0].values()))))
        while len(rounds) < number:
            rounds.append(turn())
        found = {key: [times[key] for times in rounds] for key in pieces}
        self.spread = max([self.spread, *(median(times) / min(times) - 1 for times in found.values())])
        self.tell(f"part {self._part} of {self.parts}, {name}: done, each piece timed {number} times")
        self._part, self._told = self._part + 1, time.monotonic()
        return {key: min(times) for key, times in found.items()}

    def affordable(self, name: str, step: Callable[[int], Piece], most: int) -> int:
        """Return the number of images, doubled until a step takes LONGEST / 2 seconds or the number reaches ``most``.

        :param step: function from a number of images to a piece of work.
        """
        images = min(FEW, most)
        self.seconds(step(images))  # a warm-up: the first step takes longer
        while images < most and self.seconds(step(images)) < LONGEST / 2:
            images = min(most, 2 * images)
            self._report(f"{name}: how many images take a second? trying {images}")
        return images

    def seconds(self, piece: Piece) -> float:
        """Return the seconds that a piece of work takes on the device."""
        wait = torch.cuda.synchronize if self.device.type == CUDA else lambda: None
        wait()
        start = time.perf_counter()
        piece()
        wait()
        return time.perf_counter() - start

    def _report(self, text: str) -> None:
        """Report the progress if nothing was reported for :data:`SILENCE` seconds."""
        if time.monotonic() - self._told >= SILENCE:
            self.tell(f"part {self._part} of {self.parts}, {text}")
            self._told = time.monotonic()


@dataclass(frozen=True)
class Usage:
    """Use of this machine's cores at one time.

    :param at: seconds of a monotonic clock.
    :param busy: seconds that all cores have worked since the start of the machine; None: unknown.
    :param own: seconds that this process has worked on them.
    """

    at: float
    busy: float | None
    own: float

    @classmethod
    def read(cls) -> Usage:
        """Read the use of the cores."""
        own = os.times()
        return cls(time.monotonic(), _busy(), own.user + own.system + own.children_user + own.children_system)

    def others_until(self, end: Usage) -> float | None:
        """Return the share of the cores, from 0 to 1, that other processes used from here to ``end``; None: unknown."""
        if self.busy is None or end.busy is None or end.at <= self.at:
            return None
        worked = (end.busy - self.busy) - (end.own - self.own)
        return min(1.0, max(0.0, worked / (end.at - self.at) / (os.cpu_count() or 1)))


def load_average() -> float | None:
    """Return the average number of runnable processes in the last minute; None: unknown."""
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):  # AttributeError: Windows
        return None


def _busy() -> float | None:
    """Return the seconds in which cores were neither idle nor waiting for a disk, including those of other guests."""
    try:
        _, *ticks = STAT.read_text().split("\n", 1)[0].split()
        user, nice, system, _, _, *rest = map(int, ticks[:8])
    except (OSError, ValueError):
        return None
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")
