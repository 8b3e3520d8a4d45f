"""Charts as SVG elements for pages: of a measure over the steps of a run, and what others draw."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

WIDTH, HEIGHT = 760, 260
"""Size of the chart in CSS pixels, one per point of matplotlib."""
POINTS = 400
"""Largest number of points in a curve; more points are averaged in bins."""
LARGEST = 1e40
"""Magnitude above which points are omitted, because axes and their labels fail near the limits of a float. Likewise
1 / LARGEST is the least value on a logarithmic scale. Measures are float32 and therefore smaller."""
LOGARITHMIC_FROM = 10
"""Ratio of the largest to the least value above which the scale is logarithmic."""
TICKS = 6
"""Largest number of intervals between ticks on a linear axis; they are 1, 2 or 5 times a power of ten."""
COLOURS = {"accent": "#2f6f8f", "quiet": "#6b7078", "rule": "#e3e0da"}
"""Variables of the page's style sheet, and their values in light mode."""

MATPLOTLIBRC = Path("matplotlibrc")
"""File that matplotlib reads while it is imported, in the current folder; reading a named pipe would never end."""

Point = tuple[float, float]
"""A step and a value."""


@dataclass(frozen=True)
class Curve:
    """A chart of a measure over steps."""

    label: str
    svg: str


def curve(name: str, points: Sequence[Point]) -> Curve | None:
    """Draw a measure over steps, on a logarithmic scale if its values span more than a factor of ten.

    The same points give the same bytes. Points that are not finite, or above :data:`LARGEST`, are omitted.

    :returns: the chart; None if fewer than two points remain.
    :raises ImportError: matplotlib is not installed; it is imported on demand because that takes a second.
    :raises OSError: a matplotlibrc in the current folder is not a file, or cannot be read.
    """
    points = _binned([point for point in points if all(abs(x) <= LARGEST for x in point)])
    if len(points) < 2:
        return None
    values = [value for _, value in points]
    is_logarithmic = min(values) > 1 / LARGEST and max(values) / min(values) > LOGARITHMIC_FROM
    svg = drawn(partial(_plot, points=points, is_logarithmic=is_logarithmic))
    return Curve(f"{name} over steps" + (", logarithmic scale" if is_logarithmic else ""), svg)


def drawn(plot: Callable[[Any], None], height: int = HEIGHT) -> str:
    """Return the chart that ``plot`` draws on matplotlib's axes, as an SVG element in the colours of the page.

    Texts are literal: nothing in them is read as a formula.

    :param height: height in CSS pixels.
    :raises ImportError: matplotlib is not installed.
    :raises OSError: a matplotlibrc in the current folder is not a file, or cannot be read.
    """
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # no warning if it cannot cache fonts in the home folder
    if MATPLOTLIBRC.exists() and not MATPLOTLIBRC.is_file():
        raise OSError(f"{MATPLOTLIBRC.absolute()} is not a file, and matplotlib would read it")
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a matplotlibrc of the user would change the chart
        matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "dist_condense", "font.size": 12})
        matplotlib.rcParams["text.parse_math"] = False
        figure = Figure((WIDTH / 72, height / 72), layout="constrained", facecolor="none")
        axes = figure.add_subplot(facecolor="none")
        axes.tick_params(which="both", length=0, labelcolor=COLOURS["quiet"])
        axes.spines[:].set_visible(False)
        plot(axes)
        stream = io.StringIO()
        FigureCanvasSVG(figure).print_svg(stream, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = stream.getvalue()
    for variable, colour in COLOURS.items():  # the page has other colours in dark mode
        text = text.replace(colour, f"var(--{variable})")
    return text[text.index("<svg") :]  # without the XML declaration


def _plot(axes: Any, points: Sequence[Point], is_logarithmic: bool) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

    axes.plot(*zip(*points, strict=True), color=COLOURS["accent"], linewidth=1.8)
    axes.grid(axis="y", color=COLOURS["rule"])
    axes.margins(x=0)
    axes.xaxis.set_major_locator(MaxNLocator(TICKS, integer=True, steps=(1, 2, 5, 10)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_xlabel("step", color=COLOURS["quiet"], loc="right")
    axes.yaxis.set_major_locator(MaxNLocator(TICKS, steps=(1, 2, 5, 10)))
    if is_logarithmic:
        values = [value for _, value in points]
        few_decades = max(values) / min(values) < 1000
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few_decades else (1,)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())


def _binned(points: Sequence[Point]) -> list[Point]:
    """Average consecutive points so that at most :data:`POINTS` remain."""
    width = -(-len(points) // POINTS) or 1
    bins = [points[i : i + width] for i in range(0, len(points), width)]
    return [(fmean(step for step, _ in part), fmean(value for _, value in part)) for part in bins]
