"""Fixtures for data that is not part of the repository: real images, and reference numbers."""

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
    """Restore the answer to Ctrl-C, which a shell that starts the tests in the background disables."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


RERUNS = 2
"""Number of times that a test that waits for a daemon may be rerun."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Rerun only tests with the marker ``daemon(reason)``; all others fail at their first failure."""
    for item in items:
        if item.get_closest_marker("daemon"):
            item.add_marker(pytest.mark.flaky(reruns=RERUNS))


def absent(what: str) -> NoReturn:
    """Skip on a developer's machine; fail in CI, where a silent skip would hide that nothing was tested."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Compute with one thread, so that no number depends on the cores of the machine."""
    yield
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Stop the run and the Ray that a failed test leaves, before the next test."""
    yield
    while started:
        with started.pop() as process:
            process.kill()


@pytest.fixture(autouse=True)
def nothing_is_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the passwords of the previous test, which may be words in another."""
    monkeypatch.setattr(credentials, "_known", {})
    monkeypatch.setattr(credentials, "_forms", ())


@pytest.fixture
def unlimited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Permit learning rates out of their range, the surest way to numbers that are not finite."""
    monkeypatch.setattr(checks, "refused", lambda config: {})


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of unpacked real data: DATA_DIR, else ../shared/data unpacked once into .cache/data."""
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
    """Return the folder of reference numbers: REFERENCE_DIR, else ../shared/reference."""
    folder = Path(os.environ.get("REFERENCE_DIR") or SHARED / "reference")
    return folder if folder.is_dir() else absent(f"no reference numbers: {folder}; set REFERENCE_DIR")


@pytest.fixture(scope="session")
def crds_dir() -> Path:
    """Return the folder of KubeRay's CRDs: CRDS_DIR, else ../shared/crds."""
    folder = Path(os.environ.get("CRDS_DIR") or SHARED / "crds")
    return folder if folder.is_dir() else absent(f"no CRDs of KubeRay: {folder}; set CRDS_DIR")
