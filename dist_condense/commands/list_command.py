"""Execution of ``dist-condense list``: tables of names, from settings/names.py."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator, Sequence

from dist_condense.settings import names
from dist_condense.settings.names import Table
from dist_condense.settings.values import ConfigError
from dist_condense.system import terminal
from dist_condense.system.errors import listed

WIDTH = 110
"""Number of characters of a line."""
LONGEST = 30
"""Number of characters of a name that has its meaning on the same line."""


def show(options: argparse.Namespace) -> int:
    """List the tables that the words name, or all; return the exit code. Raises ConfigError for an unknown word."""
    tables = [*names.listed()]
    if unknown := [word for word in options.words if not any(table.is_called(word) for table in tables)]:
        raise ConfigError([f"no table is called {listed(unknown)}; `dist-condense list` prints the titles of all"])
    for table in tables:
        if not options.words or any(table.is_called(word) for word in options.words):
            terminal.out(table.heading, *_lines(table))
    return 0


def _lines(table: Table) -> Iterator[str]:
    if not any(table.names.values()):
        yield from _wrapped("  ".join(table.names), "  ")
        yield from _wrapped(table.about, "    ")
        return
    width = min(max(map(len, table.names)), LONGEST)
    for name, meaning in table.names.items():
        first, *others = _wrapped(meaning, " " * (width + 4)) or [""]
        if len(name) > width:
            yield f"  {name}"
            yield from (line for line in (first, *others) if line)
        else:
            yield f"  {name.ljust(width)}  {first.strip()}".rstrip()
            yield from others


def _wrapped(text: str, indent: str) -> Sequence[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
