import io
import json
import re
from dataclasses import astuple, replace
from html.parser import HTMLParser

import pytest
import torch
from rich.console import Console

from dist_condense.evaluation.rows import COLUMNS, Row
from dist_condense.result.report import curve, environment, summarise, summary_table, write_report
from dist_condense.result.synthetic_set import Card, CardClass, write_set

ROWS = [
    Row(**dict(zip(COLUMNS, row, strict=True)))
    for row in (
        ("random", "dc", "convnet3", 0, 300, 60.0, 61.0),
        ("condensed", "dc", "convnet3", 0, 300, 84.0, 84.5),
        ("random", "dc", "convnet3", 1, 300, 64.0, 65.0),
        ("condensed", "dc", "<b>net</b>", 0, 300, 84.0, None),
    )
]


def line(row):
    return ",".join("" if x is None else str(x) for x in astuple(row))


VOID = {"meta", "img", "line", "polyline"}


class Page(HTMLParser):
    """Checks that tags are balanced; keeps what would load something from elsewhere."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.loads = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [v for k, v in attrs if k in ("src", "href") and not v.startswith("data:")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def run(tmp_path):
    card = Card(
        method="dc", dataset="digits", classes=(CardClass(0, "<b>"), CardClass(1, "one & two")), ipc=1, channels=1,
        size=8, value_space="unit", mean=(0.3,), std=(0.3,), factor=1, seed=0, steps=50, complete=True,
        facts={"networks_done": 5, "networks_total": 5, "matching_steps": 10},
    )  # fmt: skip
    write_set(tmp_path / "synthetic_set", torch.rand(2, 1, 8, 8), torch.arange(2), card)
    lines = [
        {"step": s, "network": 0, "matching_step": 0, "loss": 100 / s, "steps_per_second": 1} for s in range(1, 51)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    (tmp_path / "config.yaml").write_text("name: <script>alert(1)</script>\ntracking: {uri: 'http://me:pw@host'}\n")
    (tmp_path / "environment.json").write_text(json.dumps(environment()))
    csv = [",".join(COLUMNS), *(line(row) for row in ROWS)]
    (tmp_path / "evaluation.csv").write_text("\n".join(csv) + "\n")
    return tmp_path


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


def test_the_report_stands_alone_and_escapes_what_it_shows(run):
    file = write_report(run)
    text = file.read_text()
    page = Page(text)
    assert file == run / "report.html"
    assert page.loads == []
    assert "script" not in page.tags
    assert page.tags.count("b") == len(summarise(ROWS))  # ours; none of a class or a network
    assert "&lt;b&gt;, one &amp; two" in text
    assert "&lt;b&gt;net&lt;/b&gt;" in text
    assert "&lt;script&gt;alert(1)" in text
    assert "62.0 ± 2.8" in text
    assert 'title="seed 1">64.0' in text
    assert "data:image/png;base64," in text
    assert "<polyline" in text
    assert "prefers-color-scheme: dark" in text
    assert "pw@" not in text
    assert "<dt>matching steps</dt><dd>10</dd>" in text and "<dt>steps</dt><dd>50</dd>" in text
    assert "<h2>Loss</h2>" in text and "loss over steps, logarithmic scale" in text and "matching_step" not in text


def test_the_report_has_all_rows_and_those_of_the_last_call_first(run):
    again = replace(ROWS[1], epochs=30, top1_last=71.5)
    with (run / "evaluation.csv").open("a") as file:
        file.write(line(again) + "\n")
    text = write_report(run, [again]).read_text()
    page = Page(text)
    assert page.tags.count("b") == 4
    assert "<th scope=col>epochs</th>" in text and "<td>30</td>" in text
    assert text.index("71.5") < text.index("of earlier calls") < text.index("62.0 ± 2.8")
    assert "of earlier calls" not in write_report(run).read_text()  # nobody called last
    everything = [*ROWS, again]
    assert "of earlier calls" not in write_report(run, everything).read_text()


def test_what_is_the_same_in_all_rows_is_no_column(run):
    assert "epochs</th>" not in write_report(run, ROWS).read_text()
    out = io.StringIO()
    rows = [*ROWS[:2], replace(ROWS[1], epochs=30), replace(ROWS[1], protocol="idc")]
    Console(file=out, width=100).print(summary_table(rows))
    head, *lines = out.getvalue().splitlines()
    assert head.split()[:4] == ["set", "architecture", "protocol", "epochs"]
    assert [tuple(line.split()[2:4]) for line in lines] == [("dc", "300"), ("dc", "300"), ("dc", "30"), ("idc", "300")]


def test_what_the_preview_leaves_out_is_said(run):
    assert "Shown:" not in write_report(run).read_text()
    card = run / "synthetic_set" / "card.json"
    classes = [{"label": i, "name": str(i)} for i in range(1000)]
    card.write_text(json.dumps({**json.loads(card.read_text()), "classes": classes}))
    assert "Shown: first 100 of 1,000 classes. Classes, from left" in write_report(run).read_text()


def test_a_report_of_an_empty_folder_is_a_page(tmp_path):
    text = write_report(tmp_path).read_text()
    assert Page(text).tags.count("section") == 0
    assert tmp_path.name in text


def test_the_curve_stays_inside_and_is_thinned():
    svg = curve("loss", [(s, 1000.0 / s) for s in range(1, 5001)])
    points = [tuple(map(float, x.split(","))) for x in re.search(r'points="([^"]+)"', svg)[1].split()]
    assert len(points) <= 400
    assert all(0 <= x <= 760 and 0 <= y <= 260 for x, y in points)
    assert "logarithmic" in svg
    assert "logarithmic" not in curve("loss", [(1, 5.0), (2, 4.0)])
    assert "polyline" in curve("loss", [(1, 5.0), (2, 5.0)])
    assert curve("loss", []) == curve("loss", [(1, 1.0)]) == curve("loss", [(1, float("nan")), (2, 1.0)]) == ""


def test_the_environment_can_be_written():
    found = json.loads(json.dumps(environment()))
    assert found["packages"]["torch"].startswith(torch.__version__.split("+")[0])
    assert found["cpus"] >= 1
    assert {"python", "os", "cpu", "devices", "commit"} <= set(found)
