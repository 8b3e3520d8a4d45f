"""Fixtures of all tests: data outside the repository, a clean state after each test, reruns of tests with daemons."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
import torch

from dist_condense.settings import checks
from dist_condense.system import credentials
from tests.cluster.ray_head import started

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"


def pytest_configure() -> None:
    """Enable Ctrl-C where a shell started the tests in the background with SIGINT ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


RERUNS = 2
"""Number of times that a test which waits for a daemon may run again."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let only tests with the marker ``daemon(reason)`` run again after a failure."""
    for item in items:
        if item.get_closest_marker("daemon"):
            item.add_marker(pytest.mark.flaky(reruns=RERUNS))


def absent(what: str) -> NoReturn:
    """Skip on a developer's machine; fail in CI, where a skip would hide an untested part."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Restore one thread after each test, so that no number depends on the cores of the machine."""
    yield
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Kill the commands that a failed test left running, and with them their Ray."""
    yield
    while started:
        with started.pop() as process:
            process.kill()


@pytest.fixture(autouse=True)
def nothing_is_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the passwords of other tests, which may be ordinary words in this one."""
    monkeypatch.setattr(credentials, "_known", {})
    monkeypatch.setattr(credentials, "_forms", ())


@pytest.fixture
def unlimited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accept learning rates out of their range, the surest way to numbers that are not finite."""
    monkeypatch.setattr(checks, "refused", lambda config: iter(()))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of unpacked real data: DATA_DIR, else ../shared/data unpacked once into .cache/data."""
    given = os.environ.get("DATA_DIR")
    if given:
        return Path(given) if Path(given).is_dir() else absent(f"DATA_DIR={given} is not a folder")
    unpack = SHARED / "data" / "unpack.py"
    if not unpack.is_file():
        absent(f"no real data: set DATA_DIR to its unpacked folder, or have {unpack}")
    folder = ROOT / ".cache" / "data"
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, str(unpack), str(folder)], check=True)
    return folder


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    """The folder of reference numbers: REFERENCE_DIR, else ../shared/reference."""
    folder = Path(os.environ.get("REFERENCE_DIR") or SHARED / "reference")
    return folder if folder.is_dir() else absent(f"no reference numbers: {folder}; set REFERENCE_DIR")


@pytest.fixture(scope="session")
def crds_dir() -> Path:
    """The folder of KubeRay's CRDs: CRDS_DIR, else ../shared/crds."""
    folder = Path(os.environ.get("CRDS_DIR") or SHARED / "crds")
    return folder if folder.is_dir() else absent(f"no CRDs of KubeRay: {folder}; set CRDS_DIR")
