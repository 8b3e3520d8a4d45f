"""Commands that compute nothing import nothing slow."""

import subprocess
import sys
from pathlib import Path

import pytest

from dist_condense import __version__
from dist_condense.commands import cli

ROOT = Path(__file__).parents[2]
SLOW = {"torch._C", "numpy", "torchvision", "sklearn", "scipy", "ray", "mlflow", "hydra", "matplotlib"}
"""Modules that take time; torch._C is in torch itself, not in its stand-in."""
COMMANDS = ["run", "check", "prepare", "plan", "evaluate", "export", "compare", "list", "replay"]


def started(*given: str) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """Run a command in a new process, and return it with the names of the modules that it imported."""
    command = [sys.executable, "-X", "importtime", *given]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    return done, {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}


@pytest.mark.parametrize("given", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)], ids=" ".join)
def test_help_and_version_import_nothing_slow(given):
    done, imported = started("-m", "dist_condense", *given)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"dist-condense {__version__}\n" if given == ["--version"] else "usage: " in done.stdout
    assert imported & SLOW == set()


def test_the_help_of_the_main_command_imports_nothing_slow():
    done, imported = started("-m", "dist_condense.run", "--help")
    assert "usage: dist-condense run" in done.stdout
    assert imported & SLOW == set()


def test_list_prints_the_names_of_the_tables_without_torch(capsys):
    done, imported = started("-m", "dist_condense", "list")
    assert imported & SLOW <= {"numpy", "hydra"}  # numpy's stand-in
    assert cli.main(["list"]) == 0  # here, where torch is imported, from the tables themselves
    assert done.stdout == capsys.readouterr().out


def test_stand_ins_are_forgotten():
    code = """
from dist_condense import settings
from dist_condense.commands import cli
assert cli.main(["list", "distances"]) == 0
assert not hasattr(settings, "names")
import torch
from dist_condense.core.distance import DISTANCES
assert DISTANCES["sum_squared"]([torch.ones(3)], [torch.zeros(3)]).item() == 3
"""
    done, _ = started("-c", code)
    assert done.returncode == 0, done.stderr.splitlines()[-1]


def test_a_run_that_compiles_nothing_does_not_import_the_compiler_before_its_first_step(tmp_path):
    """The meta device and optimisers of torch import it, for over a second."""
    code = f"""
import sys
from dist_condense.commands import cli
from dist_condense.job.journal import Journal
whole = Journal.resume
def resume(self):
    assert "torch._dynamo" not in sys.modules
    return whole(self)
Journal.resume = resume
keys = ["trajectory.networks=1", "evaluation.epochs=0", "tracking.uri=http://127.0.0.1:9", "output={tmp_path}"]
assert cli.main(["run", "configs/digits.yaml", "cluster.workers=0", *keys]) == 0
"""
    done, imported = started("-c", code)
    assert done.returncode == 0, done.stderr.splitlines()[-1]
    assert "torch" in imported


@pytest.mark.parametrize(("given", "expected"), [(None, "passive 1000 False"), ("active", "active None False")])
def test_threads_of_a_command_sleep_while_they_wait_unless_the_user_decides(monkeypatch, given, expected):
    """The policy is set before torch is imported, which reads it."""
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    code = """
import os, sys
from dist_condense import __main__, run
from dist_condense.commands import cli
before = os.environ.get("OMP_WAIT_POLICY")
cli.main = lambda: print(os.environ["OMP_WAIT_POLICY"], os.environ.get("GOMP_SPINCOUNT"), "torch" in sys.modules) or 0
assert __main__.main() == 0
from dist_condense.engine.ray import group
for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
    assert group.PROCESS["env_vars"].get(name) == os.environ.get(name)
assert before in (None, "active"), "an import has set it"
"""
    done, _ = started("-c", code)
    assert done.returncode == 0, done.stderr.splitlines()[-1]
    assert done.stdout == f"{expected}\n"
