"""Markdown of untrusted texts, in which nothing of a text is markup."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from dist_condense.system.credentials import masked
from dist_condense.system.terminal import printable

_MARKUP = re.compile(r"[\\`*_\[\]<>|~$&@]|:(?=/)|(?<=www)\.", re.IGNORECASE)


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
