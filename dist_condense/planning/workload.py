"""The work of a config, in numbers that know neither device nor workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch

from dist_condense.engine.slices import usual_slices
from dist_condense.networks import batch_norms
from dist_condense.settings import assembly
from dist_condense.settings.config import ConfigError, RunConfig


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The work of a whole run. A matching step matches every class once; an update is one SGD step of theta."""

    classes: int
    networks: int
    """K"""
    steps: int
    """K T"""
    shared_steps: int
    """Those of them in which classes are averaged before the distance."""
    groups: int
    """Groups of several classes in a shared step."""
    real: int
    """Real images per class and step, of the largest class."""
    synthetic: int
    """Decoded synthetic images per class and step."""
    updates: dict[int, int]
    """Images of a batch to the number of such updates in the run."""
    stretches: int
    """Times that theta is trained or pre-trained."""
    real_updates: bool
    """Whether these are of real images."""
    image: int
    """Values of one image."""
    pixels: int
    """Learnt values per class."""
    decoded: int
    """Values per class of the images that theta is trained on; 0: of real ones."""
    parameters: int
    statistic: int
    """Values of phi."""
    counts: tuple[int, ...]
    """Real images of each class."""
    microbatch: int
    slices: int
    """Units that a training batch is cut into."""
    coupled: bool
    """By BatchNorm, so that a training batch cannot be cut."""


def workload_of(config: RunConfig, dataset: Any) -> Workload:
    """Count it by the config's procedure. Raises ConfigError for one without a forecast, or a network that cannot be
    built.
    """
    name = config.method.procedure
    if name not in WORKLOADS:
        raise ConfigError([f"method.procedure: {name} has no forecast; plan knows {', '.join(WORKLOADS)}"])
    return WORKLOADS[name](config, dataset)


def matching(config: RunConfig, dataset: Any) -> Workload:
    """The work of Algorithm 1."""
    try:
        network = assembly.network_builder(config, dataset)(0).eval()
    except (ValueError, ImportError) as error:
        raise ConfigError([f"network: {error}"]) from error
    image, tiles = prod(dataset.shape), prod(assembly.grid(config))
    schedule, method = config.trajectory, config.method
    groups = _groups(config, len(dataset.classes))
    alone = min(schedule.networks, method.grouping.warmup_networks) * min(
        schedule.matching_steps, method.grouping.warmup_steps
    )
    steps = schedule.networks * schedule.matching_steps
    blank = torch.zeros(1, *dataset.shape)
    phi = assembly.objective_of(config).phi.value(network, blank, torch.zeros(1, dtype=torch.int64))
    on_set = config.training.source == "synthetic" and schedule.matching_steps > 1
    return Workload(
        classes=len(dataset.classes),
        networks=schedule.networks,
        steps=steps,
        shared_steps=steps - alone if groups else 0,
        groups=groups,
        real=min(method.real_batch, max(dataset.counts)),
        synthetic=min(decoded(config, config.ipc), method.synthetic_limit),
        updates=dict(_updates(config, dataset)),
        stretches=_trained(config) + _pretrained(config),
        real_updates=not on_set,
        image=image,
        pixels=config.ipc * image,
        decoded=config.ipc * tiles * image if on_set else 0,
        parameters=sum(p.numel() for p in network.parameters()),
        statistic=sum(x.numel() for x in phi),
        counts=tuple(dataset.counts),
        microbatch=config.compute.microbatch,
        slices=1 if batch_norms(network) else config.compute.slices or usual_slices(network),
        coupled=bool(batch_norms(network)),
    )


WORKLOADS: dict[str, Callable[[RunConfig, Any], Workload]] = {"matching": matching}
"""By procedure; any other has no forecast."""


def decoded(config: RunConfig, ipc: int) -> int:
    """Images that so many learnt ones of a class become in matching."""
    return len(assembly.parameterisation_of(config).sources(ipc))


def known_groups(config: RunConfig) -> RunConfig:
    """The same, but for groups that are only known once features are: random ones, as many."""
    if config.method.grouping.name != "kmeans":
        return config
    return replace(config, method=replace(config.method, grouping=replace(config.method.grouping, name="random")))


def _groups(config: RunConfig, classes: int) -> int:
    known = known_groups(config)
    partition = assembly.partition_of(known, classes, lambda: torch.empty(0))
    return sum(len(group) > 1 for group in partition)


def _updates(config: RunConfig, dataset: Any) -> Counter[int]:
    schedule, training, found = config.trajectory, config.training, Counter[int]()
    stretches = _trained(config)
    of_set = len(dataset.classes) * config.ipc * prod(assembly.grid(config))
    if training.source == "real":
        # A batch that ends a pass over all images may be smaller: counted as a whole one.
        found[min(training.batch, sum(dataset.counts))] += stretches * -(-training.images // training.batch)
    elif training.source == "synthetic":
        _add(found, of_set, training.batch, stretches * training.epochs)
    _add(found, sum(dataset.counts), training.batch, _pretrained(config) * schedule.pretrain_epochs)
    return +found


def _trained(config: RunConfig) -> int:
    """Stretches of training between matching steps."""
    frozen = config.training.source == "frozen"
    return 0 if frozen else config.trajectory.networks * (config.trajectory.matching_steps - 1)


def _pretrained(config: RunConfig) -> int:
    """Networks that are trained before they are matched."""
    schedule = config.trajectory
    networks = {"pretrained": schedule.networks, "pool": min(schedule.pool_size, schedule.networks)}
    return networks.get(schedule.start, 0)


def _add(found: Counter[int], images: int, batch: int, passes: int) -> None:
    """Passes over so many images, the incomplete batch kept."""
    found[batch] += passes * (images // batch)
    found[images % batch] += passes if images % batch else 0
