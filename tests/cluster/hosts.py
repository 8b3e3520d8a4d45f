"""Two hosts on one machine: linked namespaces with their own addresses, names, processes and temporary folders."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
NAMESPACES = ["unshare", "--mount", "--uts", "--pid", "--net", "--fork", "--mount-proc", "--kill-child"]
LONGEST = 1800
"""Seconds after which a host ends by itself if the tests are killed."""
FIRST = ["bash", "-c", f"for _ in {{1..{LONGEST}}}; do sleep 1; done"]
"""The first process of a host: it sleeps, and reaps orphans, as an init does."""


def not_allowed() -> str | None:
    """Return why such hosts are impossible here, or None."""
    missing = [tool for tool in ("unshare", "nsenter", "ip", "mount") if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} not installed (Debian: util-linux, iproute2)"
    command = [*NAMESPACES, "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth1"]
    tried = subprocess.run(command, capture_output=True, text=True)
    return f"network namespaces are not allowed here: {tried.stderr.strip()}" if tried.returncode else None


@dataclass
class Host:
    """A host; all its processes end with its first.

    :param process: the process, outside the namespaces, that keeps them.
    """

    name: str
    address: str
    process: subprocess.Popen[bytes]
    first: int = 0
    """Id of the first process, outside."""
    space: str = "none"

    def start_first(self) -> None:
        """Wait until the namespaces exist."""
        pid, deadline = self.process.pid, time.monotonic() + 30
        children = Path(f"/proc/{pid}/task/{pid}/children")
        while not (ids := children.read_text().split()) or _name(ids[0]) != FIRST[0]:
            assert self.process.poll() is None and time.monotonic() < deadline, "no namespaces"
            time.sleep(0.05)
        self.first, self.space = int(ids[0]), os.readlink(f"/proc/{ids[0]}/ns/pid")

    def command(self, *words: str | Path) -> list[str]:
        """Return the command that runs ``words`` on this host, in the repository."""
        return ["nsenter", "--target", str(self.first), "--all", f"--wdns={ROOT}", *map(str, words)]

    def run(self, *words: str | Path, env: Mapping[str, str] | None = None) -> str:
        """Run a command to its end and return its output; fail if it fails."""
        done = subprocess.run(self.command(*words), env=env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{words} on {self.name}: {done.stdout}{done.stderr}"
        return done.stdout

    def start(self, *words: str | Path, **options: Any) -> subprocess.Popen[str]:
        """Start a process on this host."""
        return subprocess.Popen(self.command(*words), text=True, **options)

    def pids(self) -> list[int]:
        """Return its processes, by their ids outside."""
        pids = []
        for space in Path("/proc").glob("[0-9]*/ns/pid"):
            with suppress(OSError):  # it has ended
                if os.readlink(space) == self.space:
                    pids.append(int(space.parts[2]))
        return pids

    def lose_all(self) -> None:
        """Kill all processes except the first."""
        assert self.space != os.readlink("/proc/self/ns/pid")
        for pid in self.pids():
            if pid != self.first:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def end(self) -> None:
        """End the host; the kernel ends its processes with the first."""
        self.process.kill()
        self.process.wait(30)
        deadline = time.monotonic() + 30
        while left := self.pids():
            assert time.monotonic() < deadline, f"{self.name} is not gone: {left}"
            time.sleep(0.1)


@contextmanager
def linked(folder: Path) -> Iterator[tuple[Host, Host]]:
    """Yield two hosts, linked by their interfaces eth0, and remove them afterwards.

    As on Debian, the name of a host resolves to a loopback address on that host.

    :param folder: contains the hosts' /tmp/ray.
    """
    hosts: list[Host] = []
    try:
        for name, address in (("host-a", "10.77.0.1"), ("host-b", "10.77.0.2")):
            hosts.append(Host(name, address, subprocess.Popen([*NAMESPACES, *FIRST])))
            _furnish(hosts[-1], folder / name)
        a, b = hosts
        inside = ["nsenter", "--target", str(a.first), "--net"]  # only the network: b.first is an id outside the hosts
        link = ["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", str(b.first)]
        subprocess.run([*inside, *link], check=True)
        for host in hosts:
            host.run("ip", "address", "add", f"{host.address}/24", "dev", "eth0")
            host.run("ip", "link", "set", "eth0", "up")
        yield a, b
    finally:
        for host in hosts:
            host.end()


def _furnish(host: Host, folder: Path) -> None:
    host.start_first()
    folder.mkdir()
    names = folder / "hosts"
    names.write_text(f"127.0.0.1 localhost\n127.0.1.1 {host.name}\n")
    host.run("hostname", host.name)
    host.run("mount", "--bind", names, "/etc/hosts")
    Path("/tmp/ray").mkdir(exist_ok=True)  # Ray's own folder: a socket's path has at most 107 characters
    host.run("mount", "--bind", folder, "/tmp/ray")
    host.run("ip", "link", "set", "lo", "up")


def _name(pid: str) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""
