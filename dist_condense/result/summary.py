"""Summary of evaluation.csv: accuracies over seeds, as data and as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev

from rich.table import Table
from rich.text import Text

from dist_condense.evaluation.rows import Row
from dist_condense.result.difference import Difference, mean_of, paired
from dist_condense.system import terminal

RANDOM = "random"
"""Set of real images selected at random."""
KEY = ("set", "architecture", "protocol", "epochs")
"""Columns that are equal in all rows of a summary; the rows differ in their seeds."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Top-1 accuracy, in percent after the last epoch, of networks that differ only in their seeds."""

    set: str
    architecture: str
    protocol: str
    epochs: str
    values: tuple[tuple[str, float], ...]
    """Seed and top-1 of each network."""
    best: float | None
    """Mean over seeds of each network's best top-1, selected on the test set; None if it is missing for any network."""
    balanced: tuple[float, ...] | None
    """Balanced accuracy of each network, in percent; None if it is missing for any network."""

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Values of the columns in :data:`KEY`, which identify the summary."""
        return self.set, self.architecture, self.protocol, self.epochs

    @property
    def mean(self) -> float:
        """Mean top-1 over seeds."""
        return fmean(x for _, x in self.values)

    @property
    def std(self) -> float | None:
        """Sample standard deviation (n - 1) over seeds; None for one seed."""
        return stdev(x for _, x in self.values) if len(self.values) > 1 else None

    @property
    def text(self) -> str:
        """Mean and standard deviation as text: ``62.1 ± 1.3``, or ``62.1`` for one seed."""
        return _text([x for _, x in self.values])

    def over(self, other: Summary) -> Difference | None:
        """Return the mean difference of the top-1 to that of another set; None if no seed is in both.

        Networks are paired by their seeds.
        """
        return mean_of(paired(dict(self.values), dict(other.values)))

    def test_error(self, images: int) -> float:
        """Return the standard error of the mean top-1, in points, that a test set of ``images`` images leaves.

        It is that of a proportion p of n independent images, sqrt(p (1 - p) / n).
        """
        p = self.mean / 100
        return 100 * sqrt(p * (1 - p) / images)

    @property
    def balanced_text(self) -> str:
        """Mean and standard deviation of the balanced accuracy as text; empty if it is missing."""
        return "" if self.balanced is None else _text(self.balanced)


def summarise(rows: Sequence[Row]) -> list[Summary]:
    """Summarise rows by set, architecture, protocol and number of epochs, in the order of their first rows."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(str(getattr(row, name)) for name in KEY), []).append(row)
    return [_summary(group) for group in groups.values()]


def over_random(summaries: Sequence[Summary]) -> list[Difference | None]:
    """Return the difference of each summary to that of random images with equal architecture, protocol and epochs.

    It is None for random images themselves, and where there are no such summary and no equal seeds.
    """
    random = {x.key[1:]: x for x in summaries if x.set == RANDOM}
    return [x.over(random[x.key[1:]]) if x.set != RANDOM and x.key[1:] in random else None for x in summaries]


def differing(summaries: Sequence[Summary]) -> list[str]:
    """Return which of the columns in :data:`KEY` but ``set`` have different values in different summaries."""
    return [name for name in KEY[1:] if len({getattr(x, name) for x in summaries}) > 1]


def is_balanced_apart(rows: Sequence[Row]) -> bool:
    """Return whether the balanced accuracy of any network differs from its top-1.

    It can only if classes have different numbers of test images. Rows of earlier versions have none.
    """
    return any(row.balanced not in (None, row.top1_last) for row in rows)


def summary_table(rows: Sequence[Row]) -> Table:
    """Return a table of summaries for the terminal.

    Protocol and epochs are columns only if they differ in the rows, and balanced accuracy only if it differs from
    top-1.
    """
    apart = is_balanced_apart(rows)
    summaries = summarise(rows)
    columns = ["set", "architecture", *(name for name in differing(summaries) if name != "architecture")]
    table = Table(*columns, box=None, pad_edge=False)
    table.add_column("top-1 mean ± std (n)", justify="right")
    if apart:
        table.add_column("balanced", justify="right")
    for x in summaries:
        texts = (Text(terminal.printable(str(getattr(x, name)))) for name in columns)
        table.add_row(*texts, f"{x.text} ({len(x.values)})", *([x.balanced_text] if apart else []))
    return table


def _text(values: Sequence[float]) -> str:
    return f"{fmean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def _summary(rows: Sequence[Row]) -> Summary:
    best = [x.top1_best for x in rows if x.top1_best is not None]
    balanced = [x.balanced for x in rows if x.balanced is not None]
    first = rows[0]
    return Summary(
        set=first.set,
        architecture=first.architecture,
        protocol=first.protocol,
        epochs=str(first.epochs),
        values=tuple((str(x.seed), x.top1_last) for x in rows),
        best=fmean(best) if len(best) == len(rows) else None,
        balanced=tuple(balanced) if len(balanced) == len(rows) else None,
    )
