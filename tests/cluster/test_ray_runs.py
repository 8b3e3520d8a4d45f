"""The whole command on Ray: the set of one process, and a worker that hangs.

Starting Ray takes each test 20 s or more. Runtimes end with the processes started here; nothing calls `ray stop`, which
would end every Ray of the machine.
"""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import torch

from dist_condense import load_set
from dist_condense.settings.run_folder import RunFolder
from tests.cluster.ray_head import environment, started, wait
from tests.engine import cases
from tests.strangers import planted

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.daemon("Ray worker groups")]

ROOT = Path(__file__).parents[2]
LONG = ("trajectory.networks=50", "tracking.log_every=1", "tracking.checkpoint_steps=1", "evaluation.epochs=0")


def start(workers: int, folder: Path, *more: str, cwd: Path = ROOT, **env: str) -> subprocess.Popen[str]:
    """Start the command on the dcc case; the last override of a key counts."""
    given = (*cases.TINY, *cases.CASES["dcc"], f"cluster.workers={workers}", f"output={folder}", *more)
    overrides = {pair.split("=", 1)[0]: pair for pair in given}
    command = [sys.executable, "-P", "-m", "dist_condense.run", f"{ROOT}/configs/digits.yaml", *overrides.values()]
    command = ["env", "--default-signal=INT", *command]  # even where the tests ignore it
    pipe, env = subprocess.PIPE, environment(**env)
    started.append(subprocess.Popen(command, cwd=cwd, env=env, stderr=pipe, text=True, start_new_session=True))
    return started[-1]


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    """Wait for the end of the command and return its output."""
    _, log = process.communicate(timeout=300)
    assert process.returncode == code, log
    return log


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "evaluation.csv").open() as file:
        return sorted(csv.DictReader(file), key=lambda row: (row["set"], row["seed"]))


# --- the same set, and the rest of a run folder ----------------------------------------------------------------------


def test_two_workers_equal_one_process(tmp_path: Path) -> None:
    evaluation = ("evaluation.epochs=3", "evaluation.seeds=2", "evaluation.sets=[random,condensed,herding]")
    alone, together = tmp_path / "one" / "alone", tmp_path / "two" / "together"
    mark = planted(tmp_path / "other")
    for process in (start(0, alone, *evaluation), start(2, together, *evaluation, cwd=tmp_path / "other")):
        finish(process)
    assert not mark.exists(), mark.read_text()
    assert torch.equal(cases.result(alone), cases.result(together))
    assert len(rows(together)) == 6 and rows(together) == rows(alone)
    by_one, by_two = selection(tmp_path / "one"), selection(tmp_path / "two")
    assert by_one.name == by_two.name and torch.equal(cases.result(by_one), cases.result(by_two))
    losses = [
        [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (alone, together)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    for name in ("config.yaml", "environment.json", "report.html", "synthetic_set/preview.png"):
        assert (together / name).stat().st_size > 0, name
    _check_card(together)
    _check_tracking(together)


def selection(outputs: Path) -> Path:
    """Return the folder of the run that made the only selection of these outputs."""
    (folder,) = (path for path in (outputs / "selections").iterdir() if path.is_dir())
    return folder


def _check_card(folder: Path) -> None:
    card = json.loads((folder / "synthetic_set" / "card.json").read_text())
    assert card["complete"] and card["method"].startswith("dcc") and card["steps"] == 6 and len(card["classes"]) == 10
    assert card["value_space"] == "normalised" and card["ipc"] == 2 and card["versions"]
    assert len(load_set(folder / "synthetic_set")) == 20


def _check_tracking(folder: Path) -> None:
    with closing(sqlite3.connect(folder.parent / "mlflow.db")) as db:
        runs = dict(db.execute("SELECT run_uuid, status FROM runs"))
        selections = {x for (x,) in db.execute("SELECT run_uuid FROM runs WHERE name LIKE 'herding-%'")}
        parents = dict(db.execute("SELECT run_uuid, value FROM tags WHERE key = 'mlflow.parentRunId'"))
        logged = {key for (key,) in db.execute("SELECT DISTINCT key FROM metrics")}
    (parent,) = set(parents.values())
    assert len(parents) == 6 and set(runs) == {parent, *parents, *selections} and set(runs.values()) == {"FINISHED"}
    assert {"loss", "top1_last"} <= logged


# --- a worker that hangs ------------------------------------------------------------------------------------------


def test_a_worker_that_hangs(tmp_path: Path) -> None:
    """It is detected in time and named, and the group starts again."""
    together, timeout = tmp_path / "together", 15
    process = start(2, together, *LONG, f"cluster.timeout={timeout}", "cluster.max_failures=1")
    wait(lambda: saved(together) >= 5 or process.poll() is not None, 240)
    assert process.poll() is None, finish(process)
    hanging = train_workers(process.pid)[0]
    os.kill(hanging, signal.SIGSTOP)
    wait(RunFolder(together).restarts.exists, 240)
    log = finish(process)
    named = re.search(r"worker group failed: .* worker (\d) on .* was lost after step \d+: no answer", log)
    seen = re.search(rf"raise cluster.timeout={timeout} \(worker (\d) on ", log)
    assert named and seen and named.group(1) != seen.group(1), log
    assert log.count("worker group failed") == 1
    assert not Path(f"/proc/{hanging}").exists()
    assert torch.equal(cases.result(together), cases.alone("dcc", tmp_path / "alone", *LONG))
    assert logged_steps(together) == list(range(1, 151))


def logged_steps(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def saved(folder: Path) -> int:
    """Return the steps of the newest committed checkpoint, by its name, since a running run removes older ones."""
    return max((int(path.parent.name[5:13]) for path in folder.glob("checkpoints/step_*/manifest.json")), default=0)


def train_workers(driver: int, number: int = 2) -> list[int]:
    """Return Ray Train's workers below a process of this test, and no others of the machine."""
    workers = below(driver)
    assert len(workers) == number, workers
    return workers


def below(driver: int, of: str = "RayTrainWorker") -> list[int]:
    """Return the current workers, or other processes whose titles contain ``of``."""
    parents, titles = {}, {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid = int(status.parent.name)
            parents[pid] = int(status.read_text().rsplit(")", 1)[1].split()[1])
            titles[pid] = (status.parent / "cmdline").read_text(errors="replace")
        except OSError:  # it has ended
            continue

    def is_below(pid: int) -> bool:
        while pid > 1 and pid != driver:
            pid = parents.get(pid, 0)
        return pid == driver

    return [pid for pid, title in titles.items() if of in title and is_below(pid)]
