"""Software and hardware of the driver, for environment.json of a run and for the commit in a set's card."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from dist_condense.system import plugins

PACKAGES = (
    "dist-condense",
    "torch",
    "torchvision",
    "ray",
    "mlflow",
    "hydra-core",
    "numpy",
    "safetensors",
    "ffcv",
    "timm",
)
"""Packages whose versions are recorded."""


def environment() -> dict[str, Any]:
    """Return the content of environment.json: versions, plug-ins, machine and commit.

    Neither imports Ray nor initialises a device.
    """
    return {
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name)) is not None},
        "plugins": {plugin.module: plugin.version for plugin in plugins.loaded()},
        "os": platform.platform(),
        "cpu": _cpu_name(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "devices": _gpus(),
        "commit": code_commit(),
    }


def code_commit() -> str | None:
    """Return the git commit of this code, with ``-dirty`` if files differ from it; None if it is not in a checkout."""
    here = Path(__file__).parent

    def git(*command: str) -> str | None:
        try:
            done = subprocess.run(["git", *command], cwd=here, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", Path(__file__).name) is None:  # installed inside another project's checkout
        return None
    return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [x.partition(":")[2].strip() for x in lines if x.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _gpus() -> list[str]:
    """Return the name, memory and driver version of each GPU.

    They are read from nvidia-smi, because torch would initialise CUDA in this process.
    """
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    query = [command, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [x.strip() for x in done.stdout.splitlines() if x.strip()] if done.returncode == 0 else []
