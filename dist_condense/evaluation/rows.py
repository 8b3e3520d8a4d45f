"""evaluation.csv: one row per trained network, appended as it finishes, so that an evaluation resumes."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from dist_condense.data.files import write_atomically


@dataclass(frozen=True)
class Row:
    """A network trained on a set and tested; the columns of evaluation.csv, in this order."""

    set: str
    protocol: str
    architecture: str
    seed: int
    epochs: int
    """E."""
    top1_last: float
    """Percent."""
    top1_best: float
    """Percent, chosen on the test set."""

    @property
    def key(self) -> Key:
        """What makes it the same run."""
        return self.set, self.protocol, self.architecture, self.seed, self.epochs


Key = tuple[str, str, str, int, int]
COLUMNS = tuple(field.name for field in fields(Row))


def append_csv(path: Path, rows: Iterable[Row]) -> None:
    """Add rows; the file is replaced in one step, so that it is whole at any time. One writer at a time."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in [*read_csv(path), *rows])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.getvalue().encode())


def read_csv(path: Path) -> list[Row]:
    """The rows of a file; none where there is no file. ValueError for other columns."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError(f"{path} has the columns {reader.fieldnames}, not {list(COLUMNS)}: move it away.")
        return [_row(line) for line in reader]


def _row(line: Mapping[str, str]) -> Row:
    return Row(
        line["set"],
        line["protocol"],
        line["architecture"],
        int(line["seed"]),
        int(line["epochs"]),
        float(line["top1_last"]),
        float(line["top1_best"]),
    )
