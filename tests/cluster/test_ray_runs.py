"""The whole command on Ray: the set of one process, a worker that is killed, and `ray job submit`.

Each test pays 20 s or more for starting Ray. Runtimes end with the processes that are started here; nothing calls
`ray stop`, which would end every Ray of the machine.
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
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch

from dist_condense import load_set
from dist_condense.settings.run_folder import RunFolder
from tests.cluster import ray_head
from tests.cluster.ray_head import RAY, environment, started, wait
from tests.engine import cases
from tests.strangers import planted

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
LONG = ("trajectory.networks=50", "tracking.log_every=1", "tracking.checkpoint_steps=1", "evaluation.epochs=0")


def start(workers: int, folder: Path, *more: str, cwd: Path = ROOT, **env: str) -> subprocess.Popen[str]:
    """The command on the dcc case; the last override of a key counts."""
    given = (*cases.TINY, *cases.CASES["dcc"], f"cluster.workers={workers}", f"output={folder}", *more)
    overrides = {pair.split("=", 1)[0]: pair for pair in given}
    command = [sys.executable, "-P", "-m", "dist_condense.run", f"{ROOT}/configs/digits.yaml", *overrides.values()]
    command = ["env", "--default-signal=INT", *command]  # although whoever runs the tests may ignore it
    pipe, env = subprocess.PIPE, environment(**env)
    started.append(subprocess.Popen(command, cwd=cwd, env=env, stderr=pipe, text=True, start_new_session=True))
    return started[-1]


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    """What it told."""
    _, told = process.communicate(timeout=300)
    assert process.returncode == code, told
    return told


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "evaluation.csv").open() as file:
        return sorted(csv.DictReader(file), key=lambda row: (row["set"], row["seed"]))


# --- the same set, and all that stands in a run's folder ----------------------------------------------------------


def test_two_workers_equal_one_process(tmp_path: Path) -> None:
    evaluation = ("evaluation.epochs=3", "evaluation.seeds=2", "evaluation.sets=[random,condensed]")
    alone, together = tmp_path / "alone", tmp_path / "together"
    finish(start(0, alone, *evaluation))
    mark = planted(tmp_path / "his")
    finish(start(2, together, *evaluation, cwd=tmp_path / "his"))
    assert not mark.exists(), mark.read_text()
    assert torch.equal(cases.result(alone), cases.result(together))
    assert len(rows(together)) == 4 and rows(together) == rows(alone)
    losses = [
        [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (alone, together)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    for name in ("config.yaml", "environment.json", "report.html", "synthetic_set/preview.png"):
        assert (together / name).stat().st_size > 0, name
    _check_card(together)
    _check_tracking(together)


def _check_card(folder: Path) -> None:
    card = json.loads((folder / "synthetic_set" / "card.json").read_text())
    assert card["complete"] and card["method"] == "dcc" and card["steps"] == 6 and len(card["classes"]) == 10
    assert card["value_space"] == "normalised" and card["ipc"] == 2 and card["versions"]
    assert len(load_set(folder / "synthetic_set")) == 20


def _check_tracking(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "mlflow.db")) as db:
        runs = dict(db.execute("SELECT run_uuid, status FROM runs"))
        parents = dict(db.execute("SELECT run_uuid, value FROM tags WHERE key = 'mlflow.parentRunId'"))
        logged = {key for (key,) in db.execute("SELECT DISTINCT key FROM metrics")}
    (parent,) = set(parents.values())
    assert len(parents) == 4 and set(runs) == {parent, *parents} and set(runs.values()) == {"FINISHED"}
    assert {"loss", "top1_last"} <= logged


# --- a worker that is lost ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    """The set of the long run in one process."""
    folder = tmp_path_factory.mktemp("alone")
    finish(start(0, folder, *LONG))
    return cases.result(folder)


def steps_told(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_killed_worker(tmp_path: Path, alone: torch.Tensor) -> None:
    together = tmp_path / "together"
    process = start(2, together, *LONG)
    wait(lambda: saved(together) >= 5 or process.poll() is not None, 240)
    assert process.poll() is None, finish(process)
    os.kill(train_workers(process.pid)[0], signal.SIGKILL)
    told = finish(process, 1)
    assert "failed: worker " in told and "lost" in told, told
    kept = json.loads((together / "synthetic_set" / "card.json").read_text())
    assert 5 <= kept["steps"] < 150 and not kept["complete"]
    assert f"the set of matching step {kept['steps']} is kept in {together / 'synthetic_set'}" in told
    assert len(load_set(together / "synthetic_set")) == 20
    assert f"resuming after matching step {kept['steps']} of 150" in finish(start(2, together, *LONG))
    assert torch.equal(cases.result(together), alone)
    assert steps_told(together) == list(range(1, 151))


def test_a_worker_that_hangs(tmp_path: Path, alone: torch.Tensor) -> None:
    """It is found in time and named, and the group heals."""
    together, timeout = tmp_path / "together", 15
    process = start(2, together, *LONG, f"cluster.timeout={timeout}", "cluster.max_failures=1")
    wait(lambda: saved(together) >= 5 or process.poll() is not None, 240)
    assert process.poll() is None, finish(process)
    hanging = train_workers(process.pid)[0]
    os.kill(hanging, signal.SIGSTOP)
    wait(RunFolder(together).restarts.exists, 240)
    told = finish(process)
    named = re.search(r"worker group failed: .* worker (\d) on .* was lost after matching step \d+: no answer", told)
    seen = re.search(rf"raise cluster.timeout={timeout} \(worker (\d) on ", told)
    assert named and seen and named.group(1) != seen.group(1), told
    assert told.count("worker group failed") == 1
    assert not Path(f"/proc/{hanging}").exists()
    assert torch.equal(cases.result(together), alone)
    assert steps_told(together) == list(range(1, 151))


def saved(folder: Path) -> int:
    """Steps of the newest committed checkpoint; by name, since older ones go while the run goes on."""
    return max((int(path.parent.name[5:13]) for path in folder.glob("checkpoints/step_*/manifest.json")), default=0)


def train_workers(driver: int, number: int = 2) -> list[int]:
    """Ray Train's workers below a process that we started, and no others of the machine."""
    found = below(driver)
    assert len(found) == number, found
    return found


def below(driver: int, of: str = "RayTrainWorker") -> list[int]:
    """As many of them as there are now; or others whose titles have ``of`` in them."""
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


# --- ray job submit -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a Ray head of its own, on 2 cores."""
    with ray_head.running() as address:
        yield address


def submit(address: str, *words: str) -> subprocess.CompletedProcess[str]:
    """`ray job submit` as a user types it in the repository."""
    command = [RAY, "job", "submit", "--address", address, *words]
    return subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=420)


def test_submitted_imagenet100(cluster: str, real_data: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    overrides = [
        f"dataset.root={real_data / 'miniimagenet84'}",
        "dataset.classes=null",
        "dataset.size=32",
        f"output={output}",
        "ipc=1",
        "method.parameterisation.factor=2",
        "method.real_batch=4",
        "network.width=8",
        "trajectory.networks=1",
        "trajectory.matching_steps=2",
        "trajectory.pool_size=1",
        "trajectory.pretrain_epochs=1",
        "training.images=64",
        "cluster.workers=2",
        "cluster.threads=1",
        "evaluation.epochs=1",
        "evaluation.seeds=1",
        "evaluation.architectures=[network]",
    ]
    run = ["python", "-m", "dist_condense.run", "configs/imagenet100_idc.yaml", *overrides]
    done = submit(cluster, "--submission-id", "whole", "--working-dir", ".", "--", *run)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert _status(cluster, "whole") == "SUCCEEDED"
    found = load_set(output / "synthetic_set")
    card = json.loads((output / "synthetic_set" / "card.json").read_text())
    assert len(card["classes"]) == 100 and card["complete"] and card["factor"] == 2
    assert all(entry["wnid"] for entry in card["classes"])
    assert found.labels.bincount().tolist() == [4] * 100
    assert found.batch(torch.arange(8)).shape == (8, 3, 32, 32)
    assert [row["set"] for row in rows(output)] == ["condensed", "random"]
    assert (output / "report.html").stat().st_size > 0


def test_submitted_without_a_working_directory(cluster: str) -> None:
    run = ["python", "-m", "dist_condense.run", "configs/imagenet100_idc.yaml", "--cfg", "ipc=7"]
    done = submit(cluster, "--submission-id", "config", "--", *run)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\nipc: 7\n" in done.stdout and "classes: imagenet100_idc" in done.stdout


def test_a_relative_output_is_refused_in_a_job(cluster: str) -> None:
    run = ["python", "-m", "dist_condense.run", "configs/digits.yaml", "output=outputs/here"]
    done = submit(cluster, "--submission-id", "relative", "--working-dir", ".", "--", *run)
    assert done.returncode != 0 and _status(cluster, "relative") == "FAILED"
    assert "output: outputs/here is relative, and a submitted job's working directory is thrown away" in done.stdout


def _status(address: str, submission: str) -> str:
    from ray.job_submission import JobSubmissionClient

    return JobSubmissionClient(address).get_job_status(submission).value


# --- memory ---------------------------------------------------------------------------------------------------------

FAULTS = """
import resource, threading
import ray, torch
from dist_condense import worker
from dist_condense.engine import ray_group

def count(into):
    worker.keep_freed_memory()  # with all that a worker imports: where little is held the heap grows for longer
    for i in range(12):
        torch.zeros(2**25)  # 128 MiB, 32768 pages
        if i == 1:
            first = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    into.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - first)

@ray.remote(num_cpus=1)
def in_a_thread():  # as Ray Train and Tune do
    found = []
    thread = threading.Thread(target=count, args=(found,))
    thread.start()
    thread.join()
    return found[0]

ray_group.connect()
print(ray.get(in_a_thread.remote()))
"""


def test_a_thread_of_a_ray_worker_keeps_freed_memory() -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS], cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) < 2 * 32768  # of ten blocks; the heap may still grow once
