"""launch/submit.sh through the job API of a real Ray head with token authentication, and launch/local.sh."""

from __future__ import annotations

import json
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from dist_condense import load_set
from dist_condense.commands import cli
from tests.cluster import ray_head
from tests.cluster.ray_head import RAY, environment, wait
from tests.cluster.test_ray_runs import rows, saved
from tests.engine import cases
from tests.strangers import planted

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.daemon("a Ray head with its job API, and Ray nodes")]

ROOT = Path(__file__).parents[2]
TOKEN = secrets.token_hex(32)
SHORT = [*cases.TINY, *cases.CASES["dcc"], "evaluation.epochs=0"]
ENDLESS = [*SHORT, "trajectory.networks=100000", "tracking.checkpoint_steps=1"]
IMAGENET = [
    *("dataset.classes=null", "dataset.size=32", "ipc=1", "method.parameterisation.factor=2", "method.real_batch=4"),
    *("network.width=8", "trajectory.networks=1", "trajectory.matching_steps=2", "trajectory.pool_size=1"),
    *("trajectory.pretrain_epochs=1", "training.images=64", "cluster.workers=2", "compute.threads=1"),
    *("evaluation.epochs=1", "evaluation.seeds=1", "evaluation.architectures=[network]"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a job API that requires TOKEN."""
    with ray_head.running(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN) as address:
        yield address


def script(name: str, *words: str, cwd: Path = ROOT, **more: str) -> subprocess.Popen[str]:
    command = [f"{ROOT}/launch/{name}", *words]
    env = environment(RAY=str(RAY), PYTHON=sys.executable, **more)
    return subprocess.Popen(command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def submit(cluster: str, output: Path, *words: str, **more: str) -> subprocess.Popen[str]:
    own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "DIST_CONDENSE_OUTPUT": str(output)}
    return script("submit.sh", "--address", cluster, *words, **(own | more))


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    told, _ = process.communicate(timeout=300)
    return process.returncode, told


def test_a_submitted_run_on_imagenet100(cluster: str, real_data: Path, tmp_path: Path) -> None:
    root = str(real_data / "miniimagenet84")
    code, told = finish(submit(cluster, tmp_path, "configs/imagenet100_idc.yaml", *IMAGENET, IMAGENET_ROOT=root))
    output = tmp_path / "imagenet100_idc"
    assert code == 0, told
    assert f"output   {output}" in told  # its log was followed, its environment handed on
    found = load_set(output / "synthetic_set")
    card = json.loads((output / "synthetic_set" / "card.json").read_text())
    assert len(card["classes"]) == 100 and card["complete"] and card["factor"] == 2
    assert all(entry["wnid"] for entry in card["classes"])
    assert found.labels.bincount().tolist() == [4] * 100
    assert found.batch(torch.arange(8)).shape == (8, 3, 32, 32)
    assert [row["set"] for row in rows(output)] == ["condensed", "random"]
    assert (output / "report.html").stat().st_size > 0


def test_a_job_of_the_installed_package(cluster: str, tmp_path: Path) -> None:
    """Nothing is uploaded; the configs are those of the package."""
    code, told = finish(submit(cluster, tmp_path, "--installed", "configs/imagenet100_idc.yaml", "--cfg", "ipc=7"))
    assert code == 0 and "\nipc: 7\n" in told and "classes: imagenet100_idc" in told, told


def test_a_wrong_token_is_refused(cluster: str, tmp_path: Path) -> None:
    code, told = finish(submit(cluster, tmp_path, "configs/digits.yaml", RAY_AUTH_TOKEN="0" * 64))
    assert (code, told.count("\n")) == (1, 1)
    assert told.startswith(f"submit.sh: {cluster} refused the token: set RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ")


def test_a_job_with_a_relative_output_fails(cluster: str, tmp_path: Path) -> None:
    code, told = finish(submit(cluster, tmp_path, "configs/digits.yaml", "output=outputs/here"))
    assert code == 1 and re.search(r"submit.sh: job \S+: FAILED\n$", told), told
    assert "output: outputs/here is relative, and a submitted job's working directory is deleted" in told


def test_a_job_that_is_stopped(cluster: str, tmp_path: Path) -> None:
    """`ray job submit` exits 0 for such a job."""
    given = {pair.split("=", 1)[0]: pair for pair in (*ENDLESS, "cluster.workers=2")}
    process = submit(cluster, tmp_path, "configs/digits.yaml", *given.values())
    wait(lambda: saved(tmp_path / "digits") >= 1 or process.poll() is not None, 240)
    assert process.poll() is None, finish(process)
    assert process.stdout
    job = next(
        found[1] for line in process.stdout if (found := re.search(r"ray job stop (dist-condense-[\d-]+)", line))
    )
    env = environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN)
    subprocess.run([RAY, "job", "stop", "--address", cluster, job], env=env, check=True, capture_output=True)
    code, told = finish(process)
    assert code == 1 and told.endswith(f"submit.sh: job {job}: STOPPED\n"), told


def test_several_nodes_on_this_machine(tmp_path: Path) -> None:
    """SIGTERM reaches the run on two nodes; the same command continues; no process of Ray is left."""
    words = [*SHORT, "trajectory.networks=15", "tracking.checkpoint_steps=1"]
    given = {pair.split("=", 1)[0]: pair for pair in (*words, f"output={tmp_path}")}
    command = ("local.sh", "--workers", "2", "--nodes", "2", "configs/digits.yaml", *given.values())
    mark = planted(tmp_path / "his")
    process = script(*command, cwd=tmp_path / "his", MARK=str(tmp_path))
    wait(lambda: saved(tmp_path) >= 1 or process.poll() is not None, 240)
    assert process.poll() is None, finish(process)
    process.send_signal(signal.SIGTERM)
    code, told = finish(process)
    assert code == cli.TERMINATED and "stopped by SIGTERM after matching step" in told, told
    assert not mark.exists(), mark.read_text()
    code, told = finish(script(*command, MARK=str(tmp_path)))
    assert code == 0 and "resuming after matching step" in told, told
    wait(lambda: not marked(str(tmp_path)), 60)


def marked(word: str) -> list[str]:
    """Return the processes that have MARK in their environment."""
    pids = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it has ended
            if f"MARK={word}".encode() in environ.read_bytes():
                pids.append(environ.parent.name)
    return pids
