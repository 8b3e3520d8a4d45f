"""One run on two Ray workers that loses a worker, its driver, everything, and is asked to stop in between."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from dist_condense import cli
from tests.engine import cases
from tests.test_ray_runs import below, finish, saved, start, train_workers, wait

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1500)]  # six minutes on two idle cores

RUN = ("trajectory.networks=200", "tracking.log_every=1", "tracking.checkpoint_minutes=0.02", "evaluation.epochs=0")
STEPS = 600


def test_the_same_set_after_every_kind_of_death(tmp_path: Path) -> None:
    folder, reached = tmp_path / "run", 0

    def running(workers: int, more: int = 5) -> subprocess.Popen[str]:
        process = start(workers, folder, *RUN)
        wait(lambda: len(below(process.pid)) == workers or process.poll() is not None, 240)
        before = saved(folder)  # not sooner: workers of a driver that was killed write on for a moment
        wait(lambda: saved(folder) >= before + more or process.poll() is not None, 240)
        assert process.poll() is None, finish(process)
        return process

    process = running(2)
    os.kill(train_workers(process.pid)[1], signal.SIGKILL)
    assert re.search(r"failed: worker \d .*was lost", finish(process, cli.FAILED))
    reached = saved(folder)

    process = running(2)
    assert saved(folder) > reached
    process.send_signal(signal.SIGTERM)
    told = finish(process, cli.TERMINATED)
    reached = json.loads((folder / "synthetic_set" / "card.json").read_text())["steps"]
    assert f"stopped by SIGTERM after matching step {reached} of {STEPS}" in told

    process = running(2)
    workers = train_workers(process.pid)
    process.kill()  # its workers may live on for a moment, beside those of the next start
    process.communicate()
    process = running(1, more=1)
    for pid in (process.pid, *train_workers(process.pid, 1), *workers):
        _kill(pid)
    process.communicate()

    finish(start(0, folder, *RUN))
    finish(start(0, tmp_path / "whole", *RUN))
    assert torch.equal(cases.result(folder), cases.result(tmp_path / "whole"))
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, STEPS + 1))


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
