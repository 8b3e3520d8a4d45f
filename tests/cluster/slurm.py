"""A Slurm cluster of two hosts on one machine: real daemons in the namespaces of tests/cluster/hosts.py."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import hosts
from tests.cluster.hosts import Host

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
# A requeued job starts again cred_expire seconds later (its first start's credential is refused), at the next interval.
CONFIG = """
ClusterName=test
SlurmctldHost={a.name}({a.address})
SlurmUser=root
AuthInfo=socket={folder}/munge.socket,cred_expire=15
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SchedulerParameters=sched_interval=2,bf_interval=2
MpiDefault=none
ReturnToService=2
NodeName={a.name} NodeAddr={a.address} CPUs=1 State=UNKNOWN
NodeName={b.name} NodeAddr={b.address} CPUs=1 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def not_allowed() -> str | None:
    """Return why such a cluster is impossible here, or None."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    return f"{', '.join(missing)} not installed (Debian: slurm-wlm)" if missing else hosts.not_allowed()


@dataclass
class Slurm:
    """The cluster, used from its first host."""

    head: Host
    folder: Path

    def run(self, *words: str | Path, env: dict[str, str] | None = None) -> str:
        """Run a Slurm command."""
        return self.head.run(*words, env={**(env or os.environ), "SLURM_CONF": str(self.folder / "slurm.conf")})

    def job(self, number: str) -> dict[str, str]:
        """Return the fields of a job: JobState, ExitCode, Restarts, ..."""
        fields = self.run("scontrol", "--oneliner", "show", "job", number).split()
        return dict(field.split("=", 1) for field in fields if "=" in field)


@contextmanager
def cluster(folder: Path) -> Iterator[Slurm]:
    """Yield a cluster of two nodes with one core each; its daemons end with the hosts."""
    with hosts.linked(folder) as (a, b):
        (folder / "slurm.conf").write_text(CONFIG.format(folder=folder, a=a, b=b))
        (folder / "state").mkdir()
        for host in (a, b):
            (folder / f"spool-{host.name}").mkdir()
        _start(a, b, folder)
        slurm = Slurm(a, folder)
        deadline = time.monotonic() + 120
        while slurm.run("sinfo", "--noheader", "--format=%T %D").split() != ["idle", "2"]:
            assert time.monotonic() < deadline, _logs(folder)
            time.sleep(0.5)
        yield slurm


def _start(a: Host, b: Host, folder: Path) -> None:
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    files = [f"--{name}={folder}/munge.{name[:4]}" for name in ("seed-file", "pid-file", "log-file")]
    a.run("munged", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket", *files)
    env = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    a.run("slurmctld", env=env)
    for host in (a, b):
        host.run("slurmd", env=env)


def _logs(folder: Path) -> str:
    return "\n".join(path.read_text() for path in folder.glob("*.log"))
