"""Runs on Ray continue after the loss of a worker, the driver or all, in condensation and in evaluation."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from dist_condense import load_set
from dist_condense.commands import cli
from tests.cluster.ray_head import wait
from tests.cluster.test_ray_runs import below, finish, logged_steps, rows, saved, start, train_workers
from tests.engine import cases

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1500)]
pytestmark.append(pytest.mark.daemon("Ray worker groups and trials"))

FEW_CLASSES = "dataset.classes=['1','3','5','8']"
RUN = (
    *("trajectory.networks=100000", FEW_CLASSES),  # ends only on request
    *("tracking.log_every=1", "tracking.checkpoint_minutes=0.02", "evaluation.epochs=0"),
)


def test_the_same_set_after_every_kind_of_death(tmp_path: Path) -> None:
    folder = tmp_path / "run"

    def running(workers: int, more: int = 5) -> subprocess.Popen[str]:
        process = start(workers, folder, *RUN)
        wait(lambda: len(below(process.pid)) == workers or process.poll() is not None, 240)
        before = saved(folder)  # not sooner: workers of a driver that was killed write on for a moment
        wait(lambda: saved(folder) >= before + more or process.poll() is not None, 240)
        assert process.poll() is None, finish(process)
        return process

    process = running(2)
    _kill(train_workers(process.pid)[1])
    log = finish(process, cli.FAILED)
    assert re.search(r"failed: worker \d .*was lost", log)
    card = json.loads((folder / "synthetic_set" / "card.json").read_text())
    assert card["steps"] >= 5 and not card["complete"] and len(load_set(folder / "synthetic_set")) == 8
    assert f"the set of matching step {card['steps']} is kept in {folder / 'synthetic_set'}" in log

    process = running(2)
    workers = train_workers(process.pid)
    process.kill()  # its workers may live on for a moment, beside those of the next start
    process.communicate()
    process = running(1, more=1)
    for pid in (process.pid, *train_workers(process.pid, 1), *workers):
        _kill(pid)
    process.communicate()

    process = running(2)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does it: to all of them
    log = finish(process, cli.INTERRUPTED)
    reached = json.loads((folder / "synthetic_set" / "card.json").read_text())["steps"]
    assert f"stopped by SIGINT after matching step {reached} of 300000" in log
    assert re.search(r"resuming after matching step \d+ of 300000", log)
    assert torch.equal(cases.result(folder), cases.first_steps("dcc", reached, tmp_path / "whole", *RUN))
    assert logged_steps(folder) == list(range(1, reached + 1))


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


# --- evaluation ---------------------------------------------------------------------------------------------------

EVALUATED = (
    *("trajectory.networks=1", "trajectory.matching_steps=1", FEW_CLASSES, "evaluation.sets=[condensed]"),
    *("evaluation.seeds=5", "evaluation.epochs=2000", "evaluation.threads=2"),  # one after the other, seconds each
)


def test_deaths_within_evaluation(tmp_path: Path) -> None:
    """Kill a single process, the driver on Ray and its worker; no network with a row is trained again."""
    folder, whole = tmp_path / "run", tmp_path / "whole"
    process, _ = training(0, folder, lambda driver: [driver])
    assert seeds_of(killed(process, process.pid)) <= {0}
    process, _ = training(1, folder, trials_of)
    assert seeds_of(killed(process, process.pid)) <= {1}
    process, trial = training(1, folder, trials_of)
    log = killed(process, trial)
    assert process.returncode == cli.FAILED and "the set is complete after" in log
    assert "evaluation: 1 of 3 trials failed:\ncondensed / convnet:width=8:depth=2 / seed 3: " in log
    assert seeds_of(log) == {2, 4} and seeds_in(folder) == {0, 1, 2, 4}
    assert seeds_of(finish(start(0, folder, *EVALUATED))) == {3}
    finish(start(0, whole, *EVALUATED))
    assert rows(folder) == rows(whole)


def training(workers: int, folder: Path, of: Callable[[int], list[int]]) -> tuple[subprocess.Popen[str], int]:
    """Return the command, and the process that trains a network after the first new row."""
    before, process = seeds_in(folder), start(workers, folder, *EVALUATED)

    def until(condition: Callable[[], object]) -> None:
        wait(lambda: condition() or process.poll() is not None, 240)
        assert process.poll() is None, finish(process)

    until(lambda: seeds_in(folder) > before)
    at_first: dict[int, float] = {}
    until(lambda: busy(of(process.pid), at_first))
    (pid,) = busy(of(process.pid), at_first)
    assert len(seeds_in(folder)) == len(before) + 1
    return process, pid


def busy(pids: list[int], at_first: dict[int, float]) -> list[int]:
    """Return the processes that used half a second of CPU time since first seen; idle trainers do not."""
    now = {pid: seconds_of(pid) for pid in pids}
    return [pid for pid, seconds in now.items() if seconds > at_first.setdefault(pid, seconds) + 0.5]


def killed(process: subprocess.Popen[str], pid: int) -> str:
    """Kill a process of the command and return the output of the command."""
    _kill(pid)
    return process.communicate(timeout=300)[1]


def trials_of(driver: int) -> list[int]:
    return below(driver, "ray::ImplicitFunc")


def seeds_in(folder: Path) -> set[int]:
    return {int(row["seed"]) for row in rows(folder)} if (folder / "evaluation.csv").exists() else set()


def seeds_of(log: str) -> set[int]:
    return {int(seed) for seed in re.findall(r"seed (\d): top-1", log)}


def seconds_of(pid: int) -> float:
    """Return the CPU seconds of a process, 0 once it has ended."""
    try:
        user, system = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
    except OSError:
        return 0.0
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
