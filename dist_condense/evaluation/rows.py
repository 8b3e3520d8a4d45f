"""Rows of evaluation.csv, one per trained network, appended when it finishes so that an evaluation can resume."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import NamedTuple

from dist_condense.system import records
from dist_condense.system.conversion import shown
from dist_condense.system.errors import listed
from dist_condense.system.files import write_atomically
from dist_condense.system.terminal import printable


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
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""First characters of a cell that a spreadsheet executes as a formula; no name that this package writes has them."""
NAME = 200
"""Maximum number of characters of a column's name in a message."""
_INTEGER = re.compile(r"-?[0-9]{1,18}")


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
        return list(_rows(records.text_of(records.bytes_of(path), str(path))))
    except records.Unreadable as error:
        raise RowsError(f"{error}; repair the file, or move it away") from error
    except (ValueError, csv.Error) as error:
        raise RowsError(f"{path}, {error}; repair the file, or move it away") from error


def _rows(text: str) -> Iterator[Row]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    columns = reader.fieldnames or ()
    if sorted(columns) != sorted(COLUMNS):
        found = listed([printable(column)[:NAME] for column in columns]) or "(none)"
        raise ValueError(f"line 1: has the columns {found}, not {', '.join(COLUMNS)}")
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
        set=_name(cells["set"]),
        protocol=_name(cells["protocol"]),
        architecture=_name(cells["architecture"]),
        seed=_integer(cells["seed"]),
        epochs=_integer(cells["epochs"]),
        top1_last=_percent(cells["top1_last"]),
        top1_best=_percent(cells["top1_best"]) if cells["top1_best"] else None,
    )


def _name(text: str) -> str:
    if text.startswith(FORMULA):
        raise ValueError(f"{shown(text)} is a formula to a spreadsheet, and no name")
    return text


def _integer(text: str) -> int:
    if not _INTEGER.fullmatch(text):
        raise ValueError(f"{shown(text)} is not an integer")
    return int(text)


def _percent(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 100:
        raise ValueError(f"{shown(text)} is not a percentage")
    return value
