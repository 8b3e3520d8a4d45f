"""Tags, description and data of a run on an MLflow server, derived from the files in the run's folder."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dist_condense.result.markdown import plain
from dist_condense.settings import yaml_files
from dist_condense.settings.run_folder import RunFolder
from dist_condense.settings.values import Unusable
from dist_condense.system import records
from dist_condense.system.credentials import masked

LONGEST = 500
"""Largest number of characters of a value in a description."""


@dataclass(frozen=True)
class _Environment:
    """Content of environment.json that is in tags."""

    commit: str | None = None
    devices: Sequence[str] = ()
    cpus: int | None = None
    cpu: str | None = None
    data: str | None = None


@dataclass(frozen=True)
class Data:
    """The data set of a run."""

    name: str
    digest: str
    """Hash of the training images."""
    source: str
    """Path or address, without a password; the name for a data set that has none."""


def tags_of(folder: Path) -> dict[str, str]:
    """Return the tags for finding a run, as method, data, ipc, seed, host and commit, and a description of the run.

    The tags are read from config.yaml and environment.json, except the user, which is the environment variable USER.
    Child runs of evaluations lack the tags, so that a search returns whole runs. MLflow shows tags named ``mlflow.*``
    in separate columns and omits them from comparisons. Raises ValueError if one of the files is unreadable.
    """
    config = stored_config(folder)
    environment = _environment(folder)
    method, dataset, cluster = (_section(config, name) for name in ("method", "dataset", "cluster"))
    commit = environment.commit
    tags = {
        "method": method.get("name"),
        "dataset": dataset.get("name"),
        "ipc": config.get("ipc"),
        "seed": config.get("seed"),
        "workers": cluster.get("workers"),
        "device": cluster.get("device"),
        "host": _host(environment),
        "commit": commit and commit[:12],
        "mlflow.source.name": "dist-condense",
        "mlflow.source.git.commit": commit,
        "mlflow.user": os.environ.get("USER"),
        "mlflow.note.content": _description(config),
    }
    return {key: joined(value) for key, value in tags.items() if value is not None}


def data_of(folder: Path) -> Data | None:
    """Return the data set of a run, as config.yaml and environment.json state it; None if its hash is not recorded.

    Raises ValueError if one of the files is unreadable.
    """
    if not RunFolder(folder).config.exists() or (digest := _environment(folder).data) is None:
        return None
    dataset = _section(stored_config(folder), "dataset")
    name = str(dataset.get("name"))
    return Data(name, digest, masked(str(dataset.get("root") or name)))


def joined(value: Any) -> str:
    """Return a value of a config as a text, the items of a list or dict in one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {item}" for name, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _environment(folder: Path) -> _Environment:
    file = RunFolder(folder).environment
    return records.read(_Environment, file, ignore_unknown=True) if file.exists() else _Environment()


def _description(config: dict[str, Any]) -> str | None:
    """Return what a run computes, in Markdown; None if its config does not name a method and a data set."""
    method, dataset, network, protocol = (
        _section(config, name) for name in ("method", "dataset", "network", "evaluation")
    )
    if not (method.get("name") and dataset.get("name")):
        return None
    facts = {
        "method": method.get("name"),
        "data set": dataset.get("name"),
        "images per class": config.get("ipc"),
        "seed": config.get("seed"),
        "network": network.get("name"),
        "evaluation protocol": protocol.get("protocol"),
    }
    lines = (f"- {name}: {plain(joined(value))[:LONGEST]}" for name, value in facts.items() if value is not None)
    return "\n".join(["A run of dataset condensation, which learns or selects a small training set.", "", *lines])


def stored_config(folder: Path) -> dict[str, Any]:
    """Read a run's config.yaml as plain values, even if another version wrote it.

    Raises Unusable if the file is empty or its config is not resolved.
    """
    file = RunFolder(folder).config
    values = yaml_files.stored_values(file)
    if not values:
        raise Unusable(f"{file} contains no config")
    return values


def _section(config: dict[str, Any], name: str) -> dict[str, Any]:
    section = config.get(name)
    return section if isinstance(section, dict) else {}


def _host(environment: _Environment) -> str | None:
    """Return the driver's GPUs, such as ``8 x NVIDIA H100 80GB HBM3``, or else its CPUs, such as ``2 x AMD EPYC``."""
    gpus = Counter(device.split(",")[0] for device in environment.devices)
    if gpus:
        return ", ".join(f"{number} x {name}" for name, number in gpus.items())
    return f"{environment.cpus} x {environment.cpu}" if environment.cpu else None
