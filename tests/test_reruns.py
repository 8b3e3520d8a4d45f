"""Tests that may run again: those with the marker ``daemon``, each listed in docs/testing.md with its reason."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import RERUNS, ROOT

MARKER = re.compile(r"mark\.daemon\(\"([^\"]*)\"\)")
ROW = re.compile(r"(?m)^\| `(tests/\S+\.py)` \| (.+) \|$")


def marked() -> Iterator[tuple[str, str]]:
    """(file, reason) of every marker."""
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        if file.name != "test_reruns.py":
            yield from ((str(file.relative_to(ROOT)), reason) for reason in MARKER.findall(file.read_text()))


def test_the_list_is_that_of_the_markers() -> None:
    listed = ROW.findall((ROOT / "docs" / "testing.md").read_text())
    assert sorted(marked()) == sorted(listed)


def test_nothing_else_is_run_again() -> None:
    settings = "".join((ROOT / name).read_text() for name in ("pyproject.toml", "Makefile", ".ci/run"))
    assert not re.search(r"--(reruns|force-flaky)|^reruns", settings, re.M)
    by_hand = [file for file in (ROOT / "tests").rglob("*.py") if "mark.flaky" in file.read_text()]
    assert [file.name for file in by_hand if file.name != "test_reruns.py"] == ["conftest.py"]


INNER = """
import pytest
seen = []

@pytest.mark.daemon("a daemon that answers the third time")
def test_late():
    seen.append("asked")
    assert len(seen) == 3

@pytest.mark.daemon("a daemon that never answers")
def test_gone():
    assert False

def test_wrong():
    assert False
"""


def test_runs_again_are_reported(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\nmarkers = ['daemon(reason): as ours']\n")
    (tmp_path / "conftest.py").write_text("from tests.conftest import pytest_collection_modifyitems\n")
    (tmp_path / "test_inner.py").write_text(INNER)
    addopts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["addopts"]
    command = [sys.executable, "-m", "pytest", *addopts.split(), "-p", "no:cacheprovider", "-p", "no:xdist"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    paths = os.pathsep.join([str(ROOT), env.get("PYTHONPATH", "")])
    done = subprocess.run(command, cwd=tmp_path, env=env | {"PYTHONPATH": paths}, capture_output=True, text=True)
    assert f"2 failed, 1 passed, {2 * RERUNS} rerun" in done.stdout, done.stdout + done.stderr
    again = done.stdout.partition("rerun test summary info")[2]
    assert set(re.findall(r"RERUN test_inner.py::(\w+)", again)) == {"test_late", "test_gone"}
