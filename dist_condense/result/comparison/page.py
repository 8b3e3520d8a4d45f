"""A comparison as a page for the browser: a single file without scripts."""

from __future__ import annotations

from dist_condense.result.bars import BARS, Bar, bars
from dist_condense.result.comparison.formats import cells
from dist_condense.result.comparison.groups import Comparison
from dist_condense.result.report import template
from dist_condense.system import terminal

TEMPLATE = "comparison_page.html"


def html(comparison: Comparison) -> str:
    """Return a comparison as a page with a table and a bar chart; if the chart fails, the page says why."""
    heads, rows = cells(comparison)
    notes, svg = list(comparison.notes), ""
    try:
        svg = bars(_bars(comparison))
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


def _bars(comparison: Comparison) -> list[Bar]:
    over_seeds = _over_seeds(comparison)
    return [
        Bar(", ".join(filter(None, texts.values())), group.mean, group.std_seeds if over_seeds else group.std_networks)
        for group, texts in zip(comparison.groups, comparison.labels(), strict=True)
    ]


def _over_seeds(comparison: Comparison) -> bool:
    """Return whether every group has several condensation seeds."""
    return all(group.std_seeds is not None for group in comparison.groups)


def _error_bars(comparison: Comparison) -> str:
    if _over_seeds(comparison):
        return "Error bars: standard deviation over condensation seeds of the mean over networks."
    if any(group.std_networks is not None for group in comparison.groups):
        return "Error bars: standard deviation over networks within a condensation seed."
    return "Without error bars, because each row has one network per condensation seed."
