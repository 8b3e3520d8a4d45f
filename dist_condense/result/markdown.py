"""Markdown of untrusted texts, in which nothing of a text is markup."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from dist_condense.system.credentials import masked
from dist_condense.system.terminal import printable

_MARKUP = re.compile(r"[\\`*_\[\]<>|~$&@]|:(?=/)|(?<=www)\.", re.IGNORECASE)
_ESCAPED = re.compile(r"\\(.)|`")


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of cells that are Markdown already."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def one_line(text: str) -> str:
    """Return a text as one line, with hidden characters escaped and secrets masked."""
    return printable(masked(text))


def plain(text: str) -> str:
    """Return a text as one line in which nothing is Markdown, HTML or a link."""
    return _MARKUP.sub(r"\\\g<0>", one_line(text))


def table_below(text: str, heading: str) -> dict[str, str]:
    """Return the texts of the table of two columns in a section, the inverse of :func:`table` and :func:`plain`.

    :returns: the second cell of each row by the first; empty if there is no such section.
    """
    section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line[2:-2].split(" | ") for line in section.splitlines() if line.startswith("| ") and line.endswith(" |")]
    cells = [[_ESCAPED.sub(r"\1", cell) for cell in line] for line in lines[2:] if len(line) == 2]
    return dict(cells)
