"""evaluation.csv: one row per trained network, appended as it finishes, so that an evaluation resumes."""

from __future__ import annotations

import csv
import os
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path


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
    every = [*read_csv(path), *rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".new")
    with unfinished.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in every)
    os.replace(unfinished, path)


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


@dataclass(frozen=True)
class Summary:
    """Several networks of one set and architecture: the last epoch, percent."""

    mean: float
    std: float | None
    """Sample standard deviation (n - 1; the published programs divide by n); None for one run."""
    runs: int


def summarise(rows: Iterable[Row]) -> dict[tuple[str, str], Summary]:
    """By (set, architecture), in the order of the rows; ValueError where protocols or epochs would be mixed."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.set, row.architecture), []).append(row)
    return {group: _summary(group, members) for group, members in groups.items()}


def _summary(group: tuple[str, str], rows: list[Row]) -> Summary:
    kinds = {(row.protocol, row.epochs) for row in rows}
    if len(kinds) > 1:
        raise ValueError(f"summarise: {group} holds several (protocol, epochs): {sorted(kinds)}; keep one of them.")
    last = [row.top1_last for row in rows]
    std = statistics.stdev(last) if len(last) > 1 else None
    return Summary(statistics.fmean(last), std, len(last))
