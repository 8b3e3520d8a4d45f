"""A run across two hosts whose link is cut; the same command continues to the set of one process."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dist_condense.commands import cli
from dist_condense.settings.run_folder import RunFolder
from tests.cluster import hosts
from tests.cluster.hosts import Host
from tests.cluster.ray_head import RAY, environment, wait
from tests.cluster.test_ray_runs import finish, saved
from tests.engine import cases

STOP = RunFolder.stop.name

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.daemon("Ray on two network namespaces")]

PORT = 6399
TIMEOUT = 15
ENDLESS = (
    *("dataset.classes=['1','3','5','8']", "tracking.log_every=1", "evaluation.epochs=0"),
    *("trajectory.networks=100000", "tracking.checkpoint_minutes=0.02"),
)


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
    """Start the command on the dcc case with a worker on each host; the last override of a key counts."""
    given = (*cases.TINY, *cases.CASES["dcc"], f"output={folder}", "cluster.workers=2", f"cluster.timeout={TIMEOUT}")
    overrides = {pair.split("=", 1)[0]: pair for pair in (*given, *more)}
    command = [sys.executable, "-m", "dist_condense.run", "configs/digits.yaml", *overrides.values()]
    env = environment(RAY_ADDRESS=f"{host.address}:{PORT}")
    return host.start(*command, env=env, stderr=subprocess.PIPE)


def test_a_cut_link(pair: tuple[Host, Host], tmp_path: Path) -> None:
    """The run ends and reports the reason; the same command continues from there."""
    a, b = pair
    folder = tmp_path / "run"
    process = running(a, folder)
    b.run("ip", "link", "set", "eth0", "down")
    log = finish(process, 1)
    named = re.search(r"failed: worker \d on (\S+ \S+) was lost after step \d+: no answer", log)
    assert named and named.group(1) == f"{b.name} ({b.address})", log
    assert f"raise cluster.timeout={TIMEOUT} (worker " in log and "the same command continues from there" in log
    b.run("ip", "link", "set", "eth0", "up")
    b.lose_all()  # Ray may have given it up already
    join_as_node(b, a)
    process = running(a, folder)
    (folder / STOP).touch()  # a signal would end nsenter, and not what it has started
    log = finish(process, cli.TERMINATED)
    assert re.search(r"resuming after matching step \d+ of 300000", log)
    assert torch.equal(cases.result(folder), cases.first_steps("dcc", saved(folder), tmp_path / "alone", *ENDLESS))


def running(host: Host, folder: Path) -> subprocess.Popen[str]:
    """Start the command and return it once some of its steps are saved."""
    before, process = saved(folder), start(host, folder, *ENDLESS)
    wait(lambda: saved(folder) >= before + 5 or process.poll() is not None, 240)
    assert process.poll() is None, finish(process)
    return process
