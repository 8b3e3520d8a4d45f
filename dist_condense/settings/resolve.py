"""Replacement of a config's null and ``auto`` values, using the run's first start, the data set and the machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dist_condense import networks
from dist_condense.core.objective import REVERSE
from dist_condense.data import DataError, ImageSet
from dist_condense.data.catalogue import KNOWN, is_url
from dist_condense.data.constants import MEASURED, Constants, bounds_of, default, measured, of_name
from dist_condense.data.reading.read_ahead import HELD
from dist_condense.data.reading.tiers import AUTO, Choice, gib, select_tier, share
from dist_condense.engine.ahead import DEPTH as AHEAD
from dist_condense.engine.slices import usual_slices
from dist_condense.settings import assembly
from dist_condense.settings.config import ConfigError, RunConfig
from dist_condense.settings.identity import translated
from dist_condense.settings.numerics import contradictions, kernels
from dist_condense.settings.procedures import PROCEDURES
from dist_condense.settings.schema import ClusterConfig
from dist_condense.system import terminal
from dist_condense.system.memory import machine_memory, memory_and_swap


@dataclass(frozen=True)
class _Place:
    """The machines of a run."""

    cluster: ClusterConfig
    """Keys of the cluster, with ``auto`` replaced by a device."""
    cores: int
    """CPU cores per worker."""
    per_node: int
    """Number of workers on the fullest node."""
    memory: int
    """Memory in bytes of the smallest node that has room for a worker."""


def resolved(
    config: RunConfig, dataset: ImageSet, earlier: Mapping[str, Any], is_complete: bool = False
) -> tuple[RunConfig, Choice]:
    """Replace the null and ``auto`` values of device, numerics, channels, bounds, mean, std and tier.

    Paths become absolute.

    Values of the run's first start are kept; others follow from the data set and the machines. This starts Ray if there
    are workers, so :func:`dist_condense.job.preflight.check` must be called first.

    :param earlier: identity of the run's earlier start (``config.identity``); empty for the first start.
    :param is_complete: whether the last checkpoint exists already, so that no worker starts.
    :returns: the config, and the selected storage tier of real images, with the sizes that decided it.
    :raises ConfigError: the cluster lacks cores or GPUs; this machine lacks memory for the images of a run without
        workers; mean and std of the training images cannot be measured.
    """
    earlier = translated(earlier)
    config = with_channels(absolute_paths(config), earlier)
    if dataset.facts.own and config.dataset.channels is None:
        config = replace(config, dataset=replace(config.dataset, channels=dataset.channels))
    dataset = assembly.settled(config, dataset)
    config = _bounded(config, dataset, earlier)
    config = _normalised(config, dataset, earlier)
    place = _place(config)
    reproducible = earlier.get("compute.reproducible", not place.cluster.on_gpu)
    compute = config.compute
    if compute.reproducible is None:
        compute = replace(compute, reproducible=reproducible)
    if earlier and "compute.deterministic" not in earlier and compute.deterministic is None:
        compute = replace(compute, deterministic=False)  # a version without this key started the run
    choices: dict[str, Any] = {
        "slices": usual_slices(
            networks.sketch(assembly.network_text(config.network), **assembly.network_shape(dataset))
        ),
        "threads": 1,
        "reproducible": compute.reproducible,
        **kernels(compute, place.cluster.on_gpu),
        "second_derivative": REVERSE,
        "microbatch": None,  # the workers choose it, once they know their memory
    }
    choices |= {key: earlier[f"compute.{key}"] for key in choices if f"compute.{key}" in earlier}
    settled = {
        key: choices[key] if getattr(config.compute, key) is None else getattr(config.compute, key) for key in choices
    }
    if problems := list(contradictions(compute := replace(config.compute, **settled))):
        raise ConfigError(problems)
    config = replace(config, cluster=place.cluster, compute=compute)
    if config.data.tier == "gpu" and not place.cluster.on_gpu:
        raise ConfigError(["data.tier: gpu, but the run computes on CPUs; leave it to auto, or set ram"])
    choice = _tier(config, dataset, place)
    if config.cluster.workers == 0 and not is_complete:
        _check_memory(config, choice, dataset.train_split.files)
    threads = config.data.threads or place.cores
    return replace(config, data=replace(config.data, tier=choice.tier, threads=threads)), choice


def absolute_paths(config: RunConfig) -> RunConfig:
    """Make relative paths absolute, from the working directory of the driver; urls are unchanged."""
    root, checkpoints = config.dataset.root, config.tracking.checkpoints
    return replace(
        config,
        output=_absolute(config.output),
        dataset=replace(config.dataset, root=_absolute(root) if root else root),
        tracking=replace(config.tracking, checkpoints=_absolute(checkpoints) if checkpoints else checkpoints),
    )


def with_channels(config: RunConfig, earlier: Mapping[str, Any]) -> RunConfig:
    """Set ``dataset.channels``, if it is null, to the value of an earlier start.

    A version without this key used the number in the catalogue, 3 for image folders.
    """
    known = KNOWN.get(config.dataset.name)
    if not earlier or known is None or not known.facts.own or config.dataset.channels is not None:
        return config
    channels = earlier.get("dataset.channels", known.facts.channels)
    return replace(config, dataset=replace(config.dataset, channels=channels))


def _bounded(config: RunConfig, dataset: ImageSet, earlier: Mapping[str, Any]) -> RunConfig:
    """Set ``dataset.bounds``, if it is null, for the user's own float images; measuring reads every training image."""
    if config.dataset.bounds is not None or not dataset.facts.is_unbounded:
        return config
    bounds = earlier.get("dataset.bounds")
    if bounds is None:
        source = dataset.train_split.on_demand(assembly.reading_of(config))
        bounds = bounds_of(source, dataset.counts)
    return replace(config, dataset=replace(config.dataset, bounds=bounds))


def _normalised(config: RunConfig, dataset: ImageSet, earlier: Mapping[str, Any]) -> RunConfig:
    """Set mean and std: the values of the config, else those of an earlier start, else by ``dataset.constants``."""
    if config.dataset.mean is not None:
        return config
    if "dataset.mean" in earlier:
        mean, std = earlier["dataset.mean"], earlier["dataset.std"]
        if {len(mean), len(std)} != {dataset.channels}:
            found = f"{len(mean)} and {len(std)} values for images of {dataset.channels} channels"
            raise ConfigError([f"dataset.mean, dataset.std: {found} at the run's first start; give another output"])
    elif earlier:  # a version without these keys used the data set's own
        mean, std = dataset.mean, dataset.std
    else:
        mean, std = _constants(config, dataset)
    return replace(config, dataset=replace(config.dataset, mean=list(mean), std=list(std)))


def _constants(config: RunConfig, dataset: ImageSet) -> Constants:
    """Return the mean and std that ``dataset.constants`` selects; measuring them reads every training image."""
    name = config.dataset.constants or default(dataset, config.dataset.classes)
    try:
        if name != MEASURED:
            return of_name(name, dataset)
        images = f"{sum(dataset.counts)} training images"
        terminal.event(f"note: mean and std are measured once, on {images}; dataset.mean and dataset.std override them")
        source = dataset.train_split.on_demand(assembly.reading_of(config))
        mean, std = measured(source, dataset.counts, dataset.channels)
        terminal.event(f"note: mean {_shown(mean)}, std {_shown(std)}")
        return mean, std
    except DataError as error:
        raise ConfigError(error.problems) from error


def _shown(values: Sequence[float]) -> str:
    return " ".join(f"{value:.4f}" for value in values)


def _absolute(path: str) -> str:
    return path if is_url(path) else str(Path(path).expanduser().absolute())


def _tier(config: RunConfig, dataset: ImageSet, place: _Place) -> Choice:
    """Select the tier of real images by the size of the fullest node's images and the memory of the smallest node."""
    workers, per_node, split = config.cluster.workers, place.per_node, dataset.train_split

    def encoded() -> int:
        return share(split.encoded_bytes(), workers, per_node)

    decoded = share(dataset.decoded_bytes(dataset.counts), workers, per_node)
    gibibytes = config.data.memory_budget
    budget = int(gibibytes * 2**30) if gibibytes is not None else place.memory // 2
    # The driver of a cluster may have no GPU and must not use one, so with workers the tier gpu is by request only.
    is_here = config.cluster.on_gpu and workers == 0
    gpu = torch.cuda.get_device_properties(0).total_memory // 5 if is_here else 0
    [image] = dataset.decoded_bytes([1])
    of_class, of_all = PROCEDURES[config.method.procedure].batches(config)
    images = HELD * min(of_class, max(dataset.counts)) + AHEAD * min(of_all, sum(dataset.counts))
    return select_tier(
        tier=config.data.tier,
        decoded=decoded,
        encoded=encoded if split.files else None,
        budget=budget,
        gpu_budget=gpu,
        ahead=per_node * image * images,
    )


def _check_memory(config: RunConfig, choice: Choice, files: bool) -> None:
    """Raise ConfigError if the images that a run without workers keeps exceed the memory of this machine.

    Encoded images are counted only if their size selected the tier: to measure it reads the size of each file.

    :param files: whether the images are in files, rather than arrays, which are decoded in every tier.
    """
    kept = {"ram": choice.decoded, "encoded": choice.encoded or 0}.get(choice.tier, 0)
    if kept > (room := memory_and_swap()):
        key = "data.memory_budget" if config.data.tier == AUTO else "data.tier"
        key, change = (key, "set data.tier=disk") if files else ("dataset.size", "lower it, or take fewer classes")
        problem = f"{choice.tier} keeps {gib(kept)} of images in memory, but this machine has {gib(room)}; {change}"
        raise ConfigError([f"{key}: {problem}"])


def machines() -> list[tuple[int, int, int]]:
    """Connect to Ray or start it, and return (CPU cores, GPUs, memory in bytes) of each node.

    The memory is what workers may use, 0 if a node does not report it.
    """
    from dist_condense.engine.ray.group import connect, nodes

    connect()
    return nodes()


def _place(config: RunConfig) -> _Place:
    """Return the machines of a run, from Ray if there are workers. Raises ConfigError if cores or GPUs are lacking."""
    cluster, threads = config.cluster, config.compute.threads or 1
    if cluster.workers == 0:
        return _Place(cluster.settled(torch.cuda.is_available), torch.get_num_threads(), 1, machine_memory())
    nodes = machines()
    cores, gpus, _ = (sum(column) for column in zip(*nodes, strict=True))
    key = "cluster.workers" if cluster.min_workers is None else "cluster.min_workers"
    least = cluster.min_workers or cluster.workers
    cluster = cluster.settled(lambda: gpus >= least)
    needed = least * threads
    problems = []
    if needed > cores:
        problems.append(
            f"{key}: {least} workers of {threads} threads need {needed} cores, the cluster has {cores}; "
            f"lower {key} or compute.threads"
        )
    if cluster.on_gpu and least > gpus:
        problems.append(f"{key}: {least} workers, one GPU each, but the cluster has {gpus}")
    if problems:
        raise ConfigError(problems)
    fit = [gpu if cluster.on_gpu else core // threads for core, gpu, _ in nodes]
    memory = [size for (_, _, size), workers in zip(nodes, fit, strict=True) if workers and size]
    cores = max(1, cores // cluster.workers)
    return _Place(cluster, cores, min(cluster.workers, max(fit)), min(memory, default=machine_memory()))
