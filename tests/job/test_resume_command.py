"""--resume, other data, SIGTERM and SIGKILL, as a user or a scheduler experiences the command."""

from __future__ import annotations

import itertools
import json
import os
import random
import select
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import torch
from PIL import Image

from dist_condense.commands import cli
from dist_condense.job import checkpoint
from dist_condense.job.job import Job
from dist_condense.settings.run_folder import RunFolder
from dist_condense.system.storage import Folder
from tests.engine import cases
from tests.job.test_failures import IMAGES, command

OWNER, METRICS = RunFolder.owner.name, RunFolder.metrics.name
STOP, TRACKING = RunFolder.stop.name, RunFolder.tracking.name

ROOT = Path(__file__).parents[2]
EVERY_STEP = "tracking.checkpoint_steps=1"
SHORT = ("trajectory.networks=1", "trajectory.matching_steps=2", "tracking.log_every=1", EVERY_STEP)
ENDLESS = ("trajectory.networks=100000", "tracking.log_every=1", "tracking.checkpoint_minutes=0.005")


def steps_in(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / METRICS).read_text().splitlines()]


def reached(folder: Path) -> int:
    return max((int(path.parent.name[5:13]) for path in folder.glob("checkpoints/step_*/manifest.json")), default=0)


def arguments(case: str, folder: Path, *more: str) -> list[str]:
    """Return the arguments of a condensation in this process without evaluation."""
    given = ("cluster.workers=0", "evaluation.epochs=0", f"output={folder}")
    pairs = {pair.split("=", 1)[0]: pair for pair in (*cases.TINY, *cases.CASES[case], *given, *more)}
    return ["configs/digits.yaml", *pairs.values()]


def started(case: str, folder: Path, *more: str) -> subprocess.Popen[str]:
    """Start the command in a separate process."""
    line = [sys.executable, "-m", "dist_condense.run", *arguments(case, folder, *more)]
    line = ["env", "--default-signal=INT", *line]  # although whoever runs the tests may ignore it
    return subprocess.Popen(line, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def wait(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.02)


def run_id(folder: Path) -> str | None:
    """Return the identifier of the MLflow run; None before the server has answered."""
    return json.loads((folder / TRACKING).read_text())["run_id"] if (folder / TRACKING).exists() else None


# --- where it begins ----------------------------------------------------------------------------------------------


def test_never_refuses_a_folder_with_checkpoints(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert command("dc", tmp_path, *SHORT, "--resume=never") == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert command("dc", tmp_path, *SHORT, "--resume=never") == cli.REFUSED
    assert f"{tmp_path / 'checkpoints'} has checkpoints; give another output" in capfd.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


@pytest.mark.parametrize("place", ["", "checkpoints", "checkpoints/step_00000001_00000000"])
def test_a_path_begins_from_the_checkpoint_of_another_folder(
    place: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert command("dc", first, *SHORT) == 0
    if not place.endswith("_00000000"):  # the newest is that of step 1, as if it had died after it
        (first / "checkpoints" / "step_00000002_00000000" / "manifest.json").unlink()
    given = (*SHORT, f"--resume={first / place}")
    assert command("dc", second, *given) == 0
    assert "resuming after matching step 1 of 2" in capfd.readouterr().err
    assert steps_in(second) == ([2] if place else [1, 2])  # metrics beside the named path are not read
    assert command("dc", first, *SHORT) == 0
    assert torch.equal(cases.result(second), cases.result(first))
    assert command("dc", second, *given) == 0  # a retry of the same command
    assert "the set is complete after" in capfd.readouterr().err


def test_a_path_without_or_of_another_run_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert command("dc", tmp_path / "new", *SHORT, f"--resume={tmp_path / 'nowhere'}") == cli.REFUSED
    assert "there is no checkpoint; give a run's folder" in capfd.readouterr().err
    assert command("dc", tmp_path / "first", *SHORT) == 0
    assert command("dc", tmp_path / "new", *SHORT, "seed=4", f"--resume={tmp_path / 'first'}") == cli.REFUSED
    assert "belongs to another run" in (reported := capfd.readouterr().err) and "seed: 0 there, 4 now" in reported
    assert not (tmp_path / "new").exists()


def test_a_checkpoint_that_is_missing_or_uncommitted_is_no_checkpoint(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "checkpoints" / "step_00000001_00000000").mkdir(parents=True)
    for name in ("step_00000001_00000000", "step_00000099_00000000"):
        place = tmp_path / "checkpoints" / name
        assert command("dc", tmp_path / "new", *SHORT, f"--resume={place}") == cli.REFUSED
        advice = "there is no checkpoint; give a run's folder, or one of its checkpoints"
        assert capfd.readouterr().err == f"refused: --resume={place}: {advice}\n"


def test_other_data_are_refused_and_moved_data_are_not(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    short = (*SHORT, *IMAGES, "method.real_batch=2", "ipc=1")
    for split, name in itertools.product(("train", "val"), ("ant", "bee")):
        (folder := tmp_path / "here" / split / name).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (16, 16), (40 * i, 90, 10)).save(folder / f"{i}.png")
    assert command("dc", tmp_path / "run", *short, f"dataset.root={tmp_path / 'here'}") == 0
    (tmp_path / "here").rename(tmp_path / "moved")
    assert command("dc", tmp_path / "run", *short, f"dataset.root={tmp_path / 'moved'}") == 0
    image = next((tmp_path / "moved" / "train").rglob("*.png"))
    image.rename(image.with_name("other.png"))
    capfd.readouterr()
    assert command("dc", tmp_path / "run", *short, f"dataset.root={tmp_path / 'moved'}") == cli.REFUSED
    assert "belongs to another run" in (reported := capfd.readouterr().err) and "data: '" in reported


def test_a_checkpoint_knows_its_machine_and_its_tracker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "1.2.3")
        around_the_workers(patch, before=lambda: wait(lambda: run_id(folder) is not None))
        assert command("dc", folder, *SHORT) == 0
    (folder / "checkpoints" / "step_00000002_00000000" / "manifest.json").unlink()
    (folder / TRACKING).unlink()
    capfd.readouterr()
    assert command("dc", folder, *SHORT) == 0
    now = f"continues with torch {torch.__version__} on cpu: the set will differ in its last bits"
    assert f"the run was started with torch 1.2.3 on cpu and {now}" in " ".join(capfd.readouterr().err.split())
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as db:
        assert list(db.execute("SELECT count(*) FROM runs")) == [(1,)]


# --- signals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, cli.TERMINATED), (signal.SIGINT, cli.INTERRUPTED)])
def test_a_signal_saves_and_stops(number: signal.Signals, code: int, tmp_path: Path) -> None:
    rarely = ("trajectory.networks=10", "tracking.log_every=1", "tracking.checkpoint_minutes=60")
    process = started("idc", tmp_path / "run", *rarely)
    wait(lambda: (tmp_path / "run" / METRICS).exists() and len(steps_in(tmp_path / "run")) > 2)
    process.send_signal(number)
    _, reported = process.communicate(timeout=60)
    assert process.returncode == code == 128 + number, reported
    found = checkpoint.newest(Folder(tmp_path / "run" / "checkpoints"))
    assert found is not None and 2 < found.steps < 30
    assert reported.count(f"stopping by {number.name}: the workers save after the step that they compute or ") == 1
    assert f"stopped by {number.name} after matching step {found.steps} of 30; the same command continues" in reported
    assert json.loads((tmp_path / "run" / "synthetic_set" / "card.json").read_text())["steps"] == found.steps
    assert torch.equal(cases.alone("idc", tmp_path / "run", *rarely), cases.alone("idc", tmp_path / "whole", *rarely))
    assert steps_in(tmp_path / "run") == list(range(1, 31))


def test_a_signal_in_the_last_step_is_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nothing is executed after it, although all steps are complete."""
    around_the_workers(monkeypatch, after=lambda: signal.raise_signal(signal.SIGINT))
    assert command("dc", tmp_path, *SHORT, "evaluation.epochs=1") == cli.INTERRUPTED
    assert "stopped by SIGINT after matching step 2 of 2; the same command continues" in capfd.readouterr().err
    assert not (tmp_path / "evaluation.csv").exists()


def around_the_workers(
    patch: pytest.MonkeyPatch, before: Callable[[], object] = lambda: None, after: Callable[[], object] = lambda: None
) -> None:
    """Execute functions before and after the workers, while the driver waits."""
    whole = Job._workers

    def workers(self: Job) -> None:
        before()
        whole(self)
        after()

    patch.setattr(Job, "_workers", workers)


def test_a_request_by_the_file_is_told_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    around_the_workers(monkeypatch, before=(tmp_path / STOP).touch)
    assert command("dc", tmp_path, *SHORT) == cli.TERMINATED
    assert f"stopped by a request ({tmp_path / STOP}) after matching step 1 of 2" in capfd.readouterr().err
    assert not (tmp_path / STOP).exists()


def test_a_run_that_nobody_stopped_is_not_said_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its last checkpoint is damaged before the driver reads it."""
    last = tmp_path / "checkpoints" / "step_00000002_00000000" / "class_3.safetensors"
    around_the_workers(monkeypatch, after=lambda: last.write_bytes(b""))
    assert command("dc", tmp_path, *SHORT) == cli.FAILED
    reported = capfd.readouterr().err
    assert "without a request to stop, but the newest intact checkpoint is that of matching step 1 of 2" in reported
    monkeypatch.undo()
    assert command("dc", tmp_path, *SHORT) == 0
    assert "resuming after matching step 1 of 2" in capfd.readouterr().err


FORKING = """
import json, os, sys
from dist_condense import run
from dist_condense.commands import cli
from dist_condense.job import job, worker
from dist_condense.system import signals
import mlflow.store.tracking.sqlalchemy_store
for line in sys.stdin:
    if (pid := os.fork()) == 0:
        given = json.loads(line)
        os._exit(signals.guarded(lambda: run.main(given)))
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
"""Processes of the command that have imported all that takes seconds, one after the other: arguments in, pid and exit
code out."""


@pytest.mark.slow
def test_twenty_deaths_at_random_times(tmp_path: Path) -> None:
    """The process is killed 22 times: in a step, in training, during the write of a checkpoint, and while it starts."""
    folder, keyed, at = tmp_path / "run", random.Random(20261121), []
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", FORKING], cwd=ROOT, **pipes) as forking:
        for death in range(22):
            before = reached(folder)
            if death % 5 == 4:  # it dies while it starts
                process = started("idc", folder, *ENDLESS)
                time.sleep(keyed.uniform(0, 0.5))
                assert process.poll() is None, process.communicate()[1]
                process.kill()
                process.communicate()
            else:
                print(json.dumps(arguments("idc", folder, *ENDLESS)), file=forking.stdin, flush=True)
                pid = int(forking.stdout.readline())
                wait(lambda b=before: reached(folder) > b or bool(select.select([forking.stdout], [], [], 0)[0]), 240)
                time.sleep(keyed.uniform(0, 0.5))
                os.kill(pid, signal.SIGKILL)
                assert int(forking.stdout.readline()) == -signal.SIGKILL, "the run ended by itself: see above"
            at.append(reached(folder))
        forking.stdin.close()
    assert at == sorted(at), "a checkpoint was lost"
    process = started("idc", folder, *ENDLESS)
    wait(lambda: reached(folder) > at[-1] or process.poll() is not None, 240)
    process.send_signal(signal.SIGTERM)
    _, reported = process.communicate(timeout=240)
    assert process.returncode == cli.TERMINATED, reported
    steps = reached(folder)
    assert torch.equal(cases.result(folder), cases.first_steps("idc", steps, tmp_path / "whole", *ENDLESS))
    assert steps_in(folder) == list(range(1, steps + 1))
