"""Records that are read back from a disk, and arguments of commands: each is read or refused in clear lines."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from dist_condense.commands import arguments, cli, plan_command
from dist_condense.data.preparing import prepare
from dist_condense.data.preparing.betons import FinishedBeton
from dist_condense.data.preparing.classes import FinishedClass
from dist_condense.data.preparing.finished import RECORDS, read_record
from dist_condense.job import resume
from dist_condense.planning import calibrate, rates
from dist_condense.planning.calibrate import compared
from dist_condense.planning.images import assumed
from dist_condense.planning.rates import Calibration
from dist_condense.planning.workload import workload_of
from dist_condense.result.environment import environment
from dist_condense.result.tracking.replay import replay
from dist_condense.result.tracking.server import TrackingError
from dist_condense.result.tracking.server_run import RunAddress
from dist_condense.result.tracking.tags import tags_of
from dist_condense.settings import config
from dist_condense.settings.config import ConfigError
from dist_condense.settings.run_folder import RunFolder
from dist_condense.system.errors import DataError
from tests.doors.fuzzing import TEXTS, check_lines, door, fuzz, mutated_json, mutated_yaml, unchanged
from tests.planning.cases import RATES

SHA = "0" * 64
ADDRESS = asdict(RunAddress(uri="http://h:1", experiment="e", run_name="r", run_id="i"))
ENVIRONMENT = environment() | {"devices": ["NVIDIA H100, 80 GiB"]}
CLASS = {
    "split": "train",
    "label": 0,
    "shards": [{"url": "train/0000-000.tar", "images": 1, "bytes": 10, "sha256": SHA}],
    "skipped": [],
    "names": SHA,
}
OPTIONS = {"source": "/a", "classes": ["a", "b"], "size": 8, "channels": 3, "upright": True}
RESOLVED = config.to_dict(config.RunConfig())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("run")
    RunFolder(made).config.write_text(config.to_yaml(config.RunConfig()))
    (made / RECORDS).mkdir()
    return made


@fuzz(mutated_json(ADDRESS), examples=100, seconds=1)
def test_an_address_is_read_or_made_anew(folder: Path, content: bytes) -> None:
    RunFolder(folder).tracking.write_bytes(content)
    with door():
        RunAddress.of(folder, uri="http://h:1", experiment="e")
    RunFolder(folder).tracking.unlink()


@fuzz(mutated_json(ENVIRONMENT), mutated_yaml(RESOLVED), examples=50, seconds=3)
def test_tags_are_those_of_readable_files(folder: Path, machine: bytes, settings: bytes) -> None:
    files = RunFolder(folder)
    before = files.config.read_bytes()
    files.environment.write_bytes(machine)
    for content in (before, settings):
        files.config.write_bytes(content)
        with door(ValueError):
            tags = tags_of(folder)
            assert all(isinstance(text, str) for text in tags.values())
    files.environment.unlink()
    files.config.write_bytes(before)


@fuzz(mutated_yaml(RESOLVED), examples=30, seconds=3)
def test_replay_refuses_or_asks_the_server(folder: Path, content: bytes) -> None:
    files = RunFolder(folder)
    before = files.config.read_bytes()
    files.config.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch, door(ConfigError, TrackingError):
        patch.setattr("dist_condense.result.tracking.server.connect", _no_server)
        replay(folder, "http://127.0.0.1:9")
    files.config.write_bytes(before)
    files.tracking.unlink(missing_ok=True)


def _no_server(uri: str) -> None:
    raise ConnectionError("no server")


@pytest.mark.parametrize(("kind", "valid"), [(FinishedClass, CLASS), (FinishedBeton, {"digest": "x", "beton": {}})])
def test_work_of_prepare_is_taken_or_repeated(kind: type[Any], valid: Any, folder: Path) -> None:
    @fuzz(mutated_json(valid), examples=60, seconds=1)
    def each(content: bytes) -> None:
        (folder / "record.json").write_bytes(content)
        with door():
            read_record(kind, folder / "record.json")

    each()


@fuzz(mutated_json(OPTIONS), examples=60, seconds=1)
def test_options_of_prepare_are_compared_or_refused(folder: Path, content: bytes) -> None:
    (folder / RECORDS / prepare.IDENTITY).write_bytes(content)
    with door(DataError):
        recorded = prepare._recorded_options(folder)
        prepare.check_options(folder, recorded, OPTIONS)
        assert prepare._channels("cifar10", recorded) in (1, 3, None)


# --- plan ----------------------------------------------------------------------------------------------------------


def _measured() -> dict[str, Any]:
    loaded = config.load("configs/digits.yaml")
    data = assumed(loaded, 10, 100)
    return asdict(RATES) | {"compared": compared(loaded, data, workload_of(loaded, data))}


MEASURED = json.loads(json.dumps(_measured()))


@fuzz(mutated_json(MEASURED), st.sampled_from(["1", "1e9", "1e-300", "0", "nan", "inf"]), examples=60, seconds=5)
def test_rates_give_a_plan_of_numbers_or_are_refused(tmp_path_factory: Any, content: bytes, rate: str) -> None:
    file = tmp_path_factory.getbasetemp() / "rates.json"
    file.write_bytes(content)
    given = ["configs/digits.yaml", f"--calibration={file}", f"--rate={rate}", "--classes=10"]
    options = arguments.plan_parser().parse_intermixed_args([*given, "--images-per-class=100"])
    with door(ConfigError):
        made = plan_command.planned(options, config.load(options.config))
        assert made.forecast.seconds >= 0 and made.forecast.seconds < float("inf")
        plan_command.tables.show(made)


@pytest.mark.parametrize("key", ["step", "each", "real"])
def test_rates_below_zero_or_all_zero_are_refused(key: str, tmp_path: Path) -> None:
    for value, line in ((-1.0, f"alone.{key}: found -1.0, expected seconds from 0"), (0.0, "alone: all its seconds")):
        alone = dict.fromkeys(MEASURED["alone"], 0.0) | {key: value}
        (tmp_path / "rates.json").write_text(json.dumps(MEASURED | {"alone": alone}))
        with pytest.raises(ConfigError, match=line):
            rates.read(tmp_path / "rates.json", {})


def test_the_place_of_the_rates_is_checked_before_they_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    for place in ("", "none/rates.json", "file/rates.json", "x" * 300, "a\0b", "pipe"):
        assert cli.main(["plan", "configs/digits.yaml", f"--save={tmp_path / place}"]) == cli.REFUSED
        said = capsys.readouterr().err
        assert said.startswith("refused: --save: ") and said.endswith("name another file\n") and said.count("\n") == 1
    assert not list(tmp_path.glob("*.json"))


def test_rates_that_cannot_be_saved_after_all_are_printed_with_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(self: Calibration, file: Path) -> None:
        raise OSError(28, "No space left on device", str(file))

    monkeypatch.setattr(calibrate, "calibrate", lambda *given: RATES)
    monkeypatch.setattr(Calibration, "write", full)
    assert cli.main(["plan", "configs/digits.yaml", f"--save={tmp_path / 'rates.json'}"]) == plan_command.NOT_SAVED
    said = capsys.readouterr()
    assert "best number of workers" in said.out
    failed, shown = next(x for x in said.err.split("\n") if "failed" in x).split("; the measured rates are ")
    assert failed.startswith("failed: --save: [Errno 28] No space left on device")
    assert rates.records.made(Calibration, json.loads(shown), "") == RATES


# --- arguments -----------------------------------------------------------------------------------------------------

_ODD = [
    *TEXTS,
    "9" * 5_000,
    "1e999",
    "-1e999",
    "nan",
    "-0",
    "1_0",
    "0x1",
    "--",
    "-",
    "http://h:99999",
    "s3://",
    "~",
    "~x",
]
_OPTIONS = {
    "plan": [
        "--gpus",
        "--gpu",
        "--share",
        "--gpu-memory",
        "--calibration",
        "--rate",
        "--bandwidth",
        "--classes",
        "--images-per-class",
    ],
    "prepare": [
        "--val",
        "--size",
        "--classes",
        "--class-names",
        "--workers",
        "--png",
        "--ffcv",
        "--orientation",
        "--test-fraction",
    ],
    "check": ["output", "tracking.uri"],
    "replay": ["--uri", "--experiment"],
    "evaluate": ["--space", "--factor", "--columns", "--dataset", "--root", "--plugin", "evaluation.epochs", "output"],
    "compare": ["--by", "--format", "--output"],
    "export": ["--format", "--space"],
    "list": ["x"],
    "run": ["--cfg", "--resume", "-m", "--plugin", "output", "tracking.uri"],
}


@st.composite
def _arguments(draw: st.DrawFn) -> list[str]:
    command = draw(st.sampled_from(sorted(_OPTIONS)))
    odd = st.one_of(st.sampled_from(_ODD), st.text(max_size=20)).map(_as_argument)
    given = draw(st.lists(st.tuples(st.sampled_from(_OPTIONS[command]), odd).map("=".join), max_size=3))
    return [command, *draw(st.lists(odd, max_size=2)), *given]


def _as_argument(text: str) -> str:
    """Return a text as the shell would pass it: without zero bytes, and undecodable bytes as surrogates."""
    return text.replace("\0", "").encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")


@fuzz(_arguments(), examples=80, seconds=4)
def test_any_arguments_are_answered(
    tmp_path_factory: Any, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    place = tmp_path_factory.getbasetemp() / "empty"
    place.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch, unchanged(place):
        patch.chdir(place)
        patch.setattr(calibrate, "calibrate", lambda *given: RATES)
        capsys.readouterr()  # what argparse said about earlier arguments
        with door(SystemExit):  # type: ignore[arg-type]  # of argparse, for its own refusals
            code = cli.main(arguments)
            said = capsys.readouterr().err
            if code != 0:
                check_lines(said.rstrip("\n").split("\n"))
                assert code in (cli.REFUSED, cli.FAILED), said


# --- --resume ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how", ["", " ", "..", "../..", "nothing", "a/../..", "/", "~", "x" * 300, "\0", "s3://", "x://y"]
)
def test_what_is_no_checkpoint_is_refused_and_named(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    with door(ConfigError) as answer:
        resume.select(config.RunConfig(output=str(tmp_path / "run")), how)
    assert answer.lines is not None and all(line.startswith("--resume=") for line in answer.lines)
