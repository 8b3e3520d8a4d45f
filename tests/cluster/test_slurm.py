"""launch/slurm.sh under a real Slurm of two nodes: one run across both, requeued and resumed; starts that fail."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.cluster import slurm
from tests.cluster.ray_head import environment, wait
from tests.cluster.slurm import Slurm
from tests.cluster.test_ray_runs import saved
from tests.engine import cases

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1200)]
pytestmark.append(pytest.mark.daemon("Slurm on two network namespaces"))

ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")
LONG = ("trajectory.networks=25", "tracking.log_every=1", "tracking.checkpoint_steps=1", "evaluation.epochs=0")
RUN = [*cases.TINY, *cases.CASES["dcc"], "cluster.workers=2", *LONG]

IN_THE_WAY = """
import pathlib, socket, sys, time
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
while True:
    try:
        s.bind(("", 6379))
        break
    except OSError:  # the Ray of the job before is not gone yet
        time.sleep(0.5)
s.listen()
pathlib.Path(sys.argv[1]).touch()
time.sleep(600)
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    if reason := slurm.not_allowed():
        pytest.skip(reason)
    with slurm.cluster(tmp_path_factory.mktemp("slurm")) as started:
        yield started


def submit(cluster: Slurm, folder: Path, *overrides: str) -> str:
    """Submit a job and return its number; its log is in the folder."""
    given = {pair.split("=", 1)[0]: pair for pair in (*RUN, f"output={folder / 'run'}", *overrides)}
    command = ["sbatch", "--parsable", "--nodes=2", f"--output={folder}/log", "launch/slurm.sh", "configs/digits.yaml"]
    env = environment(DIST_CONDENSE_OUTPUT=str(folder), GLOO_SOCKET_IFNAME="eth0")
    return cluster.run(*command, *given.values(), env=env).strip()


def ended(cluster: Slurm, job: str) -> dict[str, str]:
    wait(lambda: cluster.job(job)["JobState"] in ENDED, 300)
    return cluster.job(job)


def test_a_job_told_that_its_time_is_up_is_queued_again_and_ends_with_the_same_set(
    cluster: Slurm, tmp_path: Path
) -> None:
    job = submit(cluster, tmp_path)
    wait(lambda: saved(tmp_path / "run") >= 5 or cluster.job(job)["JobState"] in ENDED, 240)
    cluster.run("scancel", "--batch", "--signal=USR1", job)  # as Slurm does before the time limit
    wait(lambda: cluster.job(job)["Restarts"] == "1" or cluster.job(job)["JobState"] in ENDED, 240)
    done, log = ended(cluster, job), (tmp_path / "log").read_text()
    assert (done["JobState"], done["Restarts"]) == ("COMPLETED", "1"), log
    stopped = re.search(r"stopped by SIGTERM after matching step (\d+) of 75", log)
    assert stopped and f"resuming after matching step {stopped[1]} of 75" in log, log
    assert torch.equal(cases.result(tmp_path / "run"), cases.alone("dcc", tmp_path / "alone", *LONG))


def test_each_job_of_an_array_on_parts_of_nodes_is_a_run(cluster: Slurm, tmp_path: Path) -> None:
    """One of them is told that its time is up."""
    given = {
        pair.split("=", 1)[0]: pair for pair in (*RUN, "cluster.workers=0", "seed=%a", f"output={tmp_path}/run_%a")
    }
    words = ["--array=3-4", "--cpus-per-task=1", f"--output={tmp_path}/log_%a", "launch/slurm_one.sh"]
    job = cluster.run("sbatch", "--parsable", *words, "configs/digits.yaml", *given.values(), env=environment()).strip()
    first, second = f"{job}_3", f"{job}_4"
    wait(lambda: saved(tmp_path / "run_3") >= 5 or cluster.job(first)["JobState"] in ENDED, 240)
    cluster.run("scancel", "--batch", "--signal=USR1", first)
    wait(lambda: cluster.job(first)["Restarts"] == "1" or cluster.job(first)["JobState"] in ENDED, 240)
    done = [ended(cluster, each) for each in (first, second)]
    logs = [(tmp_path / f"log_{seed}").read_text() for seed in (3, 4)]
    assert [each["JobState"] for each in done] == ["COMPLETED"] * 2 and done[0]["Restarts"] == "1", logs
    assert done[0]["OverSubscribe"] == "OK"  # the nodes may be shared
    assert "resuming after matching step" in logs[0]
    for seed in (3, 4):
        alone = cases.alone("dcc", tmp_path / f"alone_{seed}", *LONG, f"seed={seed}")
        assert torch.equal(cases.result(tmp_path / f"run_{seed}"), alone)


def test_a_run_that_is_refused_fails_the_job(cluster: Slurm, tmp_path: Path) -> None:
    done = ended(cluster, submit(cluster, tmp_path, "ipc=none"))
    assert (done["JobState"], done["ExitCode"], done["Restarts"]) == ("FAILED", "2:0", "0")
    assert "refused: " in (tmp_path / "log").read_text()


def test_a_ray_that_does_not_start_fails_the_job(cluster: Slurm, tmp_path: Path) -> None:
    """`ray symmetric-run` itself exits 0 in this case."""
    with cluster.head.start(sys.executable, "-c", IN_THE_WAY, tmp_path / "bound") as process:
        wait(lambda: (tmp_path / "bound").exists(), 120)
        done = ended(cluster, submit(cluster, tmp_path))
        process.kill()
    log = (tmp_path / "log").read_text()
    assert (done["JobState"], done["ExitCode"]) == ("FAILED", "1:0"), log
    assert "Ray did not start" in log
