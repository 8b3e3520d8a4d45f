"""launch/submit.sh through the job API of a real Ray head with token authentication, and launch/local.sh."""

from __future__ import annotations

import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from dist_condense import load_set
from dist_condense.commands import cli
from tests.cluster import ray_head
from tests.cluster.ray_head import RAY, environment, wait
from tests.cluster.test_ray_runs import saved
from tests.engine import cases
from tests.strangers import planted

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
TOKEN = secrets.token_hex(32)
SHORT = [*cases.TINY, *cases.CASES["dcc"], "evaluation.epochs=0"]
ENDLESS = [*SHORT, "trajectory.networks=100000", "tracking.checkpoint_steps=1"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of the job API; nothing is answered without TOKEN."""
    with ray_head.running(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN) as address:
        yield address


def script(name: str, *words: str, cwd: Path = ROOT, **more: str) -> subprocess.Popen[str]:
    command = [f"{ROOT}/launch/{name}", *words]
    env = environment(RAY=str(RAY), PYTHON=sys.executable, **more)
    return subprocess.Popen(command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def submit(cluster: str, output: Path, *overrides: str, token: str = TOKEN) -> subprocess.Popen[str]:
    given = {pair.split("=", 1)[0]: pair for pair in (*overrides, "cluster.workers=2")}
    more = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "DIST_CONDENSE_OUTPUT": str(output)}
    return script("submit.sh", "--address", cluster, "configs/digits.yaml", *given.values(), **more)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    told, _ = process.communicate(timeout=300)
    return process.returncode, told


def test_a_submitted_run(cluster: str, tmp_path: Path) -> None:
    code, told = finish(submit(cluster, tmp_path, *SHORT))
    assert code == 0, told
    assert f"output {tmp_path}/digits" in told  # its log was followed, its environment handed on
    assert len(load_set(tmp_path / "digits" / "synthetic_set")) == 20


def test_a_wrong_token_is_refused(cluster: str, tmp_path: Path) -> None:
    code, told = finish(submit(cluster, tmp_path, *SHORT, token="0" * 64))
    assert (code, told.count("\n")) == (1, 1)
    assert told.startswith(f"submit.sh: {cluster} refused the token: set RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ")


def test_a_job_that_fails(cluster: str, tmp_path: Path) -> None:
    code, told = finish(submit(cluster, tmp_path, *SHORT, "ipc=none"))
    assert code == 1 and "refused: " in told and re.search(r"submit.sh: job \S+: FAILED\n$", told), told


def test_a_job_that_is_stopped(cluster: str, tmp_path: Path) -> None:
    """For which `ray job submit` exits 0."""
    process = submit(cluster, tmp_path, *ENDLESS)
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
    """Two, of a core each where there are two. SIGTERM reaches the run; the same command continues; no Ray is left."""
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
    """Processes that have MARK in their environment."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it has ended
            if f"MARK={word}".encode() in environ.read_bytes():
                found.append(environ.parent.name)
    return found
