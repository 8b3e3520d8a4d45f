"""A Ray head with its job API, which ends with the test without `ray stop`."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

RAY = Path(sys.executable).with_name("ray")


started: list[subprocess.Popen[str]] = []
"""Commands of the current test, which conftest ends with it."""


def environment(**more: str) -> dict[str, str]:
    """Return the environment, with the package's Python first and without variables of Ray."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "MLFLOW_DISABLE_TELEMETRY": "true", "RAY_AUTH_MODE": "disabled"}
    return {**kept, "PATH": path, **quiet, **more}


def wait(condition: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.1)


@contextmanager
def running(**more: str) -> Iterator[str]:
    """Start a head of 2 cores and yield the address of its job API.

    :param more: environment of the head.
    """
    folder = Path(tempfile.mkdtemp(prefix="ray_", dir="/tmp"))  # short: a socket's path has at most 107 characters
    port, dashboard, client, agent = free_ports(4)
    command = [RAY, "start", "--head", "--block", "--num-cpus=2", "--disable-usage-stats", f"--temp-dir={folder}"]
    command += ["--node-ip-address=127.0.0.1", f"--port={port}", f"--dashboard-port={dashboard}"]
    command += [f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}"]
    command += ["--min-worker-port=0", "--max-worker-port=0"]  # any port: another head may run at the same time
    with (folder / "head.log").open("w") as log:
        env = environment(**more)
        head = subprocess.Popen(command, cwd="/tmp", env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        wait(lambda: head.poll() is not None or _answers(dashboard), 120)
        assert head.poll() is None, (folder / "head.log").read_text()
        yield f"http://127.0.0.1:{dashboard}"
    finally:
        head.send_signal(signal.SIGTERM)  # with `--block` it ends its child processes
        try:
            head.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(head.pid, signal.SIGKILL)
            head.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def _answers(port: int) -> bool:
    with socket.socket() as s:
        s.settimeout(1)
        return s.connect_ex(("127.0.0.1", port)) == 0
