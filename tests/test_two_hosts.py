"""Two hosts for real: one run across both, the same set; the link is cut, and the same command gives the same set."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests import hosts
from tests.engine import cases
from tests.hosts import Host
from tests.test_ray_runs import RAY, environment, finish, saved, wait

pytestmark = [pytest.mark.ray, pytest.mark.slow]

PORT = 6399
TIMEOUT = 15
SHORT = ("tracking.log_every=1", "evaluation.epochs=0")
LONG = (*SHORT, "trajectory.networks=50", "tracking.checkpoint_steps=1")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Host, Host]]:
    """Host a with a Ray head and host b with a node, one core each."""
    if reason := hosts.not_allowed():
        pytest.skip(reason)
    with hosts.linked(tmp_path_factory.mktemp("hosts")) as (a, b):
        join(a, "--head", f"--port={PORT}", "--include-dashboard=false")
        join_as_node(b, a)
        yield a, b


def join(host: Host, *how: str) -> None:
    common = ["--num-cpus=1", "--disable-usage-stats", f"--node-ip-address={host.address}"]
    host.run(RAY, "start", *how, *common, "--object-store-memory=100000000", env=environment())


def join_as_node(host: Host, head: Host) -> None:
    join(host, f"--address={head.address}:{PORT}")


def start(host: Host, folder: Path, *more: str) -> subprocess.Popen[str]:
    """The command on the dcc case, with a worker on each host; the last override of a key counts."""
    given = (*cases.TINY, *cases.CASES["dcc"], f"output={folder}", "cluster.workers=2", f"cluster.timeout={TIMEOUT}")
    overrides = {pair.split("=", 1)[0]: pair for pair in (*given, *more)}
    command = [sys.executable, "-m", "dist_condense.run", "configs/digits.yaml", *overrides.values()]
    env = environment(RAY_ADDRESS=f"{host.address}:{PORT}")
    return host.start(*command, env=env, stderr=subprocess.PIPE)


def start_long(host: Host, folder: Path, *more: str) -> subprocess.Popen[str]:
    """Until some of its steps are saved."""
    process = start(host, folder, *LONG, *more)
    wait(lambda: saved(folder) >= 5 or process.poll() is not None, 240)
    assert process.poll() is None, finish(process)
    return process


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    """The set of the long run in one process."""
    return cases.alone("dcc", tmp_path_factory.mktemp("alone"), *LONG)


def test_two_hosts_equal_one_process(pair: tuple[Host, Host], tmp_path: Path) -> None:
    finish(start(pair[0], tmp_path / "together", *SHORT))
    assert torch.equal(cases.result(tmp_path / "together"), cases.alone("dcc", tmp_path / "alone", *SHORT))


def test_a_cut_link(pair: tuple[Host, Host], tmp_path: Path, alone: torch.Tensor) -> None:
    """The run ends in bounded time and says why; the same command goes on from there."""
    a, b = pair
    process = start_long(a, tmp_path)
    b.run("ip", "link", "set", "eth0", "down")
    began = time.monotonic()
    told = finish(process, 1)
    assert time.monotonic() - began < TIMEOUT + 60  # Ray takes its time to end a group that it cannot reach
    named = re.search(r"failed: worker \d on (\S+ \S+) was lost after matching step \d+: no answer", told)
    assert named and named.group(1) == f"{b.name} ({b.address})", told
    assert f"raise cluster.timeout={TIMEOUT} (worker " in told and "the same command continues from there" in told
    b.run("ip", "link", "set", "eth0", "up")
    b.lose_all()  # Ray may have given it up already
    join_as_node(b, a)
    assert re.search(r"resuming after matching step \d+ of 150", finish(start(a, tmp_path, *LONG)))
    assert torch.equal(cases.result(tmp_path), alone)


def test_a_lost_host(pair: tuple[Host, Host], tmp_path: Path, alone: torch.Tensor) -> None:
    """An elastic group goes on without it, to the same set."""
    a, b = pair
    process = start_long(a, tmp_path, "cluster.min_workers=1", "cluster.max_failures=1")
    b.lose_all()
    told = finish(process)
    assert re.search(rf"the worker group failed: \S+ worker \d on {b.name} \({b.address}\) was lost", told), told
    assert torch.equal(cases.result(tmp_path), alone)
