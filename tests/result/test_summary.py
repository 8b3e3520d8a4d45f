"""The summary of rows over seeds, and its table on the terminal."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from dist_condense.result.summary import summarise, summary_table
from tests.result.test_report import ROWS


def test_the_summary_is_by_set_and_architecture_with_the_sample_deviation():
    first, second, third = summarise(ROWS)
    assert (first.set, first.mean, len(first.values), first.best) == ("random", 62.0, 2, 63.0)
    assert first.std == pytest.approx(2 * 2**0.5)
    assert (first.text, second.text) == ("62.0 ± 2.8", "84.0")
    assert third.best is None


def test_the_table_of_the_terminal():
    out = io.StringIO()
    rows = [replace(row, architecture="net[bold]") for row in ROWS]
    Console(file=out, width=100).print(summary_table(rows))
    lines = out.getvalue().splitlines()
    assert lines[0].split() == ["set", "architecture", "top-1", "mean", "±", "std", "(n)"]
    assert lines[1].split() == ["random", "net[bold]", "62.0", "±", "2.8", "(2)"]


def test_balanced_accuracy_is_a_column_only_where_it_differs():
    told = {}
    for name, given in {"equal": (60.0, 84.0), "one differs": (50.0, 84.0), "unknown": (None, None)}.items():
        out = io.StringIO()
        rows = [replace(row, balanced=x) for row, x in zip(ROWS, given, strict=False)]
        Console(file=out, width=100).print(summary_table(rows))
        told[name] = [line.split()[-1] for line in out.getvalue().splitlines()]
    assert told == {
        "equal": ["(n)", "(1)", "(1)"],
        "one differs": ["balanced", "50.0", "84.0"],
        "unknown": ["(n)", "(1)", "(1)"],
    }
    earlier, now = ROWS[0], replace(ROWS[2], balanced=1.0)
    assert [x.balanced_text for x in summarise([earlier, now])] == [""]
    assert [x.balanced_text for x in summarise([replace(now, balanced=3.0), now])] == ["2.0 ± 1.4"]


def test_what_is_the_same_in_all_rows_is_no_column():
    out = io.StringIO()
    rows = [*ROWS[:2], replace(ROWS[1], epochs=30), replace(ROWS[1], protocol="idc")]
    Console(file=out, width=100).print(summary_table(rows))
    head, *lines = out.getvalue().splitlines()
    assert head.split()[:4] == ["set", "architecture", "protocol", "epochs"]
    assert [tuple(line.split()[2:4]) for line in lines] == [("dc", "300"), ("dc", "300"), ("dc", "30"), ("idc", "300")]
