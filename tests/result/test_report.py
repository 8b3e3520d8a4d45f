import json
import os
import re
import subprocess
import sys
from dataclasses import astuple, replace
from html.parser import HTMLParser
from pathlib import Path
from unicodedata import category

import pytest
import torch

from dist_condense.evaluation.class_rows import ClassTable
from dist_condense.evaluation.rows import COLUMNS, Row, append_csv
from dist_condense.result.card import Card, CardClass
from dist_condense.result.curve import COLOURS, WIDTH
from dist_condense.result.environment import environment
from dist_condense.result.markdown import plain, table
from dist_condense.result.readme import RECIPE
from dist_condense.result.report import write_report
from dist_condense.result.summary import summarise
from dist_condense.result.synthetic_set import write_set
from dist_condense.system import terminal

ROWS = [
    Row(**dict(zip(COLUMNS, row, strict=True)))
    for row in (
        ("random", "dc", "convnet3", 0, 300, 60.0, 61.0, None),
        ("condensed", "dc", "convnet3", 0, 300, 84.0, 84.5, None),
        ("random", "dc", "convnet3", 1, 300, 64.0, 65.0, None),
        ("condensed", "dc", "<b>net</b>", 0, 300, 84.0, None, None),
    )
]


def line(row):
    return ",".join("" if x is None else str(x) for x in astuple(row)[: len(COLUMNS)])


VOID = {"meta", "img"}
NO_CHARTS = "No charts: "


class Page(HTMLParser):
    """Parser that checks that tags are balanced, and collects addresses of other files."""

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


def test_the_report_is_a_single_file_and_escapes_its_content(run):
    file = write_report(run)
    text = file.read_text()
    page = Page(text)
    assert file == run / "report.html"
    assert page.loads == []
    assert "script" not in page.tags
    assert page.tags.count("b") == len(summarise(ROWS))  # ours; none of a class or a network
    assert "<figcaption>&lt;b&gt;</figcaption>" in text and "<figcaption>one &amp; two</figcaption>" in text
    assert "&lt;b&gt;net&lt;/b&gt;" in text
    assert "&lt;script&gt;alert(1)" in text
    assert "62.0 ± 2.8" in text
    assert 'title="seed 1">64.0' in text
    assert "data:image/png;base64," in text
    assert text.count("<svg ") == 2 and text.count("role=img aria-label=") == 2
    assert "prefers-color-scheme: dark" in text and all(f"--{name}: {x};" in text for name, x in COLOURS.items())
    assert "pw@" not in text
    assert "<dt>matching steps</dt><dd>10</dd>" in text and "<dt>steps</dt><dd>50</dd>" in text
    assert "<h2>Loss</h2>" in text and "loss over steps, logarithmic scale" in text and "matching_step" not in text


def test_a_measure_that_earlier_versions_did_not_write_has_a_curve_of_the_later_steps(run):
    lines = [{"step": s, "loss": 1.0, "gradient_norm": 0.5 / s} for s in range(60, 101)]
    with (run / "metrics.jsonl").open("a") as file:
        file.write("".join(json.dumps(x) + "\n" for x in lines))
    text = write_report(run).read_text()
    assert "<h2>Gradient norm</h2>" in text and "<figcaption>gradient norm over steps</figcaption>" in text
    svg = text[text.index("<h2>Gradient norm") :]
    texts = re.findall(r"<text[^>]*>(.*?)</text>", svg)
    assert [x for x in texts if "." not in x] == ["60", "70", "80", "90", "100", "step"]
    assert len(texts) > 6 and text.count("<svg ") == 3


def test_texts_of_charts_are_legible_on_narrow_screens(run):
    """Charts are scaled down to a least width, and scrolled on narrower screens."""
    text = write_report(run).read_text()
    least = re.search(r"^svg {[^}]*min-width: (\d+)px", text, re.M)
    sizes = {float(x) for x in re.findall(r"<text style=\"font-size: ([\d.]+)px", text)}
    assert least and len(sizes) == 1 and min(sizes) * int(least[1]) / WIDTH >= 10
    assert "[role=img] { overflow-x: auto; }" in text and re.search(r"@media print {.*svg { min-width: 0; }", text)


def test_the_least_accurate_classes_come_first(run):
    rows = [replace(ROWS[0], correct=(3,)), ROWS[1], replace(ROWS[1], seed=1)]
    names = ["<b>few</b>", *(f"class {label}" for label in range(1, 30))]
    table = ClassTable(run / "evaluation_classes.csv", names, [6] + [100] * 29)
    for row, right in zip(rows, (20, 11, 13), strict=True):
        table.write(replace(row, correct=tuple([1] + [right + label for label in range(1, 30)])))
    text = write_report(run, ROWS[:2]).read_text()
    body = text[text.index("Top-1 by class") :]
    order = [int(label) for label in re.findall(r"<th scope=row>class (\d+)</th>", body)]
    assert order == list(range(1, 20)) and "10 more accurate classes are left out" in body
    assert "by condensed, convnet3" in body and "<th scope=col>condensed, convnet3</th>" in body
    row = body[body.index("class 7<") :].split("</tr>")[0]
    assert re.findall(r"<td class=number>([^<]*)</td>", row) == ["100", "27.0", "19.0"]
    assert body.index("class 4<") < body.index("&lt;b&gt;few&lt;/b&gt;") < body.index("class 5<")  # 1 of 6
    (run / "evaluation_classes.csv").write_text("mine")
    assert "Left out: " in write_report(run).read_text() and "Top-1 by class" not in write_report(run).read_text()


def test_the_difference_to_random_images_is_paired_by_seed(run):
    append_csv(run / "evaluation.csv", [replace(ROWS[1], seed=1, top1_last=86.0), replace(ROWS[0], seed=2)])
    text = write_report(run).read_text()
    row = text[text.index("<th scope=row>condensed</th>") :].split("</tr>")[0]
    assert "<td class=number>+23.0 ± 1.0</td>" in row  # of 24 and 22; no network was trained on the set with seed 2
    assert text.count("± 1.0</td>") == 1  # <b>net</b> has no random images
    (run / "evaluation.csv").write_text("\n".join([",".join(COLUMNS), line(ROWS[1])]) + "\n")
    assert "over random" not in write_report(run).read_text()


def test_the_error_of_the_test_set_follows_from_its_number_of_images(run):
    assert "± test set" not in write_report(run).read_text()  # a run of an earlier version
    table = ClassTable(run / "evaluation_classes.csv", ["a", "b"], [60, 40])
    table.write(replace(ROWS[1], correct=(50, 34)))

    def error():
        row = write_report(run).read_text().split("<th scope=row>condensed</th>")[1].split("</tr>")[0]
        return re.findall("<td class=number>([^<]*)</td>", row)[1]

    assert error() == "3.7"  # 100 sqrt(0.84 * 0.16 / 100)
    card = run / "synthetic_set" / "card.json"
    content = json.loads(card.read_text())
    for images, expected in ((10000, "0.4"), (10**400, "3.7"), (-1, "+24.0"), ("many", "3.7")):
        card.write_text(json.dumps({**content, "test_images": images, "training_images": 60000}))
        assert error() == expected
    assert "<dt>training images</dt><dd>60,000</dd>" in write_report(run).read_text()


def test_the_run_and_its_data_set_are_named_first(run):
    text = write_report(run).read_text()
    assert f"<h1>{run.name}</h1>\n<p class=about>dc · digits</p>" in text


def test_a_column_with_one_value_is_a_note(run):
    heads = re.findall("<th scope=col>([^<]*)</th>", write_report(run).read_text())
    assert heads == ["set", "architecture", "last epoch, mean ± std", "n", "over random", "best", "each seed"]
    assert "Protocol: dc. Epochs: 300." in write_report(run).read_text()


def test_the_cost_is_what_the_folder_records(run):
    def cost():
        return dict(re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", write_report(run).read_text().split("<h2>Cost")[1]))

    assert cost().keys() == {"time of condensing", "hardware of the driver"} and cost()["time of condensing"] == "50 s"
    (run / "config.yaml").write_text("cluster: {workers: 4, device: cuda}\n")
    (run / "environment.json").write_text(json.dumps({"devices": ["H<100>, 80 GiB, 1"] * 2}))
    expected = {
        "workers": "4",
        "process hours": "0.0556",
        "device": "cuda",
        "hardware of the driver": "2 x H&lt;100&gt;",
    }
    assert cost() == {"time of condensing": "50 s", **expected}
    (run / "config.yaml").write_text("cluster: {workers: '²'}\n")
    assert "workers" not in cost()


def test_the_training_recipe_is_that_of_the_card_for_people(run):
    assert "How to train on it" not in write_report(run).read_text()
    rows = [("optimiser", plain("SGD, a|b_<i>\\")), ("protocol", "`dc`")]
    text = f"# x\n\n## {RECIPE}\n\n{table(('', ''), rows)}\n## Scores\n\n{table(('a', 'b'), [('c', 'd')])}"
    (run / "synthetic_set" / "README.md").write_text(text)
    page = write_report(run).read_text()
    assert "<tr><th scope=row>optimiser</th><td>SGD, a|b_&lt;i&gt;\\</td></tr>" in page
    assert "<tr><th scope=row>protocol</th><td>dc</td></tr>" in page and "<th scope=row>c</th>" not in page
    assert "load_set(" in page


def test_balanced_accuracy_is_reported_only_where_it_differs(run):
    assert "<th scope=col>balanced" not in write_report(run).read_text()
    append_csv(run / "evaluation.csv", [replace(ROWS[0], set="herding", balanced=12.25)])
    text = write_report(run).read_text()
    assert "<th scope=col>balanced</th>" in text and "<td class=number>12.2</td>" in text


def test_the_report_has_all_rows_and_those_of_the_last_call_first(run):
    again = replace(ROWS[1], epochs=30, top1_last=71.5)
    with (run / "evaluation.csv").open("a") as file:
        file.write(line(again) + "\n")
    text = write_report(run, [again]).read_text()
    page = Page(text)
    assert page.tags.count("b") == 4
    assert "<th scope=col>epochs</th>" in text and "<td>30</td>" in text
    assert text.index("71.5") < text.index("from earlier calls") < text.index("62.0 ± 2.8")
    assert "from earlier calls" not in write_report(run).read_text()  # no latest call
    everything = [*ROWS, again]
    assert "from earlier calls" not in write_report(run, everything).read_text()


def test_the_omissions_of_the_preview_are_stated(run):
    assert "Shown:" not in write_report(run).read_text()
    card = run / "synthetic_set" / "card.json"
    classes = [{"label": i, "name": str(i)} for i in range(1000)]
    card.write_text(json.dumps({**json.loads(card.read_text()), "classes": classes}))
    assert "Shown: first 100 of 1,000 classes.\nClasses, from left" in write_report(run).read_text()


def test_a_report_of_an_empty_folder_is_a_page(tmp_path):
    text = write_report(tmp_path).read_text()
    assert Page(text).tags.count("section") == 0
    assert tmp_path.name in text


def test_the_page_comes_without_charts_where_matplotlib_is_missing(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    text = write_report(run).read_text()
    assert "<svg" not in text and Page(text).tags.count("section") == 5 and NO_CHARTS in text
    monkeypatch.undo()
    assert NO_CHARTS not in write_report(run).read_text()


@pytest.mark.parametrize("make", [lambda file: file.write_bytes(b"\xff\xfe"), os.mkfifo, Path.mkdir])
def test_a_matplotlibrc_that_cannot_be_read_costs_the_charts_alone(run, tmp_path, make):
    """matplotlib reads the file of the current folder when it is imported, so in a process of its own."""
    make(tmp_path / "matplotlibrc")
    code = f"from dist_condense.result.report import write_report\nwrite_report({str(run)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=120)
    text = (run / "report.html").read_text()
    assert "<svg" not in text and Page(text).tags.count("section") == 5 and NO_CHARTS in text


def test_the_same_folder_gives_the_same_bytes(run, monkeypatch):
    first = write_report(run).read_bytes()
    monkeypatch.setenv("MATPLOTLIBRC", str(run))
    (run / "matplotlibrc").write_text("axes.facecolor: red")
    import matplotlib

    with matplotlib.rc_context({"lines.linestyle": "--", "font.size": 30, "axes.titlesize": 3}):
        assert write_report(run).read_bytes() == first
        assert matplotlib.rcParams["font.size"] == 30


def test_no_direction_mark_or_control_character_reaches_the_page(run):
    card = run / "synthetic_set" / "card.json"
    card.write_text(json.dumps({**json.loads(card.read_text()), "method": "a\u202e", "hidden\u2066": "c\u202e\x1b[2J"}))
    (run / "environment.json").write_text(json.dumps({"os\u202e": ["\u202e"], "packages": {"x\u202e": "\u202e"}}))
    with (run / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps({"step": s, '\u202eq"<b>': 1.0}) + "\n" for s in (51, 52))
    text = write_report(run).read_text()
    assert text.count(r"\u202e") == 10 and r"<dt>hidden\u2066</dt>" in text
    assert [x for x in text if category(x) in terminal.HIDDEN and x != "\n"] == []
    assert 'aria-label="\\u202eq&#34;&lt;b&gt; over steps"' in text


HOSTILE = (
    "<script>alert(1)</script>\"><img src=x onerror=alert(1)>' onmouseover='x</title></pre></style><svg onload=x>"
    "[link=javascript:x]x[/link][red]x {{ 7 * 7 }} {% raw %} javascript:x \x1b]8;;http://x\x1b\\y \u202e \x00&lt;\nz"
)


class Document(HTMLParser):
    """Parser that collects the elements with the names of their attributes, and the text of each element."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, [name for name, _ in attrs]))
        self.texts += [value for name, value in attrs if name in ("title", "alt", "aria-label")]

    def handle_data(self, data):
        self.texts.append(data)


def page_with(name, folder):
    """Return the page of a run in which every text that another person can choose is ``name``."""
    run = folder / "run"
    card = Card(
        method=name, dataset=name, classes=(CardClass(0, name, name), CardClass(1, name)), ipc=1, channels=1, size=8,
        value_space="unit", mean=(0.3,), std=(0.3,), factor=1, seed=0, steps=50, complete=True,
    )  # fmt: skip
    write_set(run / "synthetic_set", torch.rand(2, 1, 8, 8), torch.arange(2), card)
    file = run / "synthetic_set" / "card.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), name: name, "a fact": {name: [name]}}))
    lines = [json.dumps({"step": s, name: 1.0}) for s in (1, 2)]
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    (run / "config.yaml").write_bytes(f"name: {name}\n".encode())
    (run / "environment.json").write_text(json.dumps({name: name, "packages": {name: [name]}}))
    append_csv(run / "evaluation.csv", [replace(ROWS[0], set=name, architecture=name, protocol=name)])
    return Document(write_report(run).read_text())


def test_no_text_of_others_changes_an_element_of_the_page(tmp_path):
    hostile = page_with(HOSTILE, tmp_path / HOSTILE.replace("/", "").replace("\0", "")[:60])
    plain = page_with("plain", tmp_path / "plain")
    assert hostile.elements == plain.elements
    assert sum("<script>alert(1)</script>" in text for text in hostile.texts) == sum("plain" in t for t in plain.texts)


def spoiled(file, make):
    file.unlink()
    make(file)


@pytest.mark.parametrize("name", ["metrics.jsonl", "environment.json", "config.yaml"])
@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda file: file.symlink_to("/dev/zero")])
def test_what_cannot_be_read_is_left_out_with_a_note(run, name, make):
    spoiled(run / name, make)
    text = write_report(run).read_text()
    assert Page(text).tags.count("section") == 5
    assert f"<p class=note>Left out: {run}/{name} cannot be read" in text


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda file: file.symlink_to("/dev/zero")])
def test_the_preview_takes_the_place_of_images_that_cannot_be_read(run, make):
    tensors, preview = run / "synthetic_set" / "synthetic_set.safetensors", run / "synthetic_set" / "preview.png"
    spoiled(tensors, make)
    text = write_report(run).read_text()
    assert Page(text).tags.count("img") == 1 and f"<p class=note>Left out: {tensors} is not a regular file" in text
    assert "Classes, from left to right and then down: &lt;b&gt;, one &amp; two" in text
    spoiled(preview, make)
    text = write_report(run).read_text()
    assert Page(text).tags.count("img") == 0 and f"Left out: {preview} cannot be read" in text


def test_a_record_that_is_none_is_left_out_with_a_note(run):
    (run / "environment.json").write_text("[1]")
    (run / "config.yaml").write_bytes(b"\xff")
    text = write_report(run).read_text()
    assert Page(text).tags.count("section") == 4 and text.count("<p class=note>Left out:") == 2


def test_many_measures_take_a_limited_time(run):
    names = {f"measure {i}": 1.0 for i in range(500)}
    (run / "metrics.jsonl").write_text("".join(json.dumps({"step": s, **names}) + "\n" for s in (1, 2)))
    text = write_report(run).read_text()
    assert Page(text).tags.count("svg") == 20 + 1 and "No charts of 480 more measures." in text


def test_an_invalid_card_is_left_out_of_the_page(run):
    (run / "synthetic_set" / "card.json").write_text('{"complete": true}')
    text = write_report(run).read_text()
    assert f"<h1>{run.name}</h1>" in text and "<dt>steps</dt>" not in text and Page(text).tags.count("img") == 1
