"""Rows of evaluation.csv, one per trained network, appended when it finishes so that an evaluation can resume."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

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
    """Result of a network trained on a set and tested; the fields but the last are the columns of evaluation.csv."""

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
    balanced: float | None = None
    """Mean over classes of the top-1 accuracy on each class after the last epoch, in percent; equal to ``top1_last`` if
    all classes have as many test images. None in a row of a version without this column."""
    correct: tuple[int, ...] = field(default=(), compare=False, repr=False)
    """Number of correctly classified test images of each class after the last epoch. It is no column, and empty in a
    row that was read from a file (see :mod:`dist_condense.evaluation.class_rows`)."""

    @property
    def key(self) -> Key:
        """Identity of the trial."""
        return Key(*(getattr(self, name) for name in Key._fields))


class RowsError(ValueError):
    """Error for a file whose content is not rows of an evaluation; the message states the line and the remedy."""


COLUMNS = tuple(field.name for field in fields(Row))[:-1]
EARLIER = tuple(name for name in COLUMNS if name != "balanced")
"""Columns of files that earlier versions have written."""
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""First characters of a cell that a spreadsheet executes as a formula; no name that this package writes has them."""
SETS_BEFORE: Mapping[str, str] = {"whole": "full"}
"""Present name of each set that had another name in an earlier version."""
NAME = 200
"""Maximum number of characters of a column's name in a message."""
Made = TypeVar("Made")
_INTEGER = re.compile(r"-?[0-9]{1,18}")


def append_csv(path: Path, rows: Iterable[Row]) -> None:
    """Append rows by replacing the file atomically, so that its content is complete at any time.

    Only one process may write to the file at a time.
    """
    write_table(path, COLUMNS, [*read_csv(path), *rows])


def read_csv(path: Path) -> list[Row]:
    """Read the rows of a file; return no rows if the file does not exist.

    The columns may have any order, and lines any ending. Raises RowsError, with file, line and remedy, for any content
    that would be lost when :func:`append_csv` rewrites the file.
    """
    return read_table(path, [COLUMNS, EARLIER], _row)


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Any]) -> None:
    """Replace a CSV file atomically; the cells of a line are attributes of a row, and None is an empty cell."""
    cells = ([getattr(row, name) for name in columns] for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lines_of([columns, *cells]).encode())


def lines_of(cells: Iterable[Sequence[object]]) -> str:
    """Return lines of a CSV file."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(cells)
    return text.getvalue()


def read_table(path: Path, accepted: Sequence[Sequence[str]], make: Callable[[dict[str, str]], Made]) -> list[Made]:
    """Read the lines of a CSV file; return none if it does not exist.

    :param accepted: sets of columns of which the file has one, in any order; the first is named in errors.
    :param make: function from the cells of a line, by column, to its row; it raises ValueError.
    :raises RowsError: the file has another form; the message states file, line and remedy.
    """
    if not path.exists():
        return []
    try:
        return list(_rows(records.text_of(records.bytes_of(path), str(path)), accepted, make))
    except records.Unreadable as error:
        raise RowsError(f"{error}; repair the file, or move it away") from error
    except (ValueError, csv.Error) as error:
        raise RowsError(f"{path}, {error}; repair the file, or move it away") from error


def _rows(text: str, accepted: Sequence[Sequence[str]], make: Callable[[dict[str, str]], Made]) -> Iterator[Made]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    columns = reader.fieldnames or ()
    if sorted(columns) not in map(sorted, accepted):
        found = listed([printable(column)[:NAME] for column in columns]) or "(none)"
        raise ValueError(f"line 1: has the columns {found}, not {', '.join(accepted[0])}")
    for line in reader:
        try:
            yield make(_cells(line))
        except (ValueError, TypeError) as error:
            raise ValueError(f"line {reader.line_num}: {error}") from error


def _cells(line: Mapping[str | None, str | None]) -> dict[str, str]:
    if None in line or None in line.values():
        raise ValueError(f"not {len(line.keys() - {None})} values")
    return {str(key): str(value) for key, value in line.items()}


def _row(cells: dict[str, str]) -> Row:
    return Row(
        set=set_name(cells["set"]),
        protocol=name(cells["protocol"]),
        architecture=name(cells["architecture"]),
        seed=integer(cells["seed"]),
        epochs=integer(cells["epochs"]),
        top1_last=percent(cells["top1_last"]),
        top1_best=percent(cells["top1_best"]) if cells["top1_best"] else None,
        balanced=percent(cells["balanced"]) if cells.get("balanced") else None,
    )


def name(text: str) -> str:
    """Return a cell that is a name. Raises ValueError for a formula of a spreadsheet."""
    if text.startswith(FORMULA):
        raise ValueError(f"{shown(text)} is a formula to a spreadsheet, and no name")
    return text


def set_name(text: str) -> str:
    """Return the present name of the set in a cell. Raises ValueError for a formula of a spreadsheet."""
    return SETS_BEFORE.get(text, name(text))


def integer(text: str) -> int:
    """Return the integer of a cell. Raises ValueError."""
    if not _INTEGER.fullmatch(text):
        raise ValueError(f"{shown(text)} is not an integer")
    return int(text)


def percent(text: str) -> float:
    """Return the percentage of a cell, 0 to 100. Raises ValueError."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 100:
        raise ValueError(f"{shown(text)} is not a percentage")
    return value
