"""A comparison as a table: on the terminal, in Markdown, CSV and LaTeX, in each of which untrusted names are data."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable

from rich.table import Table
from rich.text import Text

from dist_condense.evaluation.rows import FORMULA
from dist_condense.result.comparison.groups import Comparison, Group, cut
from dist_condense.result.difference import text_of
from dist_condense.result.markdown import plain, table

TOP1 = "top-1"
SINGLE = "-"
"""Text of a deviation or an error that a single value has not."""
LATEX = {
    **{char: f"\\{char}" for char in "{}$&#_%"},
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "±": r"$\pm$",
    "−": "$-$",
    "-": "{-}",  # two of them would be a dash
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # after a line break these two are its arguments
    "*": "{*}",
}
"""Characters that LaTeX does not print as they are, with what prints them."""


def cells(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return the heads and the texts of a comparison's table; columns of numbers without any number are omitted."""
    labels, numbers = comparison.labels(), [_numbers(group) for group in comparison.groups]
    kept = [head for head in numbers[0] if any(texts[head] not in ("", SINGLE) for texts in numbers)]
    rows = [[*texts.values(), *(own[head] for head in kept)] for texts, own in zip(labels, numbers, strict=True)]
    return [*labels[0], *kept], rows


def terminal_table(comparison: Comparison) -> Table:
    """Return a comparison as a table for the terminal."""
    heads, rows = cells(comparison)
    texts = len(comparison.labels()[0])
    made = Table(box=None, pad_edge=False)
    for place, head in enumerate(heads):
        made.add_column(Text(head), justify="left" if place < texts else "right", overflow="fold")
    for row in rows:
        made.add_row(*(Text(cut(text)) for text in row))
    return made


def markdown(comparison: Comparison) -> str:
    """Return a comparison as a Markdown table with its caption and notes."""
    heads, rows = cells(comparison)
    notes = "".join(f"- {plain(note)}\n" for note in comparison.notes)
    body = table([*map(plain, heads)], ([*map(plain, row)] for row in rows))
    return f"{plain(comparison.caption)}\n\n{body}" + (f"\n{notes}" if notes else "")


def csv_text(comparison: Comparison) -> str:
    """Return a comparison as CSV with unrounded numbers, and an empty cell where there is none.

    A text that a spreadsheet would execute as a formula has an apostrophe before it.
    """
    labels, numbers = comparison.labels(), [_values(group) for group in comparison.groups]
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*map(_cell, labels[0]), *numbers[0]])
    for texts, values in zip(labels, numbers, strict=True):
        writer.writerow([*map(_cell, texts.values()), *values.values()])
    return stream.getvalue()


def latex(comparison: Comparison) -> str:
    """Return a comparison as a LaTeX tabular, which needs no package; its caption and notes are comments."""
    heads, rows = cells(comparison)
    texts = len(comparison.labels()[0])
    comments = [f"% {line}" for line in (comparison.caption, *comparison.notes)]
    lines = [" & ".join(map(_latex, row)) + r" \\" for row in (heads, *rows)]
    form = "l" * texts + "r" * (len(heads) - texts)
    begin = [rf"\begin{{tabular}}{{{form}}}", r"\hline", lines[0], r"\hline"]
    return "\n".join([*comments, *begin, *lines[1:], r"\hline", r"\end{tabular}"]) + "\n"


def _numbers(group: Group) -> dict[str, str]:
    """Return the numbers of a group as texts by head, in percent, points, hours and bytes."""
    return {
        TOP1: f"{group.mean:.1f}",
        "± seeds": _fixed(group.std_seeds),
        "± networks": _fixed(group.std_networks),
        "seeds": str(len(group.members)),
        "networks": str(group.networks),
        "over random": _over_random(group),
        "hours": "" if group.hours is None else f"{group.hours:.3g}",
        "bytes": f"{group.size:,.0f}",
    }


def _values(group: Group) -> dict[str, float | int | None]:
    """Return the numbers of a group by the name of their column in CSV."""
    difference, error, seeds = group.over_random or (None, None, None)
    return {
        "top1_mean": group.mean,
        "top1_std_seeds": group.std_seeds,
        "top1_std_networks": group.std_networks,
        "seeds": len(group.members),
        "networks": group.networks,
        "over_random_mean": difference,
        "over_random_standard_error": error,
        "over_random_seeds": seeds,
        "process_hours": group.hours,
        "set_bytes": round(group.size),
    }


def _over_random(group: Group) -> str:
    """Return the difference to random images, and its number of seeds if not all seeds of the group have one."""
    if (over := group.over_random) is None:
        return ""
    part = "" if over.seeds == len(group.members) else f" ({over.seeds} of {len(group.members)} seeds)"
    return f"{text_of((over.mean, over.error))}{part}"


def _fixed(value: float | None) -> str:
    return SINGLE if value is None else f"{value:.1f}"


def _cell(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULA) else text


def _latex(text: str) -> str:
    number = re.sub(r"^-(?=\d)", "−", text)
    return re.sub("|".join(map(re.escape, LATEX)), lambda match: LATEX[match[0]], number)


FORMATS: dict[str, Callable[[Comparison], str]] = {"md": markdown, "csv": csv_text, "latex": latex}
"""Functions that return a comparison as text, by format; ``html`` is added by the page."""
