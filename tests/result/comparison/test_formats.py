"""Formats of a comparison, in each of which the texts of a run's folder are data."""

import csv
import io
import re
import sys

import pytest

from dist_condense.result.comparison.formats import FORMATS, LATEX, csv_text, latex, markdown, terminal_table
from dist_condense.result.comparison.groups import compared
from dist_condense.result.comparison.page import html
from dist_condense.result.comparison.runs import read
from tests.result.comparison.folders import folder_of_run
from tests.result.test_report import Page

ODD = r"=HYPERLINK(1)|<script>$x^2_\input{a}&%#~`" + "\u202e"


@pytest.fixture
def odd(tmp_path):
    first = folder_of_run(tmp_path / "a", {"condensed": [60, 62], "random": [80, 81]}, method__name=ODD)
    return compared([read(first), read(folder_of_run(tmp_path / "b", {"condensed": [70, 71]}, seed=1))])


def test_csv_has_unrounded_numbers_and_no_formula(odd):
    first, second = csv.DictReader(io.StringIO(csv_text(odd)))
    assert first["method"].startswith("'=HYPERLINK") and second["method"] == "dc"
    assert (first["top1_mean"], first["top1_std_seeds"], first["networks"]) == ("61.0", "", "2")
    assert (first["over_random_mean"], first["over_random_standard_error"]) == ("-19.5", "0.5")
    assert float(first["process_hours"]) == 7 / 3600 and int(first["set_bytes"]) > 8 * 8 * 4
    assert (first["over_random_seeds"], second["over_random_mean"], second["over_random_seeds"]) == ("1", "", "")


def test_markdown_has_a_cell_for_each_head(odd):
    table = [line for line in markdown(odd).splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {len(re.findall(r"\|", table[0]))}
    assert r"\|\<script\>" in table[2] and "-19.5 ± 0.5" in table[2]


def test_latex_prints_every_character(odd):
    text = latex(odd)
    row = next(line for line in text.splitlines() if "HYPERLINK" in line)
    assert r"\textbackslash{}input\{a\}\&\%\#\textasciitilde{}" in row and r"$-$19.5 $\pm$ 0.5" in row
    [form] = re.findall(r"begin{tabular}{([lr]+)}", text)
    assert len(re.findall(r"(?<!\\)&", row)) == len(form) - 1
    bare = re.sub("|".join(re.escape(printed) for printed in LATEX.values()), "", row.removesuffix(r" \\"))
    assert not set(bare.replace(" & ", "")) & set("\\{}$&#^_%~<>|")


def test_a_cell_of_latex_is_no_argument_of_the_line_break(tmp_path):
    runs = [read(folder_of_run(tmp_path / str(x), {"condensed": [60]}, dataset__mean=[x])) for x in (0.1, 0.2)]
    rows = latex(compared(runs, "dataset.mean")).splitlines()
    assert sum(row.startswith("{[}0.") for row in rows) == 2
    named = [read(folder_of_run(tmp_path / name, {"condensed": [60]}, method__name=name)) for name in ("*a", "b")]
    assert any(row.startswith("{*}a") for row in latex(compared(named)).splitlines())


def test_texts_are_cut_on_the_terminal_alone(tmp_path):
    names = [f"{'x' * 70}{end}" for end in "ab"]
    made = compared(
        [read(folder_of_run(tmp_path / name, {"condensed": [60]}, method__name=name)) for name in names],
    )
    assert all(name in write(made) for name in names for write in (*FORMATS.values(), html))
    assert [cell.plain for cell in terminal_table(made).columns[0].cells] == [f"{'x' * 57}..."] * 2


def test_the_page_is_a_single_file_and_escapes_its_content(odd):
    text = html(odd)
    page = Page(text)
    assert page.loads == [] and "script" not in page.tags and text.count("<svg") == 1
    assert "&lt;script&gt;$x^2" in text and "--accent" in text and "prefers-color-scheme: dark" in text
    assert html(odd) == text


@pytest.mark.parametrize("name", [*FORMATS, "html"])
def test_no_hidden_character_is_in_any_format(odd, name):
    text = {**FORMATS, "html": html}[name](odd)
    assert "\u202e" not in text and "\\u202e" in text.replace(r"\textbackslash{}", "\\").replace("\\\\", "\\")


def test_the_page_says_why_it_has_no_chart(odd, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    text = html(odd)
    assert "<svg" not in text and "No chart: " in text and Page(text).tags.count("table") == 1
