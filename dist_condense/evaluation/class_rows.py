"""Rows of evaluation_classes.csv, one per trained network and class: its top-1 accuracy on that class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import chain, repeat
from pathlib import Path

from dist_condense.evaluation.rows import (
    FORMULA,
    Key,
    Row,
    integer,
    lines_of,
    name,
    percent,
    read_table,
    set_name,
    write_table,
)
from dist_condense.system import records, terminal
from dist_condense.system.files import write_atomically
from dist_condense.system.terminal import printable


@dataclass(frozen=True, kw_only=True)
class ClassRow:
    """Result of a network on one class; the fields are the columns of evaluation_classes.csv, in order."""

    set: str
    protocol: str
    architecture: str
    seed: int
    epochs: int
    label: int
    name: str
    """Name of the class, see :func:`shown_name`."""
    images: int
    """Number of test images of the class."""
    top1: float | None
    """Top-1 accuracy on them after the last epoch, in percent, rounded to four decimals; None without test images."""

    @property
    def key(self) -> Key:
        """Identity of the trial."""
        return Key(*(getattr(self, each) for each in Key._fields))


COLUMNS = tuple(field.name for field in fields(ClassRow))
LARGEST = records.BYTES // 4
"""Largest size of the file in bytes, which is read as a whole: about 200 networks of 1,000 classes."""


@dataclass(frozen=True)
class ClassTable:
    """The file evaluation_classes.csv of one data set.

    :param names: names of the classes, by label.
    :param images: number of test images of each class.
    """

    path: Path
    names: Sequence[str]
    images: Sequence[int]

    def write(self, row: Row) -> None:
        """Write the rows of a network that was tested by this process, in place of earlier rows of the same trial.

        The file is replaced atomically. A file that would be larger than :data:`LARGEST` is left as it is, with a note,
        because the results do not depend on it. Raises RowsError if a file that must be
        parsed for that is damaged.
        """
        rows = self._rows(row)
        added = lines_of([getattr(each, name) for name in COLUMNS] for each in rows).encode()
        size = self.path.stat().st_size if self.path.exists() else 0
        if size + len(added) > LARGEST:
            terminal.event(f"note: {self.path} is full, and {', '.join(map(str, row.key))} is not in it")
            return
        heading, trial = lines_of([COLUMNS]).encode(), lines_of([row.key]).rstrip("\n").encode() + b","
        before = records.bytes_of(self.path) if size else heading
        if not before.startswith(heading) or trial in before:  # another order of columns, or a trial that is repeated
            write_table(self.path, COLUMNS, [*(x for x in read_classes(self.path) if x.key != row.key), *rows])
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, before + added)

    def _rows(self, row: Row) -> list[ClassRow]:
        numbers = zip(self.names, self.images, chain(row.correct, repeat(0)), strict=False)
        return [
            ClassRow(
                **row.key._asdict(),
                label=label,
                name=shown_name(text),
                images=images,
                top1=round(100 * correct / images, 4) if images else None,
            )
            for label, (text, images, correct) in enumerate(numbers)
        ]


def read_classes(path: Path) -> list[ClassRow]:
    """Read the rows of a file; return no rows if it does not exist. Raises RowsError, with file, line and remedy."""
    return read_table(path, [COLUMNS], _row)


def shown_name(text: str) -> str:
    """Return the name of a class as a cell that is one line of visible characters, and no formula of a spreadsheet."""
    text = printable(text)
    return f"'{text}" if text.startswith(FORMULA) else text


def _row(cells: dict[str, str]) -> ClassRow:
    return ClassRow(
        set=set_name(cells["set"]),
        protocol=name(cells["protocol"]),
        architecture=name(cells["architecture"]),
        seed=integer(cells["seed"]),
        epochs=integer(cells["epochs"]),
        label=integer(cells["label"]),
        name=name(cells["name"]),
        images=integer(cells["images"]),
        top1=percent(cells["top1"]) if cells["top1"] else None,
    )
