"""The file metrics.jsonl: a line of JSON after the first and every ``log_every`` units, in order, one per step."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dist_condense.engine.errors import RunFailed
from dist_condense.settings.run_folder import RunFolder
from dist_condense.system import records
from dist_condense.system.files import write_atomically

STEP, TIME, RATE = "step", "time", "steps_per_second"
COMMON = (STEP, TIME, RATE, "waiting", "reduced_bytes")
MetricsEntry = Mapping[str, Any]
"""Content of a line of metrics.jsonl.

``step``: units completed since the first start; ``time``: seconds since 1970; ``steps_per_second``; ``waiting``: the
largest share of time, 0 to 1, that any worker waited for images; ``reduced_bytes``: bytes that all workers passed to
reductions since the previous line. In addition the procedure's counters, which are integers (matching: ``network`` and
its ``matching_step``, both from 0), and its measures, which are floats (matching: ``loss``, summed over all classes,
and ``gradient_norm``, the Euclidean norm of its gradient in all learnt tensors, which earlier versions did not write).
"""
BOM = b"\xef\xbb\xbf"
HOUR = 3600
BYTES = 2**28
"""Largest size of the file, about a million lines."""


def parsed(line: bytes) -> MetricsEntry | None:
    """Parse a line of metrics.jsonl; return None unless it is a JSON object of numbers with an integer step from 0.

    Floats may be infinite or NaN, and integers have at most 64 bits.
    """
    try:
        entry = records.parsed(line.removeprefix(BOM), RunFolder.metrics.name)
    except records.Unreadable:
        return None
    if not isinstance(entry, dict) or type(entry.get(STEP)) is not int or entry[STEP] < 0:
        return None
    return entry if all(map(_is_number, entry.values())) else None


def read(file: Path) -> list[MetricsEntry]:
    """Read all entries in the order of the file; empty if there is no file.

    Invalid lines, and a last line without its line end, are skipped. Raises Unreadable unless it is a regular file of
    at most :data:`BYTES`.
    """
    return [entry for _, entry in _lines(_content(file)) if entry is not None]


def measures(entry: MetricsEntry) -> dict[str, float]:
    """Return the procedure's own measures, by name with spaces: the fields of the entry whose values are floats."""
    return {key.replace("_", " "): x for key, x in entry.items() if isinstance(x, float) and key not in COMMON}


def counters(entry: MetricsEntry) -> dict[str, int]:
    """Return the procedure's own counters, which follow from the step: the fields whose values are integers."""
    return {key: x for key, x in entry.items() if isinstance(x, int) and key not in COMMON}


def process_hours(entries: Sequence[MetricsEntry], processes: int) -> float | None:
    """Return the hours that steps took by their recorded rates, times the number of processes; None without a rate.

    The start, the evaluation, pauses and repeated work are not included.

    :param entries: entries of metrics.jsonl, in order.
    """
    seconds, before = 0.0, 0
    for entry in entries:
        rate = entry.get(RATE)
        if rate is None or not 0 < rate < math.inf:
            return None
        seconds += max(0, entry[STEP] - before) / rate
        before = entry[STEP]
    return seconds * processes / HOUR if before else None


def append(file: Path, entry: MetricsEntry) -> None:
    """Append an entry as a line. Raises RunFailed, with the name of the file, if the disk does not accept it."""
    try:
        with file.open("a") as stream:
            stream.write(json.dumps(entry) + "\n")
    except OSError as error:  # an error of a write does not name the file
        raise RunFailed(f"{file} cannot be written ({error}); make room or repair it") from error


def cut(file: Path, steps: int, copy: Path | None = None) -> None:
    """Remove entries after step ``steps``, repeated steps and invalid lines.

    The file is rewritten only if its content changes. Raises Unreadable if it cannot be read.

    :param copy: file to write instead; the original is not changed.
    """
    content = _content(file)
    kept = {entry[STEP]: line for line, entry in _lines(content) if entry is not None and entry[STEP] <= steps}
    new = b"".join(kept[step] + b"\n" for step in sorted(kept))
    if copy is not None or content != new:
        write_atomically(copy or file, new)


def problem(file: Path, steps: int) -> str | None:
    """Describe the first invalid line before the last entry up to step ``steps``; None if these lines are valid.

    Later lines may be invalid, because a crash can truncate the line that is being written. A file that cannot be read
    is described, too.
    """
    try:
        lines = list(_lines(_content(file)))
    except records.Unreadable as error:
        return f"{error}; repair it, or move the file away"
    last = max((i for i, (_, entry) in enumerate(lines) if entry is not None and entry[STEP] <= steps), default=-1)
    for number, (_, entry) in enumerate(lines[:last], start=1):
        if entry is None:
            return f"{file}, line {number}: not an entry with a step; remove the line, or move the file away"
    return None


def _content(file: Path) -> bytes:
    return records.bytes_of(file, BYTES) if file.exists() else b""


def _lines(content: bytes) -> Iterator[tuple[bytes, MetricsEntry | None]]:
    """Yield each complete line without its line end, together with its entry; None for an invalid line."""
    for line in content.splitlines(keepends=True):
        if line.endswith((b"\n", b"\r")):
            line = line.rstrip(b"\r\n").removeprefix(BOM)
            yield line, parsed(line)


def _is_number(value: object) -> bool:
    return type(value) is float or (type(value) is int and abs(value) < 2**63)
