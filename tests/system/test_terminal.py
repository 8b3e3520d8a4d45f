"""Texts of users and other libraries appear unchanged on a terminal, and none of them can control it."""

from __future__ import annotations

import ast
import errno
import io
import json
import logging
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unicodedata import category

import pytest
import yaml
from rich.progress import TextColumn
from rich.text import Text

from dist_condense.commands import cli
from dist_condense.data.sets.listing import is_utf8
from dist_condense.engine.errors import RunFailed
from dist_condense.engine.procedure import Units
from dist_condense.evaluation.evaluate import Trial, TrialFailed
from dist_condense.evaluation.rows import Row, append_csv
from dist_condense.job import comparing, job
from dist_condense.job.claim import Claim
from dist_condense.planning.calibrate import compared
from dist_condense.planning.images import assumed
from dist_condense.planning.workload import workload_of
from dist_condense.result.card import FORMAT
from dist_condense.result.progress import Notes, ProgressDisplay
from dist_condense.result.summary import summary_table
from dist_condense.result.tracking import replay, server, tracker
from dist_condense.settings import config
from dist_condense.settings.run_folder import RunFolder
from dist_condense.system import terminal
from dist_condense.system.errors import DataError
from dist_condense.system.terminal import printable
from tests.data.shards.shard_cases import photograph, prepared
from tests.planning.cases import RATES

PACKAGE = Path(__file__).parents[2] / "dist_condense"
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))

STEERING = "\x1b]0;pwned\x07\x1b[2J\x1b[35m\x9b31m\r\b\x7f\u202e\u2066\u200b\ufeff\u2028\U000e0041"
SHOWN = r"\x1b]0;pwned\x07\x1b[2J\x1b[35m\x9b31m\r\x08\u007f\u202e\u2066\u200b\ufeff\u2028\U000e0041"
TITLE = r"\x1b]0;pwned"
LINE = "\nrefused: fake"
HOSTILE = f"cat{STEERING}{LINE}"
OF_RICH = re.compile(r"\x1b\[[\d;]*m|\x1b\[\?25[lh]|\x1b\[[12]?[AK]|\r")
"""Colours, the cursor, and going up to draw anew."""
ATTACKS = ("\x1b]", "\x1b[2J", "\x1b[35m", "\x9b")


# --- printable ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "plain ~ text",
        "Łódź, naïve, straße, 猫, ひらがな, 한국어, עברית, العربية",
        "may\u00a0stay, 全角\u3000",
        "👩\u200d👩\u200d👧 ❤\ufe0f\u200d🔥 👍🏽",
        "می\u200cخواهم, क्\u200dष",
        "\ue0b0 of a private font",
    ],
)
def test_letters_of_all_scripts_and_emoji_stay(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (HOSTILE, rf"cat{SHOWN}\nrefused: fake"),
        ("c\u200dat \u200d", r"c\u200dat \u200d"),
        ("\u061c \u00ad \u2060 \u2029 \x00\x80\x85", r"\u061c \xad \u2060 \u2029 \x00\x80\x85"),
        ("caf\udce9 \ud800", r"caf\xe9 \ud800"),
        ("🏴\U000e0067\U000e007f", r"🏴\U000e0067\U000e007f"),
    ],
)
def test_what_is_hidden_is_shown(text: str, shown: str) -> None:
    assert printable(text) == shown == printable(shown)


def test_every_character_that_steers_or_hides_is_shown() -> None:
    codes = [*range(0x20), *range(0x7F, 0xA0), *range(0x200B, 0x2010), *range(0x2028, 0x202F), *range(0x2060, 0x2065)]
    codes += [*range(0x2066, 0x2070), 0xFEFF, 0xE0001, *range(0xE0020, 0xE0080), *range(0xD800, 0xE000)]
    assert [code for code in codes if not printable(f"a{chr(code)}b").startswith("a\\")] == []
    assert printable("a\tb\nc\x1b", kept=terminal.LAYOUT) == "a\tb\nc\\x1b"


def test_is_utf8() -> None:
    assert is_utf8(HOSTILE) and not is_utf8("caf\udce9")


# --- the streams and rich -----------------------------------------------------------------------------------------


class Screen:
    """The output of both streams of a guarded process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bytes, self.monkeypatch = io.BytesIO(), monkeypatch

    def begin(self) -> None:
        """Replace the streams within the test, since pytest replaces them for each stage."""
        self.streams = [io.TextIOWrapper(self.bytes, "utf-8", write_through=True) for _ in range(2)]
        for name, stream in zip(("stdout", "stderr"), self.streams, strict=True):
            self.monkeypatch.setattr(sys, name, stream)
        self.monkeypatch.setenv("PYTHON_COLORS", "1")
        terminal.guard()

    @property
    def text(self) -> str:
        """The whole output, as a terminal receives it."""
        return self.bytes.getvalue().decode()

    @property
    def plain(self) -> str:
        """The output without the escape sequences of rich."""
        return OF_RICH.sub("", self.text)


@pytest.fixture(params=["a file", "a terminal"])
def screen(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Screen]:
    """Check at the end that only printable characters of the attacker's text were written."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "500")
    if request.param == "a terminal":
        monkeypatch.setenv("FORCE_COLOR", "1")
    made = Screen(monkeypatch)
    yield made
    shown = made.plain if request.param == "a terminal" else made.text
    assert [attack for attack in ATTACKS if attack in made.text] == []
    assert [char for char in shown if category(char) in terminal.HIDDEN and char != "\n"] == []
    assert [line for line in shown.splitlines() if line.startswith("refused: fake")] == []
    assert TITLE in shown


def test_lines(screen: Screen) -> None:
    screen.begin()
    terminal.say(HOSTILE, "second")
    terminal.out(HOSTILE)
    assert screen.plain == f"{printable(HOSTILE)}\nsecond\n{printable(HOSTILE)}\n"


def test_texts_of_other_libraries(screen: Screen) -> None:
    """Uncaught errors, warnings, logging and print() keep their line ends."""
    screen.begin()
    print(STEERING)
    sys.stdout.write("\x1b[0m")
    sys.stderr.writelines([STEERING, "\n"])
    logging.lastResort.handle(logging.LogRecord("x", logging.ERROR, "f", 1, STEERING, (), None))
    try:
        raise ValueError(STEERING)
    except ValueError:
        traceback.print_exc()
        sys.excepthook(*sys.exc_info())
    assert screen.text.count(SHOWN) == 5 and screen.text.count("Traceback (most recent call last):\n") == 2
    assert r"\x1b[0m" not in screen.text
    assert os.environ["PYTHON_COLORS"] == "0"  # Python 3.13 would colour what it prints, 3.14 argparse, too


def test_renderables_of_rich(screen: Screen) -> None:
    screen.begin()
    row = Row(set=HOSTILE, protocol="dc", architecture=HOSTILE, seed=0, epochs=6, top1_last=1.0, top1_best=1.0)
    console = terminal.console(stderr=True)
    console.print(HOSTILE)
    console.print(Text(STEERING))
    console.print(summary_table([row]))
    assert (screen.plain.count(SHOWN), screen.plain.count(TITLE)) == (3, 4)  # rich leaves BEL out of a Text


def test_a_bar_and_what_is_written_meanwhile(screen: Screen) -> None:
    screen.begin()
    console = terminal.console()
    before = sys.stdout
    with terminal.Bars(TextColumn("{task.description}", markup=False), console=console) as bars:
        bars.add_task(STEERING)
        print(f"{STEERING}\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\")
        terminal.say(HOSTILE)
    assert sys.stdout is before and screen.plain.count(SHOWN) == 2 and screen.plain.count(TITLE) >= 3


def test_passwords_of_addresses_are_masked(screen: Screen) -> None:
    screen.begin()
    address = f"http://me:secret@host/{STEERING}"
    terminal.say(address)
    print(address)
    terminal.console().print(Text(address))
    assert "secret" not in screen.text and screen.text.count("http://***@host/") == 3


def test_texts_are_printed_as_they_stand(capsys: pytest.CaptureFixture[str]) -> None:
    """rich would interpret [x] as markup and :smile: as an emoji."""
    row = Row(set="[/x]", protocol="dc", architecture="[red]a[/red]", seed=0, epochs=6, top1_last=1.0, top1_best=1.0)
    console = terminal.console()
    console.print("/a/[b]/c[/x] :smile: \\[d]")
    console.print(summary_table([row]))
    with ProgressDisplay(Units({"class": 1}), console) as progress:
        progress._line = lambda entry: "[/x] :smile:"
        progress([{"step": 1, "steps_per_second": 1.0}])
    first, _, table, last = capsys.readouterr().out.splitlines()
    assert first == "/a/[b]/c[/x] :smile: \\[d]" and last.endswith(" [/x] :smile:")
    assert "[/x]" in table and "[red]a[/red]" in table


# --- the commands -------------------------------------------------------------------------------------------------


@pytest.fixture
def hostile_folder(tmp_path: Path) -> Path:
    """Create an image folder of two classes, one image of which cannot be read."""
    root = tmp_path / "images"
    for split, name in ((split, name) for split in ("train", "val") for name in (HOSTILE, f"dog{HOSTILE}")):
        (root / split / name).mkdir(parents=True)
        photograph(1).save(root / split / name / "a.jpg")
    (root / "train" / HOSTILE / "b.jpg").write_bytes(b"no image")
    return root


FEW = ("ipc=5", "method.start=real", "cluster.workers=0")


def folder_keys(root: Path) -> tuple[str, ...]:
    return "dataset.name=image_folder", f"dataset.root={root}", "dataset.size=32"


def test_prepare(hostile_folder: Path, tmp_path: Path, screen: Screen) -> None:
    screen.begin()
    assert cli.main(["prepare", str(hostile_folder), str(tmp_path / "dest")]) == 1
    assert cli.main(["prepare", str(hostile_folder), str(tmp_path / "dest"), "--skip-bad"]) == 0
    assert cli.main(["prepare", str(hostile_folder), str(tmp_path / "d2"), "--classes", f"x{HOSTILE}"]) == 2
    with pytest.raises(SystemExit):
        cli.main(["prepare", str(hostile_folder), f"{tmp_path}/{HOSTILE}\udce9"])
    plain = screen.plain
    assert "the image cannot be read" in plain and "skipped: train cat" in plain and "do not exist: xcat" in plain
    assert r"\xe9 is not UTF-8" in plain


@pytest.mark.parametrize("command", ["run", "plan"])
def test_refusals_that_name_classes(command: str, hostile_folder: Path, tmp_path: Path, screen: Screen) -> None:
    screen.begin()
    keys = [*folder_keys(hostile_folder), *FEW, f"output={tmp_path}/out", f"{HOSTILE}=1"]
    assert cli.main([command, "configs/digits.yaml", *keys]) == 2
    assert "unknown key" in screen.text and (command == "plan" or "than there are of cat" in screen.text)


@pytest.mark.parametrize("arguments", [[HOSTILE], ["list", HOSTILE], ["evaluate", HOSTILE], ["replay", HOSTILE]])
def test_arguments_that_a_script_hands_over(arguments: list[str], screen: Screen) -> None:
    screen.begin()
    try:
        code = cli.main(arguments)
    except SystemExit as ended:
        code = ended.code
    assert code == 2


def test_a_manifest(hostile_folder: Path, tmp_path: Path, screen: Screen) -> None:
    screen.begin()
    dest = tmp_path / "dest"
    prepared(hostile_folder, dest, skip_bad=True)
    manifest = json.loads((dest / "manifest.json").read_text())
    run = partial(cli.main, ["run", "configs/digits.yaml", *folder_keys(dest), *FEW, f"output={tmp_path}/out"])
    names = [entry["name"] for entry in manifest["classes"]]
    for change in ({}, {"classes": [{"name": names[0], "wnid": None}] * 2}, {"size": HOSTILE}, {HOSTILE: 1}):
        (dest / "manifest.json").write_text(json.dumps(manifest | change))
        assert run() == 2
    assert screen.plain.count(TITLE) >= 4
    for reported in (
        "than there are of cat",
        "stand for several: cat",
        "size: found 'cat",
        "unknown, expected one of classes",
    ):
        assert reported in screen.plain


def test_a_card(tmp_path: Path, screen: Screen) -> None:
    screen.begin()
    (tmp_path / "config.yaml").write_text(config.to_yaml(config.load("configs/digits.yaml", [f"output={tmp_path}"])))
    (tmp_path / "synthetic_set").mkdir()
    for card in ({"format_version": HOSTILE}, {"format_version": FORMAT, "classes": [{HOSTILE: 1}]}):
        (tmp_path / "synthetic_set" / "card.json").write_text(json.dumps(card))
        assert cli.main(["evaluate", str(tmp_path)]) == 2


def test_rows_of_an_evaluation(tmp_path: Path, screen: Screen) -> None:
    screen.begin()
    rows = [Row(set="condensed", protocol="dc", architecture=HOSTILE, seed=0, epochs=6, top1_last=60.0, top1_best=70.0)]
    append_csv(tmp_path / "evaluation.csv", rows)
    run = SimpleNamespace(folder=tmp_path, files=RunFolder(tmp_path), claim=Claim.present(tmp_path))
    job.Job._report(run, rows, SimpleNamespace(log_artifacts=lambda path: None))
    comparing._report(rows[0])
    (tmp_path / "evaluation.csv").write_text(f'"set{HOSTILE}",b\n1,2\n')
    keys = ["cluster.workers=0", f"output={tmp_path}"]
    assert cli.main(["run", "configs/digits.yaml", *keys]) == 2
    plain = screen.plain
    assert "has the columns setcat" in plain and plain.count(SHOWN) == 3
    page = (tmp_path / "report.html").read_text()
    assert SHOWN in page and [x for x in page if category(x) in terminal.HIDDEN and x != "\n"] == []


def test_a_server(tmp_path: Path, screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    screen.begin()

    class Says(Exception):
        def get_http_status_code(self) -> int:
            return 403

    def refuse(*given: object) -> None:
        raise Says(HOSTILE)

    monkeypatch.setattr(server, "_listens", lambda uri: True)
    monkeypatch.setattr(server, "connect", refuse)
    folder, keys = tmp_path / "run", ["cluster.workers=0", f"output={tmp_path}/run", "tracking.uri=http://host"]
    assert cli.main(["run", "configs/digits.yaml", *keys]) == 2
    folder.mkdir()
    (folder / "config.yaml").write_text(config.to_yaml(config.load("configs/digits.yaml", keys)))
    assert cli.main(["replay", str(folder)]) == 1
    tracker.Tracker.start("http://host", experiment="x", params={}, tags={}, folder=folder).finish()
    monkeypatch.setattr(replay, "replay", lambda *given: HOSTILE)  # the id of the run
    assert cli.main(["replay", str(folder)]) == 0
    assert screen.text.count(TITLE) == 4


@pytest.mark.parametrize(
    ("error", "lines", "code"),
    [
        (DataError([HOSTILE, "second"]), 2, 2),
        (RunFailed(HOSTILE, "what is kept"), 2, 1),
        (RunFailed(*terminal.lines_of(TrialFailed.of({Trial("a", HOSTILE, 0): "why"}, 2))), 2, 1),
        (OSError(errno.EIO, HOSTILE, f"/{HOSTILE}"), 1, 1),
        (OSError(errno.EISDIR, HOSTILE, f"/{HOSTILE}"), 1, 2),
    ],
)
def test_what_ends_a_run(
    error: Exception, lines: int, code: int, screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen.begin()

    def ended(*given: object) -> None:
        raise error

    monkeypatch.setattr(job.Job, "prepare", ended)
    assert cli.main(["run", "configs/digits.yaml"]) == code
    assert len(screen.text.splitlines()) == lines


def test_why_a_group_was_started_again(tmp_path: Path, screen: Screen) -> None:
    screen.begin()
    from dist_condense.engine.ray.failures import Restarts

    file = tmp_path / "restarts"
    notes = Notes(file, job._report_failure)
    Restarts(file).after_exception(None, {0: RunFailed(HOSTILE)})
    notes._poll()
    assert len(file.read_text().splitlines()) == 1 and " the worker group failed: " in screen.text


def test_what_programs_read(tmp_path: Path, screen: Screen) -> None:
    """YAML and JSON have their own escapes, so that a program reads the original text."""
    screen.begin()
    keys = [f"dataset.root={HOSTILE}", "cluster.workers=0"]
    assert cli.main(["run", "configs/digits.yaml", *keys, "--cfg"]) == 0
    text = screen.text
    assert yaml.safe_load(text)["dataset"]["root"] == HOSTILE
    loaded = config.load("configs/digits.yaml")
    data = assumed(loaded, 10, 100)
    rates = tmp_path / "rates.json"
    replace(RATES, device=HOSTILE, compared=compared(loaded, data, workload_of(loaded, data))).write(rates)
    plan = ["plan", "configs/digits.yaml", f"--calibration={rates}"]
    cli.main([*plan, "--json"])
    assert json.loads(screen.text[len(text) :])["rates"]["device"] == HOSTILE
    cli.main(plan)
    assert f"rates: {printable(HOSTILE)}\n" in screen.text


def test_a_config_of_other_letters_stays_readable() -> None:
    loaded = config.load("configs/digits.yaml", ["dataset.root=/数据/é", "tracking.experiment=猫"])
    assert "root: /数据/é\n" in config.to_yaml(loaded)


def test_a_config_with_marks_that_yaml_would_leave_plain_can_be_read_again(tmp_path: Path) -> None:
    text = config.to_yaml(config.load("configs/digits.yaml", ["dataset.root=猫\u202etac", "tracking.experiment=1e3"]))
    assert printable(text, kept="\n") == text and r"\u202E" in text
    (tmp_path / "config.yaml").write_text(text)
    read = config.read(tmp_path / "config.yaml")
    assert (read.dataset.root, read.tracking.experiment) == ("猫\u202etac", "1e3")


# --- processes ----------------------------------------------------------------------------------------------------


def process(code: str, unread: str = "", stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    """Run a guarded command; the stream ``unread`` has no reader."""
    line = "import sys; from dist_condense.system import signals, terminal\n"
    line += f"def command():\n {code}\n return 0\nsys.exit(signals.guarded(command))"
    streams: dict[str, int] = {"stdout": stdout, "stderr": subprocess.PIPE}
    reading, writing = os.pipe()
    os.close(reading)
    given = {name: writing if name == unread else stream for name, stream in streams.items()}
    done = subprocess.run([sys.executable, "-c", line], cwd=PACKAGE.parent, text=True, timeout=60, **given)
    os.close(writing)
    return done


def test_an_uncaught_error() -> None:
    done = process(f"raise ValueError({HOSTILE!r})")
    assert done.returncode == 1 and done.stderr.endswith(f"ValueError: cat{SHOWN}{LINE}\n")


@pytest.mark.parametrize(
    "code",
    [
        "terminal.out('a name')",
        "terminal.console().print('a name')",
        "terminal.Parser('x').parse_args(['--help'])",
        "print('of another library')",
    ],
)
def test_a_reader_that_leaves_ends_a_command_without_a_word(code: str) -> None:
    done = process(code, "stdout")
    assert (done.returncode, done.stderr) == (terminal.UNREAD, "")


def test_a_full_disk_behind_stdout_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        done = process("terminal.out('a name')", stdout=full.fileno())
    assert (done.returncode, done.stderr) == (1, "failed: the output cannot be written: No space left on device\n")


def test_nobody_reads_what_a_run_says_and_it_goes_on() -> None:
    done = process("[terminal.say('x') for _ in range(3)]; terminal.console(True).print('y'); print('done')", "stderr")
    assert (done.returncode, done.stdout) == (0, "done\n")


def test_refused_arguments_are_shortened(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        terminal.Parser("x").parse_args(["-" + "y\n" * 300_000])
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("x: error: unrecognized arguments: -y") and " ... " in line and len(line) < 1_100


# --- one place ----------------------------------------------------------------------------------------------------

CALLS = {"print", "input", "breakpoint", "os.write", "warnings.warn", "logging.basicConfig", "faulthandler.enable"}
NAMES = {"Console", "ArgumentParser", "StreamHandler", "print_exc", "print_exception", "print_stack", "from_markup"}
"""The last part of a call's name, whatever module it is of."""
STREAMS = {f"sys.{name}" for name in ("stdout", "stderr", "__stdout__", "__stderr__")}
OF_RICH_ONLY_HERE = {"Progress", "Live", "Status", "print", "get_console", "markup", "track", "inspect"}
EXCEPT = {
    "system/terminal.py": "it is the place",
    "system/signals.py": "in a signal handler it takes no lock: os.write, of words of its own and a signal's name",
}


def writing(source: str) -> list[str]:
    """Yield calls that write to the terminal in another way or interpret untrusted text as markup."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            bad = name in CALLS or name.split(".")[-1] in NAMES
            marked = name.endswith("TextColumn") and "markup=False" not in map(ast.unparse, node.keywords)
            found += [name] if bad or marked else []
        elif isinstance(node, ast.Attribute):
            found += [ast.unparse(node)] if ast.unparse(node) in STREAMS else []
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rich"):
            found += [alias.name for alias in node.names if alias.name in OF_RICH_ONLY_HERE]
    return found


@pytest.mark.parametrize("file", FILES)
def test_nothing_else_writes_to_a_terminal(file: str) -> None:
    assert file in EXCEPT or writing((PACKAGE / file).read_text()) == []


def test_what_writes_by_another_way_is_reported() -> None:
    planted = """
from rich.progress import Progress
print(x)
print(x, file=stream)
sys.stderr.write(x)
warnings.warn(x)
rich.console.Console(markup=False)
Text.from_markup(x)
TextColumn('x', markup=True)
argparse.ArgumentParser()
os.write(2, x)
traceback.print_exc()
console.print(x); file.write(x); TextColumn('x', markup=False); terminal.say(x); log.warning(x)
"""
    assert sorted(writing(planted)) == [
        "Progress", "Text.from_markup", "TextColumn", "argparse.ArgumentParser", "os.write", "print", "print",
        "rich.console.Console", "sys.stderr", "traceback.print_exc", "warnings.warn",
    ]  # fmt: skip
