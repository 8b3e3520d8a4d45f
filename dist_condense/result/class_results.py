"""Top-1 accuracy by class of the networks of summaries, as a table that begins with the least accurate classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from dist_condense.evaluation.class_rows import ClassRow
from dist_condense.result.summary import KEY, Summary
from dist_condense.settings.schema import CONDENSED

SHOWN = 20
"""Largest number of classes in a table."""


@dataclass(frozen=True)
class ClassResult:
    """Accuracies on one class.

    :param images: number of test images of the class.
    :param values: mean top-1 over seeds, in percent, of each summary; None where no network was tested by class.
    """

    name: str
    images: int
    values: tuple[float | None, ...]


@dataclass(frozen=True)
class ClassResults:
    """Accuracies on the least accurate classes.

    :param summaries: summaries of the columns.
    :param classes: at most :data:`SHOWN` classes.
    :param ranked_by: summary by whose accuracy the classes are ordered, the least first.
    :param omitted: number of classes that are left out.
    """

    summaries: tuple[Summary, ...]
    classes: tuple[ClassResult, ...]
    ranked_by: Summary
    omitted: int


def class_results(rows: Sequence[ClassRow], summaries: Sequence[Summary]) -> ClassResults | None:
    """Return the accuracies by class of those summaries whose networks have rows; None if there are none.

    The classes are ordered by the first summary of a synthetic set, or by the first of all.
    """
    values: dict[tuple[int, tuple[str, ...]], list[float]] = {}
    names = dict[int, tuple[str, int]]()
    for row in rows:
        if row.top1 is not None:
            key = tuple(str(getattr(row, name)) for name in KEY)
            values.setdefault((row.label, key), []).append(row.top1)
            names[row.label] = row.name, row.images
    tested = {key for _, key in values}
    columns = tuple(x for x in summaries if x.key in tested)
    if not columns:
        return None
    ranked_by = next((x for x in columns if x.set == CONDENSED), columns[0])
    means = {at: fmean(each) for at, each in values.items()}
    order = sorted(names, key=lambda label: (means.get((label, ranked_by.key), 100.0), label))
    classes = [ClassResult(*names[label], tuple(means.get((label, x.key)) for x in columns)) for label in order]
    return ClassResults(columns, tuple(classes[:SHOWN]), ranked_by, max(0, len(classes) - SHOWN))
