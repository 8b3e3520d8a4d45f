"""Task of a part of the check of a machine: what it is given, and the JSON that it writes after every measurement."""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

import torch

from dist_condense.system.files import write_atomically

GIB, TERA = 2**30, 1e12
Row = dict[str, Any]
"""Row of a table: ``name``, then numbers by the name of their column, or ``skipped_because`` or ``failed_because`` with
a reason. ``shape`` names the table, where a part has several; ``heading`` is the text of a heading."""
AGAIN = 3
"""Exit code of a part that goes on in another process, because a failure may have left the GPU unusable in this one."""
SPARE = 1.3, 3.0
"""Factor, and seconds added, by which the time left must exceed an expected time."""


class Skipped(Exception):
    """Exception that ends a part that cannot run here; the message is the reason."""


@dataclass
class Task:
    """What a part is given, and the result that it writes."""

    part: str
    _: KW_ONLY
    device: torch.device
    seconds: float
    """Limit of the part, after which its process is ended."""
    json: Path
    work: Path
    """Folder for files that are not results."""
    data: Path | None = None
    smoke: bool = False
    """Whether tiny shapes are used, which only shows that every part runs."""
    keys: Sequence[str] = ()
    """Further keys of the run."""
    resume: Path | None = None
    """File in which an earlier check stored its run."""
    before: dict[str, Any] = field(default_factory=dict)
    """Results of the parts before, by name."""
    result: dict[str, Any] = field(default_factory=dict)
    start: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds until the limit."""
        return self.seconds - (time.monotonic() - self.start)

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    @property
    def rate(self) -> float | None:
        """Measured operations per second of a bf16 matrix product on this device, in units of 1e12."""
        rate: float | None = self.before.get("machine", {}).get("rate")
        return rate

    @property
    def classes(self) -> int:
        """Number of classes in the measured steps."""
        return 2 if self.smoke else 10

    @property
    def rows(self) -> list[Row]:
        """Rows so far."""
        rows: list[Row] = self.result.setdefault("rows", [])
        return rows

    def some(self, cases: dict[str, Any]) -> dict[str, Any]:
        """Return all cases, or the first one in the smoke test."""
        return dict(list(cases.items())[: 1 if self.smoke else None])

    def wait(self) -> None:
        """Wait for the device."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def took(self, work: Callable[[], object]) -> float:
        """Return the seconds of a call, until the device has finished."""
        self.wait()
        start = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - start

    def timed(self, work: Callable[[], object], *, warm: int, least: int, longest: float = 3.0) -> list[float]:
        """Return the seconds of each of at least ``least`` calls, and of more within ``longest`` seconds.

        :param warm: calls before the timed ones. In the smoke test, there is one of each.
        """
        if self.smoke:
            warm, least, longest = 1, 1, 0
        for _ in range(warm):
            work()
        times: list[float] = []
        while len(times) < least or (sum(times) < longest / 2 and len(times) < 50):
            times.append(self.took(work))
            if sum(times) > longest and len(times) >= min(3, least):
                break
        return times

    def add(self, *rows: Row, **facts: Any) -> None:
        """Add rows and facts to the result, and write it."""
        self.rows.extend(rows)
        self.result |= facts
        write_atomically(self.json, (json.dumps(self.result, indent=1) + "\n").encode())

    def attempt(self, row: Row, work: Callable[[], Row], skipped: Row | None = None) -> None:
        """Add ``row`` with the result of ``work``, or with the reason why it failed.

        A row that is there already, because the part goes on in another process, is not made again. A failure on a GPU
        ends this process with :data:`AGAIN`.

        :param skipped: reason to do nothing; None: there is none.
        """
        if any(row == {name: known.get(name) for name in row} for known in self.rows):
            return
        if skipped is not None:
            self.add({**row, **skipped})
            return
        self.add(current=row)
        try:
            made = {**row, **work()}
        except Exception as error:
            traceback.print_exc()
            made = {**row, "failed_because": first_line(error)}
        self.add(made, current=None)
        if "failed_because" in made and self.on_gpu:
            os._exit(AGAIN)  # an interpreter that shuts down may wait for the GPU

    def lacks(self, expected: float, what: str) -> Row | None:
        """Return a row without numbers if there is not enough time left for what takes ``expected`` seconds."""
        factor, more = SPARE
        if not expected or self.left > factor * expected + more:
            return None
        return {"skipped_because": f"{what} took {expected:.0f} s before, and {max(0.0, self.left):.0f} s are left"}

    def check(self) -> None:
        """Raise RuntimeError with the names of the rows that failed, if any."""
        if failed := [": ".join(filter(None, (x.get("shape"), x["name"]))) for x in self.rows if "failed_because" in x]:
            raise RuntimeError(f"not measured: {'; '.join(failed)}")

    def finish(self, status: str, reason: str = "") -> None:
        """Write how the part ended."""
        self.add(status=status, reason=reason, seconds=round(time.monotonic() - self.start, 1))


def measured(task: Task, parts: Sequence[str]) -> Iterator[Row]:
    """Yield the rows with numbers of this part and of some parts before."""
    for result in (task.result, *(task.before.get(name, {}) for name in parts)):
        yield from (row for row in result.get("rows", []) if "ms" in row)


def first_line(error: Exception) -> str:
    """Return the type and the first line of an error."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
