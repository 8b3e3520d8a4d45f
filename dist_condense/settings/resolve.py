"""The open choices of a config, settled once: where it computes, and in which units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dist_condense.data import DataError, ImageSet
from dist_condense.data.catalogue import KNOWN, is_url
from dist_condense.data.constants import MEASURED, Constants, default, measured, of_name
from dist_condense.data.reading.read_ahead import HELD
from dist_condense.data.reading.tiers import Choice, select_tier, share
from dist_condense.engine.ahead import DEPTH as AHEAD
from dist_condense.engine.slices import usual_slices
from dist_condense.settings import assembly
from dist_condense.settings.config import ConfigError, RunConfig
from dist_condense.settings.identity import translated
from dist_condense.system import terminal
from dist_condense.system.memory import machine_memory


@dataclass(frozen=True)
class _Place:
    """Where a run computes."""

    device: str
    cores: int
    """CPU cores per worker."""
    per_node: int
    """Workers on the fullest node."""
    memory: int
    """Bytes of the smallest node that can hold a worker."""


def resolved(config: RunConfig, dataset: ImageSet, earlier: Mapping[str, Any]) -> tuple[RunConfig, Choice]:
    """Absolute paths, and the open choices settled, of the cluster, of channels, mean and std: as the run's first start
    did, else from here.

    Also where images are kept, and the bytes that this was chosen by. Starts Ray where there are workers, so
    :func:`dist_condense.job.preflight.check` comes first.

    :param earlier: what the run is known by from an earlier start (``config.identity``); empty for the first.
    :raises ConfigError: what the cluster does not have; training images whose mean and std cannot be measured.
    """
    earlier = translated(earlier)
    config = with_channels(absolute_paths(config), earlier)
    if dataset.facts.own and config.dataset.channels is None:
        config = replace(config, dataset=replace(config.dataset, channels=dataset.channels))
    dataset = assembly.settled(config, dataset)
    config = _normalised(config, dataset, earlier)
    place = _place(config)
    choices: dict[str, Any] = {
        "slices": usual_slices(assembly.network_builder(config, dataset)(0)),
        "threads": 1,
        "reproducible": place.device == "cpu",
    }
    choices |= {key: earlier[f"compute.{key}"] for key in choices if f"compute.{key}" in earlier}
    settled = {
        key: choices[key] if getattr(config.compute, key) is None else getattr(config.compute, key) for key in choices
    }
    cluster, compute = replace(config.cluster, device=place.device), replace(config.compute, **settled)
    config = replace(config, cluster=cluster, compute=compute)
    if config.data.tier == "gpu" and place.device != "cuda":
        raise ConfigError([f"data.tier: gpu, but the run computes on {place.device}; leave it to auto, or set ram"])
    choice = _keeping(config, dataset, place)
    threads = config.data.threads or place.cores
    return replace(config, data=replace(config.data, tier=choice.tier, threads=threads)), choice


def absolute_paths(config: RunConfig) -> RunConfig:
    """Paths from the driver's working directory, as a run's folder states them; urls stay."""
    root, kept = config.dataset.root, config.tracking.checkpoints
    return replace(
        config,
        output=_absolute(config.output),
        dataset=replace(config.dataset, root=_absolute(root) if root else root),
        tracking=replace(config.tracking, checkpoints=_absolute(kept) if kept else kept),
    )


def with_channels(config: RunConfig, earlier: Mapping[str, Any]) -> RunConfig:
    """Channels as an earlier start settled them; of a version that did not, those of the catalogue (3 for folders)."""
    known = KNOWN.get(config.dataset.name)
    if not earlier or known is None or not known.facts.own or config.dataset.channels is not None:
        return config
    channels = earlier.get("dataset.channels", known.facts.channels)
    return replace(config, dataset=replace(config.dataset, channels=channels))


def _normalised(config: RunConfig, dataset: ImageSet, earlier: Mapping[str, Any]) -> RunConfig:
    """Mean and std settled: as given, as the first start did, else by `dataset.constants`."""
    if config.dataset.mean is not None:
        return config
    if "dataset.mean" in earlier:
        mean, std = earlier["dataset.mean"], earlier["dataset.std"]
    elif earlier:  # of a version that did not state them: they were the data set's own
        mean, std = dataset.mean, dataset.std
    else:
        mean, std = _constants(config, dataset)
    return replace(config, dataset=replace(config.dataset, mean=list(mean), std=list(std)))


def _constants(config: RunConfig, dataset: ImageSet) -> Constants:
    """What `dataset.constants` asks for; measuring reads every training image."""
    name = config.dataset.constants or default(dataset, config.dataset.classes)
    try:
        if name != MEASURED:
            return of_name(name, dataset)
        images = f"{sum(dataset.counts)} training images"
        terminal.say(f"note: mean and std are measured on {images}, once; dataset.mean and dataset.std set others")
        source = dataset.train_split.on_demand(assembly.reading_of(config))
        mean, std = measured(source, dataset.counts, dataset.channels)
        terminal.say(f"note: mean {_shown(mean)}, std {_shown(std)}")
        return mean, std
    except DataError as error:
        raise ConfigError(error.problems) from error


def _shown(values: Sequence[float]) -> str:
    return " ".join(f"{value:.4f}" for value in values)


def _absolute(path: str) -> str:
    return path if is_url(path) else str(Path(path).expanduser().absolute())


def _keeping(config: RunConfig, dataset: ImageSet, place: _Place) -> Choice:
    """The tier, by what the fullest node would hold, against what the smallest one has."""
    workers, per_node, split = config.cluster.workers, place.per_node, dataset.train_split

    def encoded() -> int:
        return share(split.encoded_bytes(), workers, per_node)

    decoded = share(dataset.decoded_bytes(dataset.counts), workers, per_node)
    given = config.data.memory_budget
    budget = int(given * 2**30) if given is not None else place.memory // 2
    # The driver of a cluster may have no GPU and must not touch one, so there the tier gpu is by request only.
    here = config.cluster.device == "cuda" and workers == 0
    gpu = torch.cuda.get_device_properties(0).total_memory // 5 if here else 0
    [image] = dataset.decoded_bytes([1])
    matched = min(config.method.real_batch, max(dataset.counts))
    ahead = per_node * image * (HELD * matched + AHEAD * min(config.training.batch, sum(dataset.counts)))
    return select_tier(
        tier=config.data.tier,
        decoded=decoded,
        encoded=encoded if split.files else None,
        budget=budget,
        gpu_budget=gpu,
        ahead=ahead,
    )


def machines() -> list[tuple[int, int, int]]:
    """(CPU cores, GPUs, bytes of memory for workers; 0: not reported) of each node of the Ray cluster, which is joined
    or started.
    """
    from dist_condense.engine.ray.group import connect, nodes

    connect()
    return nodes()


def _place(config: RunConfig) -> _Place:
    """By asking Ray where there are workers; refuses what the cluster does not have."""
    cluster, given = config.cluster, config.compute.threads
    if cluster.workers == 0:
        device = cluster.device if cluster.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        return _Place(device, torch.get_num_threads(), 1, machine_memory())
    there = machines()
    cores, gpus, _ = (sum(column) for column in zip(*there, strict=True))
    key = "cluster.workers" if cluster.min_workers is None else "cluster.min_workers"
    least = cluster.min_workers or cluster.workers
    device = cluster.device if cluster.device != "auto" else "cuda" if gpus >= least else "cpu"
    needed = least * (given or 1)
    problems = []
    if needed > cores:
        problems.append(
            f"{key}: {least} workers of {given or 1} threads need {needed} cores, the cluster has {cores}; "
            f"lower {key} or compute.threads"
        )
    if device == "cuda" and least > gpus:
        problems.append(f"{key}: {least} workers, one GPU each, but the cluster has {gpus}")
    if problems:
        raise ConfigError(problems)
    fit = [gpu if device == "cuda" else core // (given or 1) for core, gpu, _ in there]
    memory = [told for (_, _, told), workers in zip(there, fit, strict=True) if workers and told]
    cores = max(1, cores // cluster.workers)
    return _Place(device, cores, min(cluster.workers, max(fit)), min(memory, default=machine_memory()))
