"""What a run is found by on a server that a team shares: its tags, from what lies in the run's folder."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dist_condense.settings.run_folder import RunFolder
from dist_condense.system import records


def tags_of(folder: Path) -> dict[str, str]:
    """Method, data, ipc, workers and device by config.yaml, host and commit by environment.json; USER sent it.

    Only a condensation has them, not the evaluations below it, so that a search by them finds whole runs. MLflow shows
    ``mlflow.*`` in columns of its own and leaves them out of comparisons.
    """
    config = stored_config(folder)
    file = RunFolder(folder).environment
    environment = records.read(dict[str, Any], file) if file.exists() else {}
    method, dataset, cluster = (config.get(group) or {} for group in ("method", "dataset", "cluster"))
    commit = environment.get("commit")
    found = {
        "method": method.get("name"),
        "dataset": dataset.get("name"),
        "ipc": config.get("ipc"),
        "workers": cluster.get("workers"),
        "device": cluster.get("device"),
        "host": _host(environment),
        "commit": commit and commit[:12],
        "mlflow.source.name": "dist-condense",
        "mlflow.source.git.commit": commit,
        "mlflow.user": os.environ.get("USER"),
    }
    return {key: str(value) for key, value in found.items() if value is not None}


def stored_config(folder: Path) -> dict[str, Any]:
    """A run's config.yaml as plain values, also of another version. Raises ValueError, in one line, for no config and
    for one that is not resolved."""
    from dist_condense.settings import yaml_files  # which imports Hydra

    file = RunFolder(folder).config
    found = yaml_files.stored_values(file)
    if not found:
        raise ValueError(f"{file} holds no config")
    return found


def _host(environment: Mapping[str, Any]) -> str | None:
    """``8 x NVIDIA H100 80GB HBM3``, else ``2 x AMD EPYC``, of the driver's machine."""
    gpus = Counter(device.split(",")[0] for device in environment.get("devices", ()))
    if gpus:
        return ", ".join(f"{number} x {name}" for name, number in gpus.items())
    return f"{environment['cpus']} x {environment['cpu']}" if environment.get("cpu") else None
