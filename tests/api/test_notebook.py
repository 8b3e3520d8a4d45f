"""docs/condense.ipynb: every cell runs in a kernel, and the notebook that is stored is the one that was executed."""

from __future__ import annotations

import re
import runpy
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.conftest import ROOT

MAKER = runpy.run_path(str(ROOT / "docs" / "make_notebook.py"))
TOP1 = r"\d\d\.\d ± \d+\.\d"
TEXTS = [
    r"train \(1442, 8, 8\) uint8\ntest  \(355, 8, 8\) uint8\n",
    "",
    "",
    r"set        top-1 in percent \(networks\)\n"
    + "".join(rf"{name:9}  {TOP1} \(3\)\n" for name in ("random", "condensed")),
    r"training images \[10, 1, 8, 8\]\naccuracy on the test images: \d\d\.\d%\n",
    r"the same result: True\nthe set was kept: True\n",
]
"""What each code cell prints, as patterns."""
SIZE = 100_000
PRIVATE = re.compile(r"(?<![\w.])/(?!\s)\w+/|https?://|[Ww]arning")
"""Paths of a machine, addresses and warnings, in outputs."""


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(cell: Any) -> str:
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def texts(notebook: Any) -> Iterator[str]:
    """Yield every text in the outputs, of all types."""
    for cell in code_cells(notebook):
        for output in cell.outputs:
            yield output.get("text", "")
            yield from (text for kind, text in output.get("data", {}).items() if kind.startswith("text/"))


def check(notebook: Any) -> None:
    """Assert the properties that the stored notebook and an execution share."""
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [[output.output_type for output in cell.outputs] for cell in cells]
    kinds = [[kind for kind, _ in groupby(each)] for each in outputs]  # a kernel may send a text in parts
    assert kinds == [["stream"], [], ["display_data"], ["stream"], ["stream"], ["stream"]]
    assert "image/png" in cells[2].outputs[0].data
    for cell, pattern in zip(cells, TEXTS, strict=True):
        assert re.fullmatch(pattern, printed(cell)), printed(cell)
        assert all(output.get("name", "stdout") == "stdout" for output in cell.outputs)
    assert [text for text in texts(notebook) if PRIVATE.search(text)] == []


def test_the_stored_notebook_is_executed_and_names_no_machine() -> None:
    notebook = nbformat.read(MAKER["NOTEBOOK"], as_version=4)
    nbformat.validate(notebook)
    check(notebook)
    assert set(notebook.metadata) == {"kernelspec"} and not any(cell.metadata for cell in notebook.cells)
    assert MAKER["NOTEBOOK"].stat().st_size < SIZE


@pytest.mark.slow
def test_every_cell_runs(tmp_path: Path) -> None:
    executed = MAKER["executed"](tmp_path)
    check(executed)
    random, condensed = map(float, re.findall(r"(\d+\.\d) ±", printed(code_cells(executed)[3])))
    assert condensed > random + 10
    assert [entry.name for entry in tmp_path.iterdir()] == ["outputs"]
