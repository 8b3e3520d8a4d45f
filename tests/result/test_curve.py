"""The chart of a measure: what it draws, which scale it has, and that odd values neither warn nor fail."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from dist_condense.result.curve import COLOURS, HEIGHT, POINTS, WIDTH, Point, curve


def line(svg: str) -> list[Point]:
    """The points of the curve, in pixels."""
    path = next(x for x in re.findall(r"<path [^>]*>", svg) if "--accent" in x)
    return [(float(x), float(y)) for x, y in re.findall(r"[ML] ([\d.]+) ([\d.]+)", path)]


def labels(svg: str) -> list[str]:
    texts = re.findall(r"<text[^>]*>(.*?)</text>", svg)
    texts.remove("step")  # of the axis
    return texts


def test_the_curve_stays_inside_and_is_thinned() -> None:
    drawn = curve("loss", [(s, 1000.0 / s) for s in range(1, 5001)])
    assert drawn is not None and drawn.label == "loss over steps, logarithmic scale"
    points = line(drawn.svg)
    assert 20 < len(points) <= POINTS
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points)
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert [y for _, y in points] == sorted(y for _, y in points)  # down the page
    assert labels(drawn.svg) == ["1,000", "2,000", "3,000", "4,000", "1", "10", "100"]


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([5.0, 4.0], ["4.0", "4.2", "4.4", "4.6", "4.8", "5.0"]),
        ([1.0, 10.0], ["2", "4", "6", "8", "10"]),
        ([60.0, 1000.0], ["100", "200", "500", "1000"]),
        ([0.5, 400.0], ["0.5", "1", "2", "5", "10", "20", "50", "100", "200", "500"]),
        ([0.1, 400.0], ["0.1", "1", "10", "100"]),
        ([-1.0, 100.0], ["0", "20", "40", "60", "80", "100"]),
    ],
)
def test_a_logarithmic_scale_is_for_more_than_a_factor_of_ten(values: list[float], ticks: list[str]) -> None:
    drawn = curve("x", list(enumerate(values)))
    assert drawn is not None and labels(drawn.svg) == ["0", "1", *ticks]
    assert drawn.label.endswith("logarithmic scale") == (values[0] > 0 and max(values) / min(values) > 10)


@pytest.mark.parametrize("last", [2, 7, 20, 300, 7777, 12345])
def test_steps_have_few_round_ticks(last: int) -> None:
    drawn = curve("x", [(step, 5.0) for step in range(1, last + 1, max(1, last // 50))])
    assert drawn is not None
    ticks = [int(x.replace(",", "")) for x in labels(drawn.svg) if "." not in x]
    (width,) = {after - before for before, after in pairwise(ticks)}
    assert 2 <= len(ticks) <= 7 and str(width).rstrip("0") in ("1", "2", "5")


def test_too_few_values_are_no_chart() -> None:
    for points in ([], [(1.0, 1.0)], [(1.0, float("nan")), (2.0, 1.0)], [(1.0, float("inf")), (2.0, 1.0)]):
        assert curve("loss", points) is None


@pytest.mark.parametrize(
    "points",
    [
        [(1, 5.0), (2, 5.0)],
        [(1, 0.0), (1, 0.0)],
        [(1, 1e300), (2, -1e300), (3, 1e40), (4, -1e40)],
        [(1, 1e-39), (2, 1e40)],
        [(1, 5e-324), (2, 1.0)],
        [(1, 1e-310), (2, 1e-311)],
        [(1, 1e5), (2, 1e5 + 1e-6)],
        [(10**400, 1.0), (10**40, 2.0), (-(2**70), 3.0)],
        [(2, 1.0), (1, 30)],
    ],
)
def test_odd_values_neither_warn_nor_fail(points: list[Point]) -> None:
    """Warnings are errors here."""
    drawn = curve("x", points)
    assert drawn is not None and len(line(drawn.svg)) >= 2


def test_its_colours_are_the_pages_and_it_is_one_element() -> None:
    drawn = curve("x", [(1, 5.0), (2, 4.0)])
    assert drawn is not None and set(re.findall(r"var\(--(\w+)\)", drawn.svg)) == set(COLOURS)
    assert not re.search(r"#[0-9a-f]{3,6}\b|<!|<\?|<script|href|<metadata|DejaVuSans-", drawn.svg)
    tags: list[str] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, given: tags.append(tag)  # type: ignore[method-assign]
    parser.handle_endtag = lambda tag: tags.remove(tag)  # type: ignore[method-assign]
    parser.handle_startendtag = lambda tag, given: None  # type: ignore[method-assign]
    parser.feed(drawn.svg)
    assert tags == [] and drawn.svg.startswith("<svg ") and drawn.svg.rstrip().endswith("</svg>")
