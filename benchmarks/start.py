"""Seconds until a command answers, until a run makes its first step, and with threads that wait in different ways.

    python -m benchmarks.start                                  # everything that this machine has data for
    DATA_DIR=/data python -m benchmarks.start --sections first --repeats 3 --json outputs/start.json

Sections:

- ``commands``: wall time of ``--help``, ``list``, ``--version`` and every ``COMMAND --help``, each in a new process.
- ``first``: from the start of ``python -m dist_condense.run`` until it begins its first step (the workers have opened
  their images and built the network) and until that step is in metrics.jsonl, in-process and with 2 Ray workers.
  DATA_DIR contains cifar10/, as class folders or as torchvision's files.
- ``waiting``: seconds per step of the digits in-process on two threads, alone and beside a second such run, where the
  threads of OpenMP spin (``active``), wait as libgomp does by itself (``default``), sleep (``passive``), or first spin
  briefly (``commands``, which is what the commands set). The policies take turns.

Every number is the least and the median of its repeats, with the load of the machine before each repeat. On a quiet
machine the load is below 0.5.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

from dist_condense.system.waiting import POLICY

RUN = [sys.executable, "-m", "dist_condense.run"]
COMMANDS = ["--help", "list", "--version"]
COMMANDS += [f"{name} --help" for name in ("run", "prepare", "plan", "evaluate", "list", "replay")]
CIFAR10 = [f"dataset.root={os.environ.get('DATA_DIR', '.cache/data')}/cifar10"]
CONFIGS = {"digits": [], "cifar10_dc": [*CIFAR10, "compute.compile=false"]}
"""Shipped configs, each with the keys of its data first. Nothing is compiled, which takes half a minute once."""
BEGINS, LIMIT = "starts after matching step", 300.0
"""Message of a worker's log before its first step, and seconds to wait for it."""
STEPS = 20
"""Number of matching steps of a run of the section ``waiting``."""
POLICIES: dict[str, dict[str, str]] = {
    "active": {"OMP_WAIT_POLICY": "active"},
    "default": {"OMP_WAIT_POLICY": ""},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "commands": POLICY,
}
"""Environment of each policy; libgomp ignores an empty value."""


@dataclass
class Row:
    """A measured quantity: its name, and the seconds and the machine's load of each repeat."""

    name: str
    seconds: list[float] = field(default_factory=list)
    loads: list[float] = field(default_factory=list)

    def add(self, load: float, seconds: float) -> None:
        self.loads.append(round(load, 2))
        self.seconds.append(round(seconds, 3))

    def __str__(self) -> str:
        least, median = min(self.seconds), statistics.median(self.seconds)
        return f"{self.name:58} {least:7.2f} {median:7.2f} s   load {min(self.loads):.1f} to {max(self.loads):.1f}"


def load() -> float:
    """Return the number of runnable processes, averaged over the last minute."""
    return os.getloadavg()[0]


# --- commands -----------------------------------------------------------------------------------------------------


def commands(repeats: int) -> Iterator[Row]:
    """Time the commands that compute nothing."""
    for given in COMMANDS:
        row = Row(f"dist-condense {given}")
        for _ in range(repeats):
            before, start = load(), time.perf_counter()
            done = [sys.executable, "-m", "dist_condense", *given.split()]
            subprocess.run(done, check=True, stdout=subprocess.DEVNULL)
            row.add(before, time.perf_counter() - start)
        yield row


# --- first step ---------------------------------------------------------------------------------------------------


def first(repeats: int) -> Iterator[Row]:
    """Time the way from the command to the first step."""
    for name, keys in CONFIGS.items():
        if keys and not Path(keys[0].partition("=")[2]).is_dir():
            print(f"{name}: skipped, there is no data at {keys[0]}", flush=True)
            continue
        for workers in (0, 2):
            begun, made = (Row(f"{name}, {workers} workers: {what}") for what in ("step 1 begins", "step 1 is made"))
            for _ in range(repeats):
                before = load()
                begin, end = _first_step([f"configs/{name}.yaml", *keys, f"cluster.workers={workers}"])
                begun.add(before, begin)
                made.add(before, end)
            yield from (begun, made)


def _first_step(given: list[str]) -> tuple[float, float]:
    """Start a run; return the seconds until its first step begins, and until it is in metrics.jsonl."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "run")
        start = time.time()
        with Path(folder, "out").open("w") as out:
            keys = [f"output={output}", "tracking.log_every=1", "evaluation.epochs=0"]
            process = subprocess.Popen([*RUN, *given, *keys], stdout=out, stderr=subprocess.STDOUT)
            try:
                metrics = output / "metrics.jsonl"
                while process.poll() is None and time.time() - start < LIMIT and not _size(metrics):
                    time.sleep(0.01)
                if not _size(metrics):
                    raise RuntimeError(f"{' '.join(given)} made no step:\n{Path(folder, 'out').read_text()}")
            finally:
                process.terminate()
                process.wait()
        made = json.loads(metrics.read_text().splitlines()[0])["time"]
        return max(_begun(output)) - start, made - start


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _begun(output: Path) -> list[float]:
    """Return the time at which each worker begins its first step, from the logs of a run."""
    lines = [json.loads(line) for file in (output / "logs").iterdir() for line in file.read_text().splitlines()]
    return [datetime.fromisoformat(line["time"]).timestamp() for line in lines if line["message"].startswith(BEGINS)]


# --- waiting threads ----------------------------------------------------------------------------------------------


def waiting(repeats: int) -> Iterator[Row]:
    """Time steps on two threads, alone and beside another run, with each policy in turn."""
    rows = {
        (beside, name): Row(f"two threads, {beside}, {name}") for beside in ("alone", "two runs") for name in POLICIES
    }
    for _ in range(repeats):
        for (beside, name), row in rows.items():
            before = load()
            row.add(before, _step(POLICIES[name], runs=1 if beside == "alone" else 2))
    yield from rows.values()


def _step(policy: Mapping[str, str], runs: int) -> float:
    """Return the mean seconds per step of equal runs at the same time, without their start."""
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder, str(number)) for number in range(runs)]
        keys = ["configs/digits.yaml", "cluster.workers=0", "compute.threads=2", "evaluation.epochs=0"]
        keys += [f"trajectory.networks={STEPS}", "tracking.log_every=1", "tracking.uri=http://127.0.0.1:9"]
        started = [
            subprocess.Popen(
                [*RUN, *keys, f"output={output}"],
                env={**os.environ, "OMP_NUM_THREADS": "2", **policy},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for output in outputs
        ]
        if any(process.wait() for process in started):
            raise RuntimeError("a run of the digits failed")
        return statistics.mean(map(_seconds, outputs))


def _seconds(output: Path) -> float:
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return float(lines[-1]["time"] - lines[0]["time"]) / (len(lines) - 1)


SECTIONS: dict[str, Callable[[int], Iterator[Row]]] = {"commands": commands, "first": first, "waiting": waiting}


def main() -> None:
    """Measure and print section by section, and write the rows as JSON if requested."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--sections", nargs="*", choices=SECTIONS, default=list(SECTIONS))
    command.add_argument("--repeats", type=int, default=3)
    command.add_argument("--json", type=Path)
    given = command.parse_args()
    rows = []
    for section in given.sections:
        for row in SECTIONS[section](given.repeats):
            print(row, flush=True)
            rows.append(asdict(row))
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
