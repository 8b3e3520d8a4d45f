"""Construction of matching from the configuration, and the checks of its keys."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import nn

from dist_condense import networks
from dist_condense.core.distance import DISTANCES
from dist_condense.core.grouping import check_partition
from dist_condense.core.objective import REVERSE, SECOND_DERIVATIVES
from dist_condense.core.parameterisation import AXES, BOTH
from dist_condense.core.statistic import PARAMETERS
from dist_condense.data import ImageSet
from dist_condense.engine.coordinator import Coordinator, Placement
from dist_condense.engine.matching.recipe import DRAWS
from dist_condense.engine.slices import SLICES
from dist_condense.procedures.matching import Matching, MatchingOutline
from dist_condense.settings import assembly, images_per_class, needs, recipes
from dist_condense.settings.assembly import Pass
from dist_condense.settings.config import RunConfig, shipped
from dist_condense.settings.needs import FLOAT, Need, Needs
from dist_condense.settings.parts import BATCHES, NETWORK_STARTS, PARTITIONS
from dist_condense.settings.values import some

COMPILED = 8
"""Number of shapes of its arguments for which torch compiles a function at most; others are computed as they are."""


def outline(config: RunConfig, dataset: ImageSet) -> MatchingOutline:
    """Return the outline of matching: K networks, T matching steps each, and the shapes of its stored tensors."""
    return MatchingOutline(
        networks=config.trajectory.networks,
        matching_steps=config.trajectory.matching_steps,
        names=[c.name for c in dataset.classes],
        shapes=assembly.learnt_shapes(config, dataset),
        drawn=assembly.drawn_tensors(config),
        build=assembly.network_builder(config, dataset),
    )


def matching(
    config: RunConfig, dataset: ImageSet, labels: list[int], coordinator: Coordinator, placement: Placement
) -> Matching:
    """Return one worker's part of matching: its shard and its trajectory.

    :param labels: classes that the worker owns.
    """
    shard = assembly.shard_of(config, dataset, labels, coordinator=coordinator, placement=placement)
    trajectory = assembly.trajectory_of(config, dataset, shard)
    return Matching(outline=outline(config, dataset), shard=shard, trajectory=trajectory)


def problems(config: RunConfig) -> Iterator[str]:
    """Yield an error message for each reason why matching cannot run with this config on any data set."""
    method, source = config.method, BATCHES.get(config.training.source)
    budget = source and source.budget
    if config.trajectory.matching_steps > 1 and budget and getattr(config.training, budget) == 0:
        yield f"training.{budget}: state how much theta is trained after each matching step (the papers: by ipc)"
    if method.label_lr is not None and not assembly.statistic_of(config).reads_labels:
        yield (
            f"method.label_lr: {method.label_lr}, but method.statistic.name={method.statistic.name} does not depend on "
            "the labels, so they would never change; set label_lr=null, or another statistic"
        )
    if _is_forward_in_bfloat16(config) and not config.compute.compile:
        yield (
            "compute.second_derivative: forward works in bfloat16 (compute.autocast=true) only if it is compiled; set "
            "compute.compile=true, or compute.autocast=false, or reverse"
        )
    clustered = method.representatives.images
    if DRAWS[method.real_draw].representative and clustered is not None and clustered < method.real_batch:
        yield (
            f"method.representatives.images: {clustered} images cannot be clustered into method.real_batch="
            f"{method.real_batch} clusters; give more, or null for all"
        )


def network_problems(config: RunConfig, theta: networks.Network) -> Iterator[str]:
    """Yield an error message for each reason why the statistic and the distance cannot be computed with theta.

    :param theta: the network, with or without weights.
    """
    statistic, method = assembly.statistic_of(config), config.method
    if statistic.batch_statistics and networks.batch_norms(theta):
        yield (
            f"network.norm: method.statistic.name={method.statistic.name} of a network with BatchNorm uses the "
            "statistics of the batch, which couples all images and cannot be split over classes; set "
            "network.norm=instance, or another network.name if it has no other norm"
        )
    norms = (nn.GroupNorm, nn.LayerNorm, nn.modules.batchnorm._BatchNorm)
    if _is_forward_in_bfloat16(config) and any(isinstance(module, norms) for module in theta.modules()):
        yield (
            "compute.second_derivative: torch differentiates no norm but the instance norm forward in bfloat16 "
            "(compute.autocast=true); set compute.autocast=false, or reverse, or network.norm=instance"
        )
    dimensions = statistic.dimensions(theta)
    if not dimensions:
        others = [name for name in PARAMETERS if assembly.statistic_of(config, name).dimensions(theta)]
        yield (
            f"method.statistic.parameters: network.name={config.network.name} has no {method.statistic.parameters}, of "
            f"which method.statistic.name={method.statistic.name} consists; set {' or '.join(others)}, or another "
            "network.name"
        )
    elif not DISTANCES[method.distance].applies(dimensions):
        others = [name for name, distance in DISTANCES.items() if distance.applies(dimensions)]
        yield (
            f"method.distance: {method.distance} compares tensors of {DISTANCES[method.distance].dimensions} or more "
            f"dimensions, and method.statistic.name={method.statistic.name} has none; set {' or '.join(others)}"
        )


def _is_forward_in_bfloat16(config: RunConfig) -> bool:
    return config.compute.autocast and SECOND_DERIVATIVES[config.compute.second_derivative or REVERSE]


def passes(config: RunConfig, dataset: ImageSet) -> Iterator[Pass]:
    """Yield the passes over images in which theta is trained or pretrained."""
    training, schedule, source = config.training, config.trajectory, BATCHES[config.training.source]
    real = Pass(("training.batch",), sum(dataset.counts), training.batch)
    if source.budget and schedule.matching_steps > 1:
        of_set = images_per_class.total(config, dataset) * prod(assembly.grid(config))
        keys = *real.keys, "ipc", "method.parameterisation.factor"
        complete = replace(real, images=real.images - real.images % real.batch)
        if source.on_set:
            yield Pass(keys, of_set, training.batch)
        else:
            yield real if _trains_to_an_end(config, real.images) else complete
    if NETWORK_STARTS[schedule.start].pretrains and schedule.pretrain_epochs:
        yield real


def _trains_to_an_end(config: RunConfig, images: int) -> bool:
    """Return whether a segment of training contains the last batch of a pass over ``images`` real images.

    The segments are those of :class:`dist_condense.engine.batches.RealBatches`; those after the last matching step of a
    network are skipped.
    """
    steps, batch = config.trajectory.matching_steps, config.training.batch
    of_pass, of_segment = -(-images // batch), -(-config.training.images // batch)
    ends = range(of_pass - 1, config.trajectory.networks * steps * of_segment, of_pass)
    return any(end // of_segment % steps < steps - 1 for end in ends)


def data_problems(config: RunConfig, dataset: ImageSet) -> Iterator[str]:
    """Yield an error message for each reason why matching cannot run with this config on this data set."""
    method = config.method
    factor, axes = method.parameterisation.factor, method.parameterisation.axes or BOTH
    cut = [side for side, is_cut in zip(dataset.shape[1:], AXES[axes], strict=True) if is_cut]
    if factor > min(cut, default=factor):
        yield f"method.parameterisation.factor: {factor} is larger than the images' side, {min(cut)}; lower it"
    each, numbers = assembly.start_images(config), images_per_class.numbers(config, dataset)
    few = [
        f"{entry.name} ({count} of {ipc * each})"
        for entry, count, ipc in zip(dataset.classes, dataset.counts, numbers, strict=True)
        if count < ipc * each
    ]
    if few:
        advice = "set a smaller ipc or method.parameterisation.factor, or method.start=noise"
        yield f"method.start: {method.start} needs more real images than there are of {some(few)}; {advice}"
    if config.compute.compile and (different := len({*numbers})) > COMPILED:
        yield (
            f"compute.compile: ipc has {different} different numbers, and a step is compiled for at most {COMPILED}; "
            "set compute.compile=false, or give classes the same numbers"
        )
    yield from _grouping(config, len(dataset.classes))


def _grouping(config: RunConfig, classes: int) -> Iterator[str]:
    grouping = config.method.grouping
    if grouping.number > classes:
        yield f"method.grouping.number: {grouping.number} groups of {classes} classes; lower it"
    if grouping.groups:
        try:
            check_partition(grouping.groups, classes)
        except ValueError as error:
            yield str(error)
    elif PARTITIONS[grouping.name].listed:
        yield "method.grouping.groups: list the labels of each group, or select another method.grouping.name"


def needed(config: RunConfig, dataset: Any, classes: int) -> Needs:
    """Return the memory that a worker needs at least on its device.

    :param classes: number of classes that the worker owns.
    :raises ConfigError: the network cannot be built.
    """
    method, image, tiles = config.method, FLOAT * prod(dataset.shape), prod(assembly.grid(config))
    theta, of_map = needs.of_theta(config, dataset)
    most = images_per_class.most(config)
    real, decoded = min(method.real_batch, max(dataset.counts)), assembly.parameterisation_of(config).count(most)
    microbatch = 1 if config.compute.microbatch is None else config.compute.microbatch or real
    passed = min(microbatch, max(real, min(decoded, method.synthetic_limit)))
    in_turn = [
        Need("method.real_batch", f"{real} real images", real * image),
        needs.of_pass(
            config, passed, of_map, "compute.microbatch" if config.compute.microbatch else "method.real_batch"
        ),
    ]
    if DRAWS[method.real_draw].representative:
        clustered = assembly.clustered(config, max(dataset.counts))
        text = f"the features of {clustered} real images"
        features = needs.feature_count(assembly.network_text(config.network), **assembly.network_shape(dataset))
        in_turn.append(Need("method.representatives.images", text, clustered * features * FLOAT))
    if decoded > most and config.compute.microbatch == 0:  # else decoded by microbatches
        text = f"{decoded} images decoded from the {most} of a class"
        in_turn.append(Need("method.parameterisation.factor", text, decoded * image))
    for each in dict.fromkeys(passes(config, dataset)):
        batch = min(each.batch, each.images)
        in_turn.append(Need("training.batch", f"{batch} images of an update of theta", batch * image))
        slice_ = max(1, batch // (config.compute.slices or SLICES))
        in_turn.append(needs.of_pass(config, slice_, of_map, "training.batch"))
    if BATCHES[config.training.source].on_set and config.trajectory.matching_steps > 1 and tiles > 1:
        text = f"the decoded images of {classes} classes"
        owned = images_per_class.total(config, dataset) * classes // len(dataset.classes)
        in_turn.append(Need("method.parameterisation.factor", text, owned * tiles * image))
    return Needs([needs.of_state(config, dataset, outline(config, dataset).class_tensors, classes), theta], in_turn)


def remarks(config: RunConfig, dataset: ImageSet) -> Iterator[str]:
    """Yield remarks on parts of the method that have less effect on this data set than their names suggest."""
    yield from recipes.remarks(config, shipped())
    few = [f"{dataset.classes[c].name} ({n})" for c, n in enumerate(dataset.counts) if n < config.method.real_batch]
    if few:
        yield f"fewer real images than method.real_batch={config.method.real_batch}, so each step uses all: {some(few)}"
    schedule = config.trajectory
    if NETWORK_STARTS[schedule.start].pretrains and not schedule.pretrain_epochs:
        yield f"trajectory.start: {schedule.start} networks are not trained, because trajectory.pretrain_epochs=0"
    tiles = prod(assembly.grid(config))
    if 0 < assembly.start_images(config) < tiles:
        yield (
            f"method.start: {config.method.start} with {tiles} tiles per image starts each tile from a part of one "
            "real image; method.start=mixed starts each from a whole one"
        )


def known_groups(config: RunConfig) -> RunConfig:
    """Return the config with a partition that has the same number of groups but needs no features of real images."""
    grouping = config.method.grouping
    name = PARTITIONS[grouping.name].planned_as or grouping.name
    return replace(config, method=replace(config.method, grouping=replace(grouping, name=name)))


def pooled_groups(config: RunConfig, classes: int) -> int:
    """Return the number of groups of several of the run's classes, whose statistics are averaged."""
    partition = assembly.partition_of(known_groups(config), classes, lambda: torch.empty(0))
    return sum(len(group) > 1 for group in partition)
