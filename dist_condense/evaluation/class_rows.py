"""Rows of evaluation_classes.csv, one per trained network and class: its top-1 accuracy on that class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import chain, repeat
from pathlib import Path

from dist_condense.evaluation.rows import FORMULA, Key, Row, integer, name, percent, read_table, set_name, write_table
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

        The file is replaced atomically. Raises RowsError if it cannot be read.
        """
        others = [each for each in read_classes(self.path) if each.key != row.key]
        write_table(self.path, COLUMNS, [*others, *self._rows(row)])

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
