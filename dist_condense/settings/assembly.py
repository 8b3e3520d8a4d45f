"""From the configuration to the parts of a method: every name of a config is looked up here, once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dist_condense import networks
from dist_condense.core import grouping, randomness, start
from dist_condense.core.augmentation import OPERATIONS, Strategy
from dist_condense.core.distance import DISTANCES
from dist_condense.core.grouping import Grouping, Partition
from dist_condense.core.image_rule import ImageRule
from dist_condense.core.objective import Objective
from dist_condense.core.parameterisation import DECODINGS, PADDING, MultiFormation, normalised_padding
from dist_condense.core.statistic import SELECTIONS, Embedding, Gradient, Statistic
from dist_condense.data import ImageSet, Reading, open_dataset, to_unit
from dist_condense.data.normalise import ChannelStatistics
from dist_condense.data.reading.read_ahead import ReadAhead
from dist_condense.data.reading.source import ClassSource, NamedSource
from dist_condense.engine.batches import Batches, NoBatches, RealBatches, SyntheticBatches
from dist_condense.engine.class_features import class_features, kmeans_partition
from dist_condense.engine.coordinator import Coordinator, Placement
from dist_condense.engine.shard import DRAWS, ClassShard, MatchingRecipe
from dist_condense.engine.training import NetworkTrainer, TrainingRecipe
from dist_condense.engine.trajectory import Fresh, Pool, Pretrained, Start, Trajectory
from dist_condense.settings.config import AugmentationConfig, NetworkConfig, RunConfig, identity
from dist_condense.settings.run_folder import Entry, RunFolder
from dist_condense.system.remote import join
from dist_condense.system.storage import Storage, storage

SAME_NETWORK = "network"
"""In evaluation.architectures: the network that condensed, perhaps with other options (`network:norm=batch`)."""

STATISTICS: dict[str, Callable[[RunConfig], Statistic]] = {
    "gradient": lambda config: Gradient(SELECTIONS[config.method.statistic.parameters]),
    "embedding": lambda config: Embedding(),
}

Features = Callable[[], torch.Tensor]
PARTITIONS: dict[str, Callable[[RunConfig, int, Features], Partition]] = {
    "per_class": lambda config, classes, features: grouping.per_class(classes),
    "pooled": lambda config, classes, features: grouping.pooled(classes),
    "given": lambda config, classes, features: grouping.check_partition(config.method.grouping.groups, classes),
    "random": lambda config, classes, features: grouping.random_partition(
        classes, config.method.grouping.number, config.seed
    ),
    "kmeans": lambda config, classes, features: kmeans_partition(
        features(), config.method.grouping.number, config.seed
    ),
}

# How many real images the start of one class needs, and the pixels made of them (in the held space).
STARTS: dict[str, Callable[[RunConfig], int]] = {
    "noise": lambda config: 0,
    "real": lambda config: config.ipc,
    "mixed": lambda config: config.ipc * config.method.parameterisation.factor**2,
}

BATCHES: dict[str, Callable[[RunConfig, ImageSet, ClassShard], Batches]] = {
    "frozen": lambda config, dataset, shard: NoBatches(),
    "real": lambda config, dataset, shard: real_batches(config, dataset, shard),
    "synthetic": lambda config, dataset, shard: SyntheticBatches(
        config.seed,
        len(dataset.classes),
        config.ipc * config.method.parameterisation.factor**2,
        shard,
        shard.coordinator,
        shard.placement,
        shard.shape,
        config.training.batch,
        config.training.epochs,
    ),
}

NETWORK_STARTS: dict[str, Callable[[RunConfig, Callable[[], RealBatches]], Start]] = {
    "fresh": lambda config, real: Fresh(),
    "pretrained": lambda config, real: Pretrained(config.trajectory.pretrain_epochs, real()),
    "pool": lambda config, real: Pool(
        config.trajectory.pool_size, config.trajectory.pretrain_epochs, real(), storage_of(config, RunFolder.pool)
    ),
}


def dataset_of(config: RunConfig) -> ImageSet:
    """The data set, opened and not decoded, with the constants that the config states; without evaluation it needs no
    test images. Raises DataError.
    """
    data = config.dataset
    opened = open_dataset(
        data.name,
        data.root,
        size=data.size,
        classes=data.classes,
        download=data.download,
        orientation=data.orientation,
        test=config.evaluation.epochs != 0,
    )
    return normalised(config, opened)


def normalised(config: RunConfig, dataset: ImageSet) -> ImageSet:
    """The data set with the mean and std of the config; with its own while these are not settled (``resolve``)."""
    mean, std = config.dataset.mean, config.dataset.std
    return dataset if mean is None or std is None else dataset.normalised_by(mean, std)


def statistics_of(dataset: ImageSet) -> ChannelStatistics:
    """Mean and std of the data set."""
    return ChannelStatistics(dataset.mean, dataset.std)


def network_options(config: NetworkConfig) -> dict[str, Any]:
    """The options that were given."""
    options = {name: getattr(config, name) for name in ("width", "depth", "norm", "activation", "pooling")}
    return {name: value for name, value in options.items() if value is not None}


def network_text(config: NetworkConfig) -> str:
    """The network with the options that were given, in words."""
    return networks.join(config.name, network_options(config))


def architecture(config: RunConfig, text: str) -> str:
    """What an entry of evaluation.architectures stands for; raises ValueError where this cannot be read."""
    if text.partition(":")[0] != SAME_NETWORK:
        return text
    name, own = networks.split(network_text(config.network))
    return networks.shortest(networks.join(name, own | networks.split(text)[1]))


def network_builder(config: RunConfig, dataset: ImageSet) -> Callable[[int], nn.Module]:
    """Seed to a fresh theta; keeps nothing of the data set, which may be a large array, alive."""
    text, shape = network_text(config.network), network_shape(dataset)
    return lambda seed: networks.build(text, seed=seed, **shape)


def network_shape(dataset: ImageSet) -> dict[str, int]:
    """What a network must know of the data."""
    return {"channels": dataset.channels, "size": dataset.size, "classes": len(dataset.classes)}


def strategy_of(config: AugmentationConfig, dataset: ImageSet) -> Strategy:
    """The augmentation, without flips where these change the label."""
    unknown = sorted({*config.always, *config.one_of} - set(OPERATIONS))
    if unknown:
        raise ValueError(f"method.augmentation names {unknown}; known are {sorted(OPERATIONS)}")
    strategy = Strategy(tuple(config.always), tuple(config.one_of))
    return strategy if dataset.flip else strategy.without("flip")


def objective_of(config: RunConfig) -> Objective:
    """Statistic and distance."""
    compute = config.compute
    return Objective(
        STATISTICS[config.method.statistic.name](config),
        DISTANCES[config.method.distance],
        compute.microbatch,
        compute.autocast,
        compute.compile,
    )


def image_rule(config: RunConfig, dataset: ImageSet) -> ImageRule:
    """SGD on pixels, its learning rate scaled as IDC's program does where references are given."""
    images, lr = config.method.images, config.method.images.lr
    if images.reference_ipc:
        lr *= config.ipc / images.reference_ipc
    if images.reference_size:
        lr *= (dataset.size / images.reference_size) ** 2
    return ImageRule(lr, images.momentum, len(dataset.classes) if images.shared_buffer else 1)


def matching_recipe(config: RunConfig, dataset: ImageSet, partition: Partition) -> MatchingRecipe:
    """All image-side parts."""
    method = config.method
    return MatchingRecipe(
        objective=objective_of(config),
        grouping=Grouping(partition, method.grouping.warmup_networks, method.grouping.warmup_steps),
        rule=image_rule(config, dataset),
        parameterisation=replace(parameterisation_of(config), padding=padding_of(config, dataset)),
        strategy=strategy_of(method.augmentation, dataset),
        unit_space=method.unit_space,
        real_batch=method.real_batch,
        real_draw=DRAWS[method.real_draw],
        synthetic_limit=method.synthetic_limit,
    )


def parameterisation_of(config: RunConfig) -> MultiFormation:
    """f"""
    chosen = config.method.parameterisation
    return MultiFormation(chosen.factor, DECODINGS[chosen.decoding], chosen.budget)


def padding_of(config: RunConfig, dataset: ImageSet) -> tuple[float, ...]:
    """What multi-formation pads, in the space that pixels are held in."""
    return (PADDING,) if config.method.unit_space else normalised_padding(dataset.mean, dataset.std)


def start_pixels(config: RunConfig, dataset: ImageSet, source: ClassSource, label: int) -> torch.Tensor:
    """The pixels of one class at the start, ``[ipc, C, h, h]`` in the held space.

    Real images are drawn by (seed, class), as DC's and DSA's programs draw them at random; those of IDC and IDC-I take
    the first images of the class, which is a deviation.
    """
    keyed = randomness.generator(config.seed, "start", label)
    wanted = STARTS[config.method.start](config)
    if wanted == 0:
        shape = (config.ipc, dataset.channels, dataset.size, dataset.size)
        return start.noise(shape, keyed, config.method.unit_space)
    positions = torch.randperm(dataset.counts[label], generator=keyed)[:wanted]
    real = start.mixed_tiles(to_unit(source.get(label, positions).cpu()), round((wanted / config.ipc) ** 0.5))
    return real if config.method.unit_space else statistics_of(dataset).normalise(real)


def reading_of(config: RunConfig, device: torch.device | None = None) -> Reading:
    """How a worker reads its images; `auto` has been settled before."""
    data = config.data
    return Reading(
        data.tier,
        data.source,
        data.threads or config.cluster.threads,
        Path(data.cache) if data.cache else None,
        data.verify,
        device or torch.device("cpu"),
    )


def shard_of(
    config: RunConfig, dataset: ImageSet, labels: list[int], coordinator: Coordinator, placement: Placement
) -> ClassShard:
    """The classes of one worker at their start, their images read as `data` says."""
    names = [c.name for c in dataset.classes]
    source = NamedSource(dataset.train(labels, reading_of(config, placement.device)), names)
    shape = (dataset.channels, dataset.size, dataset.size)

    def features() -> torch.Tensor:
        network = network_builder(config, dataset)(randomness.key(config.seed, "feature network"))
        statistics = statistics_of(dataset)
        return class_features(network, source, labels, dataset.counts, statistics, coordinator, placement, shape)

    partition = PARTITIONS[config.method.grouping.name](config, len(dataset.classes), features)
    return ClassShard(
        matching_recipe(config, dataset, partition),
        config.seed,
        dataset.counts,
        ReadAhead(source, placement.device),
        statistics_of(dataset),
        coordinator,
        placement,
        shape,
        {c: start_pixels(config, dataset, source, c) for c in labels},
        check_finite=config.training.check_finite,
    )


def real_batches(config: RunConfig, dataset: ImageSet, shard: ClassShard) -> RealBatches:
    """Global batches of real images."""
    return RealBatches(
        config.seed,
        dataset.counts,
        shard.source.source,
        shard.labels,
        shard.statistics,
        shard.coordinator.beside(),
        shard.placement,
        shard.shape,
        config.training.batch,
        config.training.images,
        config.trajectory.matching_steps,
    )


def identity_of(config: RunConfig, dataset: ImageSet) -> dict[str, Any]:
    """All that changes the set: the config's keys, and ``data``, the digest of the training images."""
    return {**identity(config), "data": dataset.train_split.digest()}


def storage_of(config: RunConfig, part: Entry = RunFolder.checkpoints) -> Storage:
    """Where a run keeps its checkpoints, and its pool of networks beside them."""
    place = config.tracking.checkpoints
    return storage(join(place, part.name) if place else Path(config.output) / part.name)


def trajectory_of(config: RunConfig, dataset: ImageSet, shard: ClassShard) -> Trajectory:
    """theta and how it moves."""
    training, strategy = config.training, shard.recipe.strategy
    recipe = TrainingRecipe(
        training.lr,
        training.momentum,
        training.weight_decay,
        strategy.without("cutout") if training.cutmix else strategy,
        training.cutmix,
    )
    trainer = NetworkTrainer(
        recipe,
        shard.coordinator,
        shard.placement,
        config.seed,
        config.cluster.slices or 1,
        config.compute.autocast,
        config.compute.compile,
    )
    start_of = NETWORK_STARTS[config.trajectory.start](config, partial(real_batches, config, dataset, shard))
    batches = BATCHES[training.source](config, dataset, shard)
    steps = config.trajectory.matching_steps
    return Trajectory(network_builder(config, dataset), trainer, batches, start_of, config.seed, steps)
