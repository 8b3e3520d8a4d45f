"""Texts of users and of other libraries are printed as they stand: rich takes [x] for markup and :smile: for emoji."""

import ast
from dataclasses import asdict
from pathlib import Path

import pytest

from dist_condense import terminal
from dist_condense.evaluation.rows import Row
from dist_condense.progress import Progress
from dist_condense.report import summary_table

PACKAGE = Path(__file__).parents[1] / "dist_condense"
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
READING_MARKUP = {"Console", "TextColumn", "from_markup", "render_markup", "rprint"}


def markup(source: str) -> list[str]:
    """Calls by which a text of someone else's is read as markup."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    literal = "markup=False"
    named = [(ast.unparse(call.func).split(".")[-1], map(ast.unparse, call.keywords)) for call in calls]
    return [name for name, keywords in named if name in READING_MARKUP and literal not in keywords]


@pytest.mark.parametrize("file", FILES)
def test_no_console_reads_markup(file):
    assert markup((PACKAGE / file).read_text()) == []


def test_a_console_that_reads_markup_is_reported():
    planted = "Console(stderr=True)\nrich.console.Console()\nTextColumn('x', markup=True)\nText.from_markup(x)\n"
    assert markup(planted + "Console(markup=False)") == ["Console", "Console", "TextColumn", "from_markup"]


def test_texts_are_printed_as_they_stand(capsys):
    row = asdict(Row("[/x]", "dc", "[red]a[/red]", 0, 6, 1.0, 1.0))
    console = terminal.console()
    console.print("/a/[b]/c[/x] :smile: \\[d]")
    console.print(summary_table([row]))
    with Progress(1, 1, console) as progress:
        progress._line = lambda entry: "[/x] :smile:"
        progress([{"step": 1, "steps_per_second": 1.0}])
    first, _, table, last = capsys.readouterr().out.splitlines()
    assert first == "/a/[b]/c[/x] :smile: \\[d]" and last == "[/x] :smile:"
    assert "[/x]" in table and "[red]a[/red]" in table
