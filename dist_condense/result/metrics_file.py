"""metrics.jsonl: a line of JSON for every ``log_every`` units of the procedure, each once and in order."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dist_condense.engine.errors import RunFailed
from dist_condense.settings.run_folder import RunFolder
from dist_condense.system import records
from dist_condense.system.files import write_atomically

STEP, TIME, RATE = "step", "time", "steps_per_second"
COMMON = (STEP, TIME, RATE, "waiting", "reduced_bytes")
Entry = Mapping[str, Any]
"""A line: time (Unix, in seconds), step (units done in all), steps_per_second, waiting (the share of the time in which
a worker waited for images), reduced_bytes (handed to reductions since the line before, by all workers); the procedure's
counters, which are integers (matching: network and its matching_step, both from 0), and its measures, which are floats
(matching: loss)."""
BOM = b"\xef\xbb\xbf"


def parsed(line: bytes) -> Entry | None:
    """The entry of a line; None for one that is none: torn, not JSON, without a step, not all numbers."""
    try:
        entry = records.parsed(line.removeprefix(BOM), RunFolder.metrics.name)
    except records.Unreadable:
        return None
    if not isinstance(entry, dict) or type(entry.get(STEP)) is not int:
        return None
    return entry if all(isinstance(value, int | float) for value in entry.values()) else None


def read(file: Path) -> list[Entry]:
    """The entries in the order of the file, which may not be there; other lines and a last one without its end are
    left out."""
    return [entry for _, entry in _lines(file) if entry is not None]


def measures(entry: Entry) -> dict[str, float]:
    """What the procedure measured."""
    return {key: x for key, x in entry.items() if isinstance(x, float) and key not in COMMON}


def counters(entry: Entry) -> dict[str, int]:
    """What the procedure counts, which the step says as well."""
    return {key: x for key, x in entry.items() if isinstance(x, int) and key not in COMMON}


def append(file: Path, entry: Entry) -> None:
    """Add a line. Raises RunFailed naming the file."""
    try:
        with file.open("a") as stream:
            stream.write(json.dumps(entry) + "\n")
    except OSError as error:  # that of a write names no file
        raise RunFailed(f"{file} cannot be written ({error}); make room or repair it") from error


def cut(file: Path, steps: int) -> None:
    """Keep the entries until ``steps``, each step once and in order; a file that is so already is left alone."""
    kept = {entry[STEP]: line for line, entry in _lines(file) if entry is not None and entry[STEP] <= steps}
    content = b"".join(kept[step] + b"\n" for step in sorted(kept))
    if file.exists() and file.read_bytes() != content:
        write_atomically(file, content)


def problem(file: Path, steps: int) -> str | None:
    """Why the lines until ``steps`` cannot be kept: the first one among them that is no entry. What was being written
    when a machine died comes after them."""
    lines = list(_lines(file))
    last = max((i for i, (_, entry) in enumerate(lines) if entry is not None and entry[STEP] <= steps), default=-1)
    for number, (_, entry) in enumerate(lines[:last], start=1):
        if entry is None:
            return f"{file}, line {number}: not an entry with a step; remove the line, or move the file away"
    return None


def _lines(file: Path) -> Iterator[tuple[bytes, Entry | None]]:
    """Whole lines without their ends, and their entries."""
    content = file.read_bytes() if file.exists() else b""
    for line in content.splitlines(keepends=True):
        if line.endswith((b"\n", b"\r")):
            line = line.rstrip(b"\r\n").removeprefix(BOM)
            yield line, parsed(line)
