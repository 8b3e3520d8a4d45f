"""Ctrl-C and SIGTERM at every stage of a command: the exit code, one line, and the saved state."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dist_condense.evaluation import evaluate
from dist_condense.evaluation.rows import read_csv
from dist_condense.settings.run_folder import RunFolder
from dist_condense.system import signals
from tests.evaluation import test_deaths

ROOT = Path(__file__).parents[2]
ENDS = {signal.SIGINT: (130, "interrupted"), signal.SIGTERM: (143, "stopped by SIGTERM")}
GUARDED = """
import ctypes, signal, sys, time
from dist_condense.system import signals

def ready():
    print("ready", flush=True)

def waiting():
    ready()
    while True:
        signal.pause()

def in_foreign_code():
    lib, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
    lib.pthread_mutex_lock(mutex)
    for number in signals.ENDING:  # where the main thread is not yet there
        signal.signal(number, lambda number, frame: None)
    ready()
    lib.pthread_mutex_lock(mutex)  # never comes back, whatever the signal

def writing(then):
    signals.writing_starts()
    return then()

def deaf():
    while True:
        try:
            waiting()
        except KeyboardInterrupt:
            pass

sys.exit(signals.guarded(lambda: {command}))
"""
IGNORED = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"


def started(*words: str) -> subprocess.Popen[str]:
    """Start Python with the default handling of Ctrl-C, even if the test process ignores it."""
    line = ["env", "--default-signal=INT", sys.executable, *words]
    running.append(subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    return running[-1]


running: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """End the processes of failed tests."""
    yield
    while running:
        with running.pop() as process:
            process.kill()


def guarded(command: str) -> subprocess.Popen[str]:
    """Start a guarded command and wait until it is ready."""
    process = started("-c", GUARDED.replace("{command}", command))
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def ended(process: subprocess.Popen[str], number: signal.Signals) -> tuple[int, str]:
    process.send_signal(number)
    _, reported = process.communicate(timeout=60)
    return process.returncode, reported


@pytest.mark.parametrize("number", ENDS)
@pytest.mark.parametrize("where", ["waiting()", "in_foreign_code()"])
def test_before_it_has_begun_a_command_ends_at_once(where: str, number: signal.Signals) -> None:
    code, reported = ENDS[number]
    assert ended(guarded(where), number) == (code, f"{reported} before anything was written\n")


@pytest.mark.parametrize("number", ENDS)
def test_after_that_it_is_interrupted(number: signal.Signals) -> None:
    code, reported = ENDS[number]
    assert ended(guarded("writing(waiting)"), number) == (code, f"{reported}\n")


@pytest.mark.parametrize("where", ["deaf", "in_foreign_code"])
@pytest.mark.parametrize("first", ENDS)
def test_a_second_ctrl_c_leaves_at_once(where: str, first: signal.Signals) -> None:
    process = guarded(f"writing({where})")
    process.send_signal(first)
    while process.poll() is None:  # signals that come too fast are one
        time.sleep(2 * signals.ONE_PRESS)
        process.send_signal(signal.SIGINT)
    _, reported = process.communicate()
    assert (process.returncode, reported) == (
        130,
        "ended at once; the same command continues from the last saved state\n",
    )


def test_one_ctrl_c_that_comes_twice_is_one() -> None:
    process = guarded("[setattr(signals, 'ONE_PRESS', 600), writing(deaf)]")
    assert process.stdout is not None
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "ready\n"


def test_an_ignored_ctrl_c_stays_ignored() -> None:
    """Like a command under nohup, or in the background of a script."""
    process = started("-c", IGNORED + GUARDED.replace("{command}", "waiting()"))
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert ended(process, signal.SIGTERM)[0] == 143


@pytest.mark.parametrize("command", ["dist_condense run", "dist_condense.run"])
@pytest.mark.parametrize("number", ENDS)
def test_while_a_command_imports(command: str, number: signal.Signals) -> None:
    process = started("-m", *command.split(), "configs/digits.yaml", "--cfg")
    wait(lambda: "libtorch" in Path(f"/proc/{process.pid}/maps").read_text())
    code, reported = ENDS[number]
    assert ended(process, number) == (code, f"{reported} before anything was written\n")


def wait(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.002)


# --- evaluation ---------------------------------------------------------------------------------------------------


def test_an_interrupted_evaluation_keeps_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It ends with the signal's code; tests/evaluation/test_deaths.py shows that the same command trains the others."""
    whole = evaluate.run_trial

    def second(trial: evaluate.Trial, evaluation: evaluate.Evaluation) -> object:
        if trial.seed == 1:
            raise signals.Interrupted(signal.SIGTERM)
        return whole(trial, evaluation)

    monkeypatch.setattr(evaluate, "run_trial", second)
    assert test_deaths.command(tmp_path) == 143
    rest = "the set is complete; the same command trains the networks that have no row in evaluation.csv"
    assert capfd.readouterr().err.splitlines()[-1] == f"stopped by SIGTERM: {rest}"
    assert [row.seed for row in read_csv(RunFolder(tmp_path).evaluation)] == [0]
