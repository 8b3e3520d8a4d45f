"""A comparison as a page for the browser: a single file without scripts."""

from __future__ import annotations

from functools import partial
from typing import Any

from dist_condense.result.comparison.formats import cells
from dist_condense.result.comparison.groups import Comparison
from dist_condense.result.curve import COLOURS, drawn
from dist_condense.result.report import template
from dist_condense.system import terminal

TEMPLATE = "comparison_page.html"
BARS = 40
"""Largest number of bars in the chart; the table has all groups."""
BAR, MARGIN = 30, 50
"""Height of a bar, and of the axis, in CSS pixels."""
NAME = 40
"""Largest number of characters of a bar's name."""


def html(comparison: Comparison) -> str:
    """Return a comparison as a page with a table and a bar chart; if the chart fails, the page says why."""
    heads, rows = cells(comparison)
    notes, svg = list(comparison.notes), ""
    try:
        svg = drawn(partial(_plot, comparison=comparison), MARGIN + BAR * len(comparison.groups[:BARS]))
    except Exception as error:  # matplotlib is missing or fails
        notes.append(f"No chart: {terminal.lines_of(error)[0]}")
    if len(comparison.groups) > BARS:
        notes.append(f"The chart has the first {BARS} of {len(comparison.groups)} rows.")
    page = template(TEMPLATE).render(
        title=f"Top-1 by {comparison.by}",
        caption=comparison.caption,
        heads=heads,
        texts=len(comparison.labels()[0]),
        rows=rows,
        svg=svg,
        label=f"Mean top-1 in percent. {_error_bars(comparison)}",
        notes=notes,
    )
    return f"{page}\n"


def _plot(axes: Any, comparison: Comparison) -> None:
    groups, labels = comparison.groups[:BARS], comparison.labels()
    names = [", ".join(filter(None, texts.values())) for texts in labels[: len(groups)]]
    names = [name if len(name) <= NAME else f"{name[: NAME - 3]}..." for name in names]
    errors = [(group.std_seeds if _over_seeds(comparison) else group.std_networks) or 0 for group in groups]
    places = range(len(groups))
    axes.barh(places, [group.mean for group in groups], height=0.6, color=COLOURS["accent"])
    axes.errorbar([group.mean for group in groups], places, xerr=errors, fmt="none", ecolor=COLOURS["quiet"], capsize=4)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.grid(axis="x", color=COLOURS["rule"])
    axes.set_axisbelow(True)


def _over_seeds(comparison: Comparison) -> bool:
    """Return whether every group has several condensation seeds."""
    return all(group.std_seeds is not None for group in comparison.groups)


def _error_bars(comparison: Comparison) -> str:
    if _over_seeds(comparison):
        return "Error bars: standard deviation over condensation seeds of the mean over networks."
    if any(group.std_networks is not None for group in comparison.groups):
        return "Error bars: standard deviation over networks within a condensation seed."
    return "Without error bars, because each row has one network per condensation seed."
