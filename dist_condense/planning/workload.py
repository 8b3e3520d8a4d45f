"""Amount of a run's work, counted from its config; it depends neither on the device nor on the number of workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import torch
from torch import nn

from dist_condense.engine.matching.recipe import DRAWS
from dist_condense.engine.slices import usual_slices
from dist_condense.networks import batch_norms
from dist_condense.settings import assembly, images_per_class, microbatch, selecting
from dist_condense.settings.config import ConfigError, RunConfig
from dist_condense.settings.matching import pooled_groups
from dist_condense.settings.parts import BATCHES, NETWORK_STARTS


@dataclass(frozen=True, kw_only=True)
class Trials:
    """Work of evaluating one training set with one architecture: equal networks but for their seeds."""

    set: str
    architecture: str
    seeds: int
    """Number of networks."""
    updates: dict[int, int]
    """Number of updates of one network, by the number of images in their batch."""
    training: float
    """Operations of training on one image, divided by those of training theta."""
    tested: float
    """Operations of all tests of one network, divided by those of training theta on one image."""
    launches: int = 0
    """Kernels that an update launches at least."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Amount of work of a whole run.

    A matching step matches every class once; an update is one SGD step of theta.
    """

    classes: int
    networks: int
    """Number of networks that are drawn; in matching, K."""
    steps: int = 0
    """Number of matching steps, K networks times T steps; 0 without matching."""
    shared_steps: int = 0
    """Number of matching steps in which statistics are averaged over several classes before the distance."""
    groups: int = 0
    """Number of groups of several classes in a shared step."""
    real: int = 0
    """Number of real images per class and matching step, for the largest class."""
    synthetic: int = 0
    """Number of decoded synthetic images per class and matching step, for the largest class."""
    updates: dict[int, int]
    """Number of updates of theta in the run, including pretraining, by the number of images in their batch."""
    pretraining: dict[int, int] = field(default_factory=dict)
    """Number of those updates that pretrain networks before their first matching step."""
    batch_key: str = "training.batch"
    """Config key that sets the number of images in the batch."""
    segments: int
    """Number of times that theta is trained or pretrained."""
    pretrained: int = 0
    """Number of networks that are pretrained."""
    pooled: bool = False
    """Whether these are the networks of a pool, of which several workers pretrain some at the same time."""
    real_updates: bool = True
    """Whether theta is trained on real images."""
    image: int
    """Number of values in an image."""
    pixels: int
    """Number of values in memory for the synthetic images of a class, on average; in matching, with momentum."""
    gradient: int = 0
    """Number of values of the gradient of the largest class; there is one gradient at a time."""
    decoded: int = 0
    """Number of decoded values per class on which theta is trained; 0 if theta is not trained on the synthetic set."""
    parameters: int
    statistic: int = 0
    """Number of values of the statistic phi of a class."""
    counts: tuple[int, ...]
    """Number of real images in each class."""
    unestimated: int = 0
    """Number of real images that are read outside matching and training; the time of reading them is not estimated."""
    embedded: int = 0
    """Number of real images of the largest class that are embedded in the whole run, to choose its minibatches."""
    microbatch: int = 0
    captured: int = 1
    """Number of classes whose images are in the network at once, in a CUDA graph."""
    slices: int
    """Number of slices of a training batch."""
    coupled: bool
    """Whether BatchNorm couples the images of a training batch, which then has one slice."""
    trials: tuple[Trials, ...] = ()
    """Networks of the evaluation, in the order in which they start; see
    :func:`dist_condense.planning.trials.trials_of`."""

    @property
    def computes(self) -> bool:
        """Whether a network is matched or trained, so that there are times to estimate."""
        return self.steps > 0 or bool(self.updates)

    @property
    def steps_only(self) -> Workload:
        """The matching steps and the training between them, without pretraining and evaluation."""
        updates = +(Counter(self.updates) - Counter(self.pretraining))
        segments = self.segments - self.pretrained
        return replace(self, updates=dict(updates), pretraining={}, segments=segments, pretrained=0, trials=())

    @property
    def pretraining_only(self) -> Workload:
        """The pretraining of networks."""
        return replace(self, updates=self.pretraining, segments=self.pretrained)


def workload_of(config: RunConfig, dataset: Any) -> Workload:
    """Count the work of the config's procedure.

    :raises ConfigError: the procedure has no estimate, or its network cannot be built.
    """
    name = config.method.procedure
    if name not in WORKLOADS:
        raise ConfigError([f"method.procedure: {name} has no estimate; plan knows {', '.join(WORKLOADS)}"])
    return WORKLOADS[name](config, dataset)


def matching(config: RunConfig, dataset: Any) -> Workload:
    """Count the work of matching (Algorithm 1)."""
    network = _built(assembly.network_builder(config, dataset))
    image, learnt = prod(dataset.shape), microbatch.learnt(config, dataset)
    schedule, method = config.trajectory, config.method
    groups = pooled_groups(config, len(dataset.classes))
    alone = min(schedule.networks, method.grouping.warmup_networks) * min(
        schedule.matching_steps, method.grouping.warmup_steps
    )
    steps = schedule.networks * schedule.matching_steps
    blank = torch.zeros(1, *dataset.shape)
    phi = assembly.objective_of(config).phi.value(network, blank, torch.zeros(1, dtype=torch.int64))
    on_set = BATCHES[config.training.source].on_set and schedule.matching_steps > 1
    pretraining = passes(sum(dataset.counts), config.training.batch, _pretrained(config) * schedule.pretrain_epochs)
    return Workload(
        classes=len(dataset.classes),
        networks=schedule.networks,
        steps=steps,
        shared_steps=steps - alone if groups else 0,
        groups=groups,
        real=min(method.real_batch, max(dataset.counts)),
        synthetic=min(decoded(config, images_per_class.most(config)), method.synthetic_limit),
        updates=dict(_updates(config, dataset) + pretraining),
        pretraining=dict(pretraining),
        segments=_trained(config) + _pretrained(config),
        pretrained=_pretrained(config),
        pooled=NETWORK_STARTS[schedule.start].shares,
        real_updates=not on_set,
        image=image,
        pixels=2 * _mean(sum(learnt), dataset),
        gradient=max(learnt),
        decoded=_mean(_of_set(config, dataset), dataset) * image if on_set else 0,
        parameters=_parameters(network),
        statistic=sum(x.numel() for x in phi),
        counts=tuple(dataset.counts),
        embedded=_embedded(config, max(dataset.counts)),
        microbatch=config.compute.microbatch or 0,
        slices=_slices(config, network),
        coupled=bool(batch_norms(network)),
    )


def selection(config: RunConfig, dataset: Any) -> Workload:
    """Count the work of a selection: the training of its network, if it has one, and the images that it reads."""
    build, training = selecting.outline(config, dataset).build, config.method.selection
    network = _built(build) if build else nn.Module()
    image, images, selected = prod(dataset.shape), sum(dataset.counts), images_per_class.total(config, dataset)
    updates = passes(images, training.batch, training.epochs if build else 0)
    return Workload(
        classes=len(dataset.classes),
        networks=1 if build else 0,
        updates=dict(updates),
        batch_key="method.selection.batch",
        segments=1 if build else 0,
        image=image,
        pixels=_mean(selected, dataset) * image,
        parameters=_parameters(network),
        counts=tuple(dataset.counts),
        unestimated=selected + (images if build else 0),
        slices=_slices(config, network),
        coupled=bool(batch_norms(network)),
    )


WORKLOADS: dict[str, Callable[[RunConfig, Any], Workload]] = {"matching": matching, "selecting": selection}
"""Functions that count the work of a run, by the name of its procedure."""


def decoded(config: RunConfig, ipc: int) -> int:
    """Return the number of images that decoding yields in matching from ``ipc`` learnt images of a class."""
    return assembly.parameterisation_of(config).count(ipc)


def _built(build: Callable[[int], nn.Module]) -> nn.Module:
    try:
        return build(0).eval()
    except (ValueError, ImportError) as error:
        raise ConfigError([f"network: {error}"]) from error


def _parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def _slices(config: RunConfig, network: nn.Module) -> int:
    return 1 if batch_norms(network) else config.compute.slices or usual_slices(network)


def _updates(config: RunConfig, dataset: Any) -> Counter[int]:
    """Return the number of updates of theta between matching steps, by the number of images in their batch."""
    training, segments, images = config.training, _trained(config), sum(dataset.counts)
    if BATCHES[training.source].on_set:
        return passes(_of_set(config, dataset), training.batch, segments * training.epochs)
    # an incomplete batch, at the end of a pass over all images, is counted as a complete one
    return +Counter({min(training.batch, images): segments * -(-training.images // training.batch)})


def _of_set(config: RunConfig, dataset: Any) -> int:
    """Return the number of decoded images of the synthetic set."""
    return images_per_class.total(config, dataset) * prod(assembly.grid(config))


def _mean(total: int, dataset: Any) -> int:
    """Return the mean over the classes, rounded up."""
    return -(-total // len(dataset.classes))


def _trained(config: RunConfig) -> int:
    """Return the number of times that theta is trained between matching steps."""
    is_trained = BATCHES[config.training.source].budget is not None
    return config.trajectory.networks * (config.trajectory.matching_steps - 1) if is_trained else 0


def _embedded(config: RunConfig, count: int) -> int:
    """Return the number of images that are embedded to choose the minibatches of a class with ``count`` images."""
    schedule, method = config.trajectory, config.method
    if not DRAWS[method.real_draw].representative:
        return 0
    choices = -(-schedule.networks * schedule.matching_steps // method.representatives.interval)
    return choices * assembly.clustered(config, count)


def _pretrained(config: RunConfig) -> int:
    """Return the number of networks that are pretrained."""
    schedule, start = config.trajectory, NETWORK_STARTS[config.trajectory.start]
    most = min(schedule.pool_size, schedule.networks) if start.shares else schedule.networks
    return most if start.pretrains else 0


def passes(images: int, batch: int, number: int) -> Counter[int]:
    """Return the updates of ``number`` passes over ``images`` images, incomplete last batches included.

    :returns: number of updates, by the number of images in their batch.
    """
    return +Counter({batch: number * (images // batch)}) + Counter({images % batch: number * bool(images % batch)})
