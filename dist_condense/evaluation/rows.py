"""Rows of evaluation.csv, one per trained network, appended when it finishes so that an evaluation can resume."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import NamedTuple

from dist_condense.system.files import write_atomically
from dist_condense.system.records import Unreadable, bytes_of


class Key(NamedTuple):
    """Identity of a trial; rows with equal keys belong to the same trial."""

    set: str
    protocol: str
    architecture: str
    seed: int
    epochs: int


@dataclass(frozen=True, kw_only=True)
class Row:
    """Result of a network trained on a set and tested; the fields are the columns of evaluation.csv, in order."""

    set: str
    protocol: str
    architecture: str
    seed: int
    epochs: int
    """Number of epochs E."""
    top1_last: float
    """Top-1 accuracy after the last epoch, in percent."""
    top1_best: float | None
    """Best top-1 accuracy of several test evaluations, in percent, selected on the test set; None if not recorded."""

    @property
    def key(self) -> Key:
        """Identity of the trial."""
        return Key(*(getattr(self, name) for name in Key._fields))


class RowsError(ValueError):
    """Error for a file whose content is not rows of an evaluation; the message states the line and the remedy."""


COLUMNS = tuple(field.name for field in fields(Row))


def append_csv(path: Path, rows: Iterable[Row]) -> None:
    """Append rows by replacing the file atomically, so that its content is complete at any time.

    Only one process may write to the file at a time.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in [*read_csv(path), *rows])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.getvalue().encode())


def read_csv(path: Path) -> list[Row]:
    """Read the rows of a file; return no rows if the file does not exist.

    The columns may have any order, and lines any ending. Raises RowsError, with file, line and remedy, for any content
    that would be lost when :func:`append_csv` rewrites the file.
    """
    if not path.exists():
        return []
    try:
        return list(_rows(_text(bytes_of(path))))
    except Unreadable as error:
        raise RowsError(f"{error}; move it away") from error
    except (ValueError, csv.Error) as error:
        raise RowsError(f"{path}, {error}; repair the file, or move it away") from error


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(f"line {line}: not UTF-8") from error


def _rows(text: str) -> Iterator[Row]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    columns = reader.fieldnames or ()
    if sorted(columns) != sorted(COLUMNS):
        raise ValueError(f"line 1: has the columns {', '.join(columns)[:200] or '(none)'}, not {', '.join(COLUMNS)}")
    for line in reader:
        try:
            yield _row(line)
        except (ValueError, TypeError) as error:
            raise ValueError(f"line {reader.line_num}: {str(error)[:200]}") from error


def _row(line: Mapping[str | None, str | None]) -> Row:
    if None in line or None in line.values():
        raise ValueError(f"not {len(COLUMNS)} values")
    cells = {str(key): str(value) for key, value in line.items()}
    return Row(
        set=cells["set"],
        protocol=cells["protocol"],
        architecture=cells["architecture"],
        seed=int(cells["seed"]),
        epochs=int(cells["epochs"]),
        top1_last=_percent(cells["top1_last"]),
        top1_best=_percent(cells["top1_best"]) if cells["top1_best"] else None,
    )


def _percent(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and 0 <= value <= 100):
        raise ValueError(f"{text} is not a percentage")
    return value
