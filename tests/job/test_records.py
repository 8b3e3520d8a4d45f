"""Records of a run while other processes write to its folder: two starts of one command, and modified files."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from dist_condense import run
from dist_condense.commands import cli
from dist_condense.evaluation import evaluate
from dist_condense.evaluation.rows import read_csv
from dist_condense.job.job import Job
from dist_condense.job.journal import Journal
from dist_condense.result import metrics_file
from dist_condense.settings.run_folder import RunFolder
from tests.engine import cases

EVALUATION, LOCK = RunFolder.evaluation.name, RunFolder.lock.name
METRICS, TRACKING = RunFolder.metrics.name, RunFolder.tracking.name
STEPS = 6
NOT_SHARED = ("logs", LOCK, TRACKING, "mlflow.db", "mlartifacts")


@pytest.fixture(autouse=True)
def no_second_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable MLflow's retries of an unreachable server, which take seconds."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def command(folder: Path, *more: str) -> int:
    """Execute a small run with two evaluations in this process."""
    given = ("tracking.log_every=1", "tracking.checkpoint_steps=1", "tracking.uri=http://127.0.0.1:9")
    evaluation = ("evaluation.sets=[condensed]", "evaluation.seeds=2", "evaluation.epochs=1")
    own = ("method.real_batch=8", "ipc=1", "cluster.workers=0", f"output={folder}")
    pairs = {x.split("=", 1)[0]: x for x in (*cases.TINY, *cases.CASES["dc"], *given, *evaluation, *own, *more)}
    return run.main(["configs/digits.yaml", *pairs.values()])


def records(folder: Path) -> dict[str, bytes]:
    """Return the content of the records that all starts share."""
    files = (path for path in folder.rglob("*") if path.is_file())
    named = {str(path.relative_to(folder)): path for path in files}
    return {name: path.read_bytes() for name, path in named.items() if name.split("/")[0] not in NOT_SHARED}


def steps_in(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / METRICS).read_text().splitlines()]


class Enough(BaseException):
    """Ends the second start like SIGKILL; no code catches it."""


def at_first_call(
    patch: pytest.MonkeyPatch, owner: object, name: str, when: Callable[..., bool], act: Callable
) -> None:
    """Execute ``act``, with the method restored, before the first call of the method for which ``when`` is true."""
    whole, done = getattr(owner, name), []

    def method(*given, **named):
        if not done and when(*given):
            done.append(True)
            act()
        return whole(*given, **named)

    patch.setattr(owner, name, method)


def dies_after(step: int) -> Callable[..., None]:
    def after(self: Journal, done: int) -> None:
        AFTER_STEP(self, done)
        if done == step:
            self.writer.wait()
            raise Enough

    return after


AFTER_STEP = Journal.after_step
MOMENTS = {
    "before its workers": (Job, "_workers", lambda self: True),
    "after a step": (Journal, "_after_event", lambda self: self._steps == 3 and self.procedure.updates == 0),
    "before its set": (Job, "_export", lambda self: True),
    "between two networks": (evaluate, "run_trial", lambda trial, given: trial.seed == 1),
    "before its report": (Job, "_report", lambda *given: True),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_the_earlier_of_two_starts_writes_nothing_more(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The second start runs to its end while the first is suspended at one of several points."""
    left: list[dict[str, bytes]] = []

    def second() -> None:
        assert command(tmp_path) == 0
        left.append(records(tmp_path))
        capfd.readouterr()

    at_first_call(monkeypatch, *MOMENTS[moment], second)
    assert command(tmp_path) == cli.FAILED
    reported = capfd.readouterr().err
    assert (
        reported.count("another start of this run has taken over") == 1 and "this one writes nothing more" in reported
    )
    assert "the set of matching step" not in reported and "failed: another start" in reported
    assert records(tmp_path) == left[0]
    assert steps_in(tmp_path) == list(range(1, STEPS + 1))
    assert [row.seed for row in read_csv(tmp_path / EVALUATION)] == [0, 1]


def test_a_second_start_that_is_killed_leaves_whole_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has returned to the first start's checkpoint and is at another step when it dies."""

    def second() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Journal, "after_step", dies_after(4))
            with pytest.raises(Enough):
                command(tmp_path, *rarely)

    rarely = ("tracking.checkpoint_steps=2", "evaluation.epochs=0")
    at_first_call(monkeypatch, Journal, "_after_event", lambda self: self._steps == 3, second)
    assert command(tmp_path, *rarely) == cli.FAILED
    assert steps_in(tmp_path) == [1, 2, 3, 4]
    assert command(tmp_path, *rarely) == 0
    assert steps_in(tmp_path) == list(range(1, STEPS + 1))


# --- files that were changed --------------------------------------------------------------------------------------


def test_changed_records_are_refused_before_anything_starts(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert command(tmp_path) == 0
    metrics, rows = tmp_path / METRICS, tmp_path / EVALUATION
    for file, text, number in (
        (metrics, metrics.read_text().replace("\n", "\n[1]\n", 1), 2),
        (rows, rows.read_text().replace(",1,1,", ",1,1,nan,", 1), 3),
    ):
        before = file.read_text()
        file.write_text(text)
        there = records(tmp_path)
        capfd.readouterr()
        assert command(tmp_path) == cli.REFUSED
        (line,) = [x for x in capfd.readouterr().err.splitlines() if x.startswith("refused: ")]
        assert f"{file}, line {number}: " in line and "move" in line
        assert records(tmp_path) == there
        file.write_text(before)
    metrics.write_bytes(b"\xef\xbb\xbf" + metrics.read_bytes().replace(b"\n", b"\r\n"))
    rows.write_bytes(b"\xef\xbb\xbf" + rows.read_bytes().replace(b"\n", b"\r\n"))
    assert command(tmp_path) == 0
    assert len(read_csv(rows)) == 2 and len(metrics_file.read(metrics)) == STEPS


def test_the_command_to_compare_runs_works_as_it_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "a b's & 50%?" / "run"
    pairs = [f"output={folder}", "tracking.uri=null", "evaluation.epochs=0"]
    short = ("trajectory.networks=1", "trajectory.matching_steps=1")
    assert command(folder, *pairs, *short) == 0
    (line,) = [x for x in capfd.readouterr().err.splitlines() if x.startswith("mlflow ")]
    uri = shlex.split(line)[-1]
    assert uri == f"sqlite+pysqlite:///{tmp_path}/a b's & 50%25%3F/mlflow.db"
    assert [path.name for path in tmp_path.iterdir()] == [folder.parent.name]
    assert (folder.parent / "mlflow.db").is_file()


# --- what cannot be written ---------------------------------------------------------------------------------------


def test_checkpoints_that_cannot_be_written_are_refused_at_the_start(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert command(tmp_path / "run", f"tracking.checkpoints={tmp_path / 'file' / 'below'}") == cli.REFUSED
    reported = capfd.readouterr().err
    assert f"refused: tracking.checkpoints: {tmp_path}/file/below/checkpoints cannot be written" in reported
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]
