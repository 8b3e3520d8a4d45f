"""Bar chart of accuracies with error bars."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from dist_condense.result.curve import COLOURS, drawn
from dist_condense.result.markdown import one_line

BARS = 40
"""Largest number of bars in a chart."""
BAR, MARGIN = 30, 50
"""Height of a bar, and of the axis, in CSS pixels."""
NAME = 40
"""Largest number of characters of a bar's name."""
TICKS = 5
"""Largest number of intervals between ticks."""


@dataclass(frozen=True)
class Bar:
    """A mean in percent and its error, None if it is not known."""

    name: str
    mean: float
    error: float | None


def bars(all_bars: Sequence[Bar]) -> str:
    """Draw the first :data:`BARS` bars from top to bottom; return an SVG element. Raises what ``drawn`` raises."""
    shown = all_bars[:BARS]
    return drawn(partial(_plot, shown=shown), MARGIN + BAR * len(shown))


def _plot(axes: Any, shown: Sequence[Bar]) -> None:
    names = [one_line(bar.name) for bar in shown]
    names = [name if len(name) <= NAME else f"{name[: NAME - 3]}..." for name in names]
    means, places = [bar.mean for bar in shown], range(len(shown))
    errors = [math.nan if bar.error is None else bar.error for bar in shown]  # no caps where none is known
    axes.barh(places, means, height=0.6, color=COLOURS["accent"], alpha=0.6)  # error bars remain visible
    axes.errorbar(means, places, xerr=errors, fmt="none", ecolor=COLOURS["quiet"], capsize=4)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.locator_params(axis="x", nbins=TICKS)  # independent of the names' lengths
    axes.grid(axis="x", color=COLOURS["rule"])
    axes.set_axisbelow(True)
