"""A cluster of two nodes on one machine: one leaves after a notice, and another joins."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from dist_condense.commands import cli
from dist_condense.settings.run_folder import RunFolder
from tests.cluster.ray_head import RAY, environment, free_ports, wait
from tests.cluster.test_ray_runs import below, finish, logged_steps, saved, start
from tests.engine import cases

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.daemon("Ray nodes that leave and join")]

HERE = "127.0.0.1"
RUN = (
    *("trajectory.networks=100000", "dataset.classes=['1','3','5','8']"),  # ends only on request
    *("tracking.log_every=1", "tracking.checkpoint_minutes=60", "evaluation.epochs=0"),
    *("cluster.min_workers=1", "cluster.max_failures=1"),
)
DRAIN = """
import sys, time
import ray
from ray.core.generated.autoscaler_pb2 import DRAIN_NODE_REASON_PREEMPTION
client = ray._raylet.GcsClient(address=sys.argv[1])
(node,) = [info.node_id for info in client.get_all_node_info().values() if not info.is_head_node]
print(client.drain_node(node.hex(), DRAIN_NODE_REASON_PREEMPTION, "for a test", time.time_ns() // 10**6 + 600_000))
"""


class Node:
    """A Ray node of one core on this machine, with its own processes."""

    def __init__(self, folder: Path, name: str, *how: str) -> None:
        self.log = folder / f"{name}.log"
        common = ["--block", "--disable-usage-stats", "--num-cpus=1", "--object-store-memory=100000000"]
        ports = [f"--dashboard-agent-listen-port={free_ports(1)[0]}", "--min-worker-port=0", "--max-worker-port=0"]
        command = [RAY, "start", *common, f"--node-ip-address={HERE}", *ports, *how]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, cwd="/tmp", env=environment(), stdout=log, stderr=log)
        wait(lambda: "Ray runtime started" in self.log.read_text() or self.process.poll() is not None, 120)
        assert self.process.poll() is None, self.log.read_text()

    def lose(self) -> None:
        """Kill all processes of the node at once."""
        for pid in (self.process.pid, *below(self.process.pid, "")):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(30)


class Cluster:
    """A head with the driver, and nodes that join and leave."""

    def __init__(self, folder: Path) -> None:
        port = free_ports(1)[0]
        self.folder, self.address, self.nodes = folder, f"{HERE}:{port}", []
        self.head = self._new("--head", f"--port={port}", f"--temp-dir={folder}", "--include-dashboard=false")

    def add(self) -> Node:
        return self._new(f"--address={self.address}")

    def warn(self) -> None:
        """Send the notice of a cloud that will preempt the machine other than the head."""
        command = [sys.executable, "-c", DRAIN, self.address]
        done = subprocess.run(command, cwd="/tmp", env=environment(), capture_output=True, text=True, timeout=120)
        assert done.stdout.startswith("(True"), done.stdout + done.stderr

    def _new(self, *how: str) -> Node:
        self.nodes.append(Node(self.folder, f"node{len(self.nodes)}", *how))
        return self.nodes[-1]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="ray_", dir="/tmp"))  # short: a socket's path has at most 107 characters
    made = Cluster(folder)
    try:
        yield made
    finally:
        for node in reversed(made.nodes):
            node.lose()
        shutil.rmtree(folder, ignore_errors=True)


def test_a_node_that_is_warned_goes_and_another_comes(cluster: Cluster, tmp_path: Path) -> None:
    """All workers save at one step after the notice; one continues from there, and two once a node joins."""
    folder, going = tmp_path / "run", cluster.add()
    placing = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10"}  # Ray counts a node that is gone for up to 40 s
    process = start(2, folder, *RUN, RAY_ADDRESS=cluster.address, **placing)

    def until(condition: Callable[[], object]) -> None:
        wait(lambda: condition() or process.poll() is not None, 240)
        assert process.poll() is None, finish(process)

    until(lambda: last(folder)["step"] >= 3)
    assert not list(folder.glob("checkpoints/*"))
    cluster.warn()
    until(lambda: saved(folder))
    (warned,) = folder.glob("checkpoints/*")
    assert workers(folder) == 2
    until(lambda: last(folder)["step"] > saved(folder))  # they continue until it leaves
    before = below(cluster.head.process.pid)
    going.lose()
    until(lambda: set(below(cluster.head.process.pid)) - set(before))
    until(writes_on(folder))
    assert [*folder.glob("checkpoints/*")] == [warned]
    coming = cluster.add()
    until(lambda: below(coming.process.pid))
    until(writes_on(folder))
    process.send_signal(signal.SIGTERM)
    finish(process, cli.TERMINATED)
    newest = max(folder.glob("checkpoints/*"))
    assert newest > warned and workers(folder) == 2
    expected = cases.first_steps("dcc", saved(folder), tmp_path / "alone", *RUN)
    assert torch.equal(cases.result(folder), expected)
    assert logged_steps(folder) == list(range(1, saved(folder) + 1))


def last(folder: Path) -> dict[str, Any]:
    """Return the last line of metrics.jsonl."""
    file = RunFolder(folder).metrics
    lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
    whole = [line for line in lines if line.endswith(b"\n")]
    return json.loads(whole[-1]) if whole else {"step": 0, "time": 0.0}


def writes_on(folder: Path) -> Callable[[], bool]:
    """Return a condition that is true once a new line is written."""
    since = time.time()
    return lambda: last(folder)["time"] > since


def workers(folder: Path) -> int:
    """Return the number of workers of the last group that started."""
    groups = re.findall(r"one of (\d+), on", (RunFolder(folder).logs / "worker_0.jsonl").read_text())
    return int(groups[-1])
