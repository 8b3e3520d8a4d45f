"""The open choices of a config, settled once: where it computes, and in which units."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dist_condense import checks, parts
from dist_condense.config import ConfigError, RunConfig, differences, read
from dist_condense.networks import batch_norms


def resolved(config: RunConfig) -> RunConfig:
    """Absolute paths, and the open choices of the cluster settled: as the folder's first start did, else from here."""
    output = Path(config.output).expanduser().absolute()
    config = replace(absolute_root(config), output=str(output))
    device, threads = _place(config)
    choices: dict[str, Any] = {
        "slices": 1 if _couples(config) else max(1, config.cluster.workers),
        "threads": threads,
        "reproducible": device == "cpu",
    }
    existing = output / checks.CONFIG_FILE
    if existing.exists():
        choices = {key: getattr(read(existing).cluster, key) for key in choices}
    settled = {
        key: choices[key] if getattr(config.cluster, key) is None else getattr(config.cluster, key) for key in choices
    }
    config = replace(config, cluster=replace(config.cluster, device=device, **settled))
    if existing.exists() and (changed := differences(read(existing), config)):
        raise ConfigError([f"output: {output} holds another run; restore: {'; '.join(changed)}"])
    return config


def absolute_root(config: RunConfig) -> RunConfig:
    """``dataset.root`` from the driver's working directory, as a run's folder states it."""
    root = config.dataset.root and str(Path(config.dataset.root).expanduser().absolute())
    return replace(config, dataset=replace(config.dataset, root=root))


def _place(config: RunConfig) -> tuple[str, int]:
    """Device, and CPU threads per worker; refuses what the cluster does not have."""
    cluster = config.cluster
    if cluster.workers == 0:
        cuda = torch.cuda.is_available()
        if cluster.device == "cuda" and not cuda:
            raise ConfigError(["cluster.device: cuda, but torch sees no GPU here; set cluster.device=cpu"])
        device = cluster.device if cluster.device != "auto" else "cuda" if cuda else "cpu"
        return device, torch.get_num_threads()
    from dist_condense.engine.ray_group import connect, resources

    connect()
    cores, gpus = resources()
    device = cluster.device if cluster.device != "auto" else "cuda" if gpus >= cluster.workers else "cpu"
    threads = max(1, cores // cluster.workers)
    wanted = cluster.workers * (cluster.threads or 1)
    problems = []
    if wanted > cores:
        problems.append(
            f"cluster.workers: {cluster.workers} workers of {cluster.threads or 1} threads need {wanted} cores, the "
            f"cluster has {cores}; lower cluster.workers or cluster.threads"
        )
    if device == "cuda" and cluster.workers > gpus:
        problems.append(f"cluster.workers: {cluster.workers} workers, one GPU each, but the cluster has {gpus}")
    if problems:
        raise ConfigError(problems)
    return device, threads


def _couples(config: RunConfig) -> bool:
    return bool(batch_norms(parts.network_builder(config, parts.dataset_of(config))(0)))
