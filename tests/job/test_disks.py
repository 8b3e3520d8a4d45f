"""A full or read-only disk: one clear line, and all earlier files stay intact.

Root may write regardless of modes, so the disks are real: a small tmpfs in a separate mount namespace, which ends
with the process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dist_condense.commands import cli
from tests.engine import cases

ROOT = Path(__file__).parents[2]
UNSHARE = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]

BEFORE = """
import contextlib, errno, io, json, os, subprocess, sys
from pathlib import Path
import torch
from dist_condense import load_set, run
from dist_condense.job import checkpoint, exporting
from dist_condense.job.journal import Journal, RunFailed
from dist_condense.system.storage import Folder
from dist_condense.evaluation.rows import Row, append_csv, read_csv

DISK, OVERRIDES = Path(sys.argv[1]), sys.argv[2:]
OUT = DISK / "run"

def command(folder=OUT):
    with contextlib.redirect_stderr(io.StringIO()) as reported:
        code = run.main(["configs/digits.yaml", *OVERRIDES, f"output={folder}"])
    return code, reported.getvalue()

def failing(at):
    whole = Journal.after_step
    def after_step(self, done):
        whole(self, done)
        if done == at:
            raise RunFailed("made to fail")
    Journal.after_step = after_step
    found = command()
    Journal.after_step = whole
    return found

def listing():
    return sorted(str(path.relative_to(DISK)) for path in DISK.rglob("*") if "checkpoints" not in path.parts)

def the_set():
    return load_set(OUT).pixels()

FILLER = DISK / "filler"

def fill():
    with FILLER.open("ab", buffering=0) as stream, contextlib.suppress(OSError):
        while True:
            stream.write(b"x" * 4096)
"""


@pytest.fixture
def on_a_disk(tmp_path: Path):
    """Return a function that runs Python with a small disk at its first argument and parses its last line as JSON."""
    if subprocess.run([*UNSHARE, "mount", "-t", "tmpfs", "tmpfs", tmp_path], capture_output=True).returncode != 0:
        pytest.skip("mounting in a namespace of its own is not allowed here")
    own = {"cluster.workers": "0", "evaluation.epochs": "0", "tracking.uri": "http://127.0.0.1:9"}
    given = [*cases.TINY, *cases.CASES["dc"], "tracking.log_every=1", "tracking.checkpoint_steps=1"]
    overrides = {**dict(pair.split("=", 1) for pair in given), **own}

    def execute(script: str):
        mount = f'mount -t tmpfs -o size=2m tmpfs {tmp_path} && exec "$@"'
        command = [sys.executable, "-c", BEFORE + script, tmp_path, *(f"{k}={v}" for k, v in overrides.items())]
        environment = {**os.environ, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
        done = subprocess.run(
            [*UNSHARE, "sh", "-c", mount, "sh", *command], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return execute


def failures(reported: str) -> list[str]:
    return [line for line in reported.splitlines() if line.startswith("failed: ")]


FULL = """
answers = {"first": failing(2)}
held, write = the_set(), exporting.write_set

def write_when_full(*given):
    fill()
    return write(*given)

exporting.write_set = write_when_full
answers["full"] = command()
answers["kept"] = torch.equal(the_set(), held)
answers["steps"] = checkpoint.newest(Folder(OUT / "checkpoints")).steps
answers["listing"] = listing()
answers["still full"] = command()
exporting.write_set = write
FILLER.unlink()
answers["room"] = command()
answers["complete"] = load_set(OUT).card.complete

key = {"set": "condensed", "protocol": "dc", "architecture": "convnet3", "epochs": 3}
rows = [Row(**key, seed=i, top1_last=50.0, top1_best=50.0) for i in range(2000)]
append_csv(OUT / "evaluation.csv", rows[:1])
fill()
try:
    append_csv(OUT / "evaluation.csv", rows[1:])
except OSError as error:
    answers["rows"] = [error.errno == errno.ENOSPC, read_csv(OUT / "evaluation.csv") == rows[:1]]
report = (OUT / "report.html").read_bytes()
answers["no report"] = command()
answers["report"] = (OUT / "report.html").read_bytes() == report
print(json.dumps(answers))
"""


def test_a_full_disk(on_a_disk) -> None:
    found = on_a_disk(FULL)
    code, reported = found["first"]
    assert code == cli.FAILED and "made to fail" in reported and "the set of matching step 2 is kept" in reported
    code, reported = found["full"]
    (failed,) = failures(reported)
    assert code == cli.FAILED and "synthetic_set: the set is not written" in failed and "No space left" in failed
    assert found["kept"] and found["steps"] == 6
    assert not [name for name in found["listing"] if "writing" in name or name.endswith(".tmp")], found["listing"]
    code, reported = found["still full"]
    (refused,) = reported.splitlines()
    assert code == cli.REFUSED and "/run cannot be written (OSError: [Errno 28] No space left on device" in refused
    assert found["room"][0] == 0, found["room"][1]
    assert found["complete"]
    assert found["rows"] == [True, True]
    code, reported = found["no report"]
    assert code == cli.REFUSED and len(reported.splitlines()) == 1 and "No space left on device" in reported
    assert found["report"]


READ_ONLY = """
answers = {"first": failing(2)}
held, before = the_set(), listing()
subprocess.run(["mount", "-o", "remount,ro", str(DISK)], check=True)
answers["again"], answers["other"] = command(), command(DISK / "other")
answers["kept"] = torch.equal(the_set(), held) and listing() == before
subprocess.run(["mount", "-o", "remount,rw", str(DISK)], check=True)
answers["writable"] = command()
print(json.dumps(answers))
"""


def test_a_read_only_disk(on_a_disk) -> None:
    found = on_a_disk(READ_ONLY)
    assert found["first"][0] == cli.FAILED
    for name, folder in (("again", "run"), ("other", "other")):
        code, reported = found[name]
        assert code == cli.REFUSED
        (line,) = reported.splitlines()
        assert line.startswith("refused: output: ") and line.endswith(f"/{folder} cannot be written")
    assert found["kept"]
    assert found["writable"][0] == 0, found["writable"][1]


TURNED_READ_ONLY = """
whole = Journal.after_step
def after_step(self, done):
    if done == 3:
        # Not the mount itself: the log is open for writing in it, and mount(8) calls that busy. Files opened from now
        # on are in this second one.
        subprocess.run(["mount", "--bind", str(DISK), str(DISK)], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", str(DISK)], check=True)
    whole(self, done)
Journal.after_step = after_step
answers = {"turned": command()}
Journal.after_step = whole
subprocess.run(["umount", "--lazy", str(DISK)], check=True)
answers["after"] = command()
print(json.dumps(answers))
"""


def test_a_disk_that_turns_read_only(on_a_disk) -> None:
    found = on_a_disk(TURNED_READ_ONLY)
    code, reported = found["turned"]
    (failed,) = failures(reported)
    assert code == cli.FAILED and "Read-only file system" in failed
    assert "the same command continues after matching step 2" in reported
    code, reported = found["after"]
    assert code == 0 and "resuming after matching step 2 of 6" in reported
