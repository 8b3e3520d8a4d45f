"""Construction of a run's objects from its configuration and the tables of parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import prod, sqrt
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dist_condense import networks
from dist_condense.core import randomness
from dist_condense.core.augmentation import Strategy
from dist_condense.core.clustering import nearest_to_centres
from dist_condense.core.distance import DISTANCES
from dist_condense.core.grouping import Grouping, Partition
from dist_condense.core.image_rule import ImageRule, Learnt
from dist_condense.core.objective import REVERSE, SECOND_DERIVATIVES, Objective
from dist_condense.core.parameterisation import BOTH, DECODINGS, Grid, MultiFormation, grid_of
from dist_condense.core.program import cuda_graph
from dist_condense.core.start import STARTS, Material, scores
from dist_condense.core.statistic import PARAMETERS, STATISTICS, Statistic
from dist_condense.data import ImageSet, Reading, open_dataset, to_values
from dist_condense.data.reading.read_ahead import ReadAhead
from dist_condense.data.reading.source import ClassSource, NamedSource
from dist_condense.data.space import BOUNDS, Space
from dist_condense.engine.batches import Normalise, RealBatches
from dist_condense.engine.class_features import class_features, embeddings
from dist_condense.engine.coordinator import Coordinator, Placement
from dist_condense.engine.matching.recipe import DRAWS, MatchingRecipe, Representatives
from dist_condense.engine.matching.representative import POSITIONS
from dist_condense.engine.procedure import Kind
from dist_condense.engine.shard import ClassShard
from dist_condense.engine.synthetic_batches import SyntheticBatches
from dist_condense.engine.training import NetworkTrainer, TrainingRecipe
from dist_condense.engine.trajectory import Trajectory
from dist_condense.settings import images_per_class
from dist_condense.settings.identity import identity
from dist_condense.settings.parts import (
    BATCHES,
    NETWORK_STARTS,
    PARTITIONS,
    Classes,
    Pretraining,
    TrainingImages,
)
from dist_condense.settings.run_folder import Entry, RunFolder
from dist_condense.settings.schema import AugmentationConfig, NetworkConfig, RunConfig
from dist_condense.system.remote import join
from dist_condense.system.storage import Storage, storage


@dataclass(frozen=True)
class Pass:
    """Pass over images in which a network is trained.

    :param keys: config keys that change the number of images in a batch or in a pass.
    :param images: number of images.
    :param batch: number of images in each batch but the last.
    :param of_theta: whether theta is trained, rather than a network of the evaluation.
    """

    keys: tuple[str, ...]
    images: int
    batch: int
    of_theta: bool = True


SAME_NETWORK = "network"
"""Name of the condensing network in evaluation.architectures, possibly with other options (`network:norm=batch`)."""


def dataset_of(config: RunConfig) -> ImageSet:
    """Open the data set with the channels, mean and std of the config, without decoding images.

    Test images are required only if the config has an evaluation. Raises DataError if the data set cannot be opened.
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
        channels=data.channels,
        columns=data.columns,
        test_fraction=data.test_fraction,
    )
    return settled(config, opened)


def settled(config: RunConfig, dataset: ImageSet) -> ImageSet:
    """Return the data set with the channels, mean, std, bounds and flips of the config.

    While these keys are null (see :mod:`dist_condense.settings.resolve`), the data set keeps its own values.
    """
    own = config.dataset
    if own.channels not in (None, dataset.channels):
        return dataset_of(config)
    facts = dataset.facts
    if own.flip is not None:
        facts = replace(facts, flip=own.flip)
    if own.bounds is not None and facts.floats:
        lower, upper = BOUNDS[own.bounds]
        facts = replace(facts, lower=lower, upper=upper)
    if own.mean is not None and own.std is not None:
        facts = replace(facts, mean=tuple(own.mean), std=tuple(own.std))
    return replace(dataset, facts=facts)


def space_of(config: RunConfig, dataset: ImageSet) -> Space:
    """Return the value space of the learnt pixels."""
    return dataset.space.when_normalised(not config.method.unit_space)


def network_options(config: NetworkConfig) -> dict[str, Any]:
    """Return the options of the network that are not null."""
    options = {name: getattr(config, name) for name in ("width", "depth", "norm", "activation", "pooling")}
    return {name: value for name, value in options.items() if value is not None}


def network_text(config: NetworkConfig) -> str:
    """Return the name of the network with its options: ``convnet:depth=4``."""
    return networks.join(config.name, network_options(config))


def architecture(config: RunConfig, text: str) -> str:
    """Return the name and options of the network that an entry ``text`` of evaluation.architectures describes.

    Raises ValueError if the entry cannot be parsed.
    """
    if text.partition(":")[0] != SAME_NETWORK:
        return text
    name, own = networks.split(network_text(config.network))
    return networks.shortest(networks.join(name, own | networks.split(text)[1]))


def network_builder(config: RunConfig, dataset: ImageSet) -> Callable[[int], nn.Module]:
    """Return a function that builds theta from a seed.

    It keeps no reference to the data set, which may be a large array.
    """
    text, shape = network_text(config.network), network_shape(dataset)
    return lambda seed: networks.build(text, seed=seed, **shape)


def network_shape(dataset: ImageSet) -> dict[str, Any]:
    """Return the constructor arguments of a network that depend on the data set: channels, size and classes."""
    channels, height, width = dataset.shape
    size = height if height == width else (height, width)
    return {"channels": channels, "size": size, "classes": len(dataset.classes)}


def strategy_of(config: AugmentationConfig, dataset: ImageSet) -> Strategy:
    """Return the augmentation, without flips if they change the label."""
    strategy = Strategy(tuple(config.always), tuple(config.one_of))
    return strategy if dataset.flip else strategy.without("flip")


def objective_of(config: RunConfig) -> Objective:
    """Return the objective of matching: the statistic and the distance."""
    compute = config.compute
    return Objective(
        statistic_of(config),
        DISTANCES[config.method.distance],
        microbatch=compute.microbatch or 0,
        autocast=compute.autocast,
        compiled=compute.compile,
        forward=SECOND_DERIVATIVES[compute.second_derivative or REVERSE],
    )


def statistic_of(config: RunConfig, parameters: str | None = None) -> Statistic:
    """Return the statistic phi.

    :param parameters: key of ``PARAMETERS`` that replaces ``method.statistic.parameters``.
    """
    statistic = config.method.statistic
    return STATISTICS[statistic.name](PARAMETERS[parameters or statistic.parameters])


def image_rule(config: RunConfig, dataset: ImageSet) -> ImageRule:
    """Return the SGD rule of the pixels.

    The learning rate is scaled, as in IDC's program, if ``reference_ipc`` or ``reference_size`` is set.
    """
    images, scale = config.method.images, 1.0
    if images.reference_size:
        scale = (sqrt(prod(dataset.shape[1:])) / images.reference_size) ** 2
    sharing = len(dataset.classes) if images.shared_buffer else 1
    return ImageRule(images.lr, images.momentum, sharing, images.reference_ipc, scale)


def rules_of(config: RunConfig, dataset: ImageSet) -> dict[str, ImageRule]:
    """Return the update rule of each learnt tensor, by name."""
    rules, lr = {"pixels": image_rule(config, dataset)}, config.method.label_lr
    return rules if lr is None else {**rules, "labels": ImageRule(lr, config.method.images.momentum)}


def learnt_shapes(config: RunConfig, dataset: ImageSet) -> list[dict[str, tuple[int, ...]]]:
    """Return the shape of each learnt tensor of each class, by label and name."""
    each = {"pixels": dataset.shape} | ({} if config.method.label_lr is None else {"labels": (len(dataset.classes),)})
    numbers = images_per_class.numbers(config, dataset)
    return [{name: (ipc, *shape) for name, shape in each.items()} for ipc in numbers]


def clustered(config: RunConfig, count: int) -> int:
    """Return the number of images that are clustered to choose a minibatch of a class with ``count`` images."""
    return min(config.method.representatives.images or count, count)


def drawn_tensors(config: RunConfig) -> dict[str, Kind]:
    """Return the dtype and shape of each tensor that stores the real minibatch of a class, by name."""
    is_stored = DRAWS[config.method.real_draw].representative
    return {POSITIONS: (torch.int64, (config.method.real_batch,))} if is_stored else {}


def matching_recipe(config: RunConfig, dataset: ImageSet, partition: Partition) -> MatchingRecipe:
    """Return the recipe of matching: the parts of the method that concern images.

    :param partition: groups of classes whose statistics are averaged.
    """
    method, choice = config.method, DRAWS[config.method.real_draw]
    chosen = Representatives(interval=method.representatives.interval, images=method.representatives.images)
    return MatchingRecipe(
        objective=objective_of(config),
        grouping=Grouping(partition, method.grouping.warmup_networks, method.grouping.warmup_steps),
        rules=rules_of(config, dataset),
        parameterisation=replace(parameterisation_of(config), padding=space_of(config, dataset).pixel_padding),
        strategy=strategy_of(method.augmentation, dataset),
        real_batch=method.real_batch,
        real_draw=choice.draw,
        representatives=chosen if choice.representative else None,
        synthetic_limit=method.synthetic_limit,
    )


def grid(config: RunConfig) -> Grid:
    """Return the numbers of rows and columns of tiles in an image."""
    parameterisation = config.method.parameterisation
    return grid_of(parameterisation.factor, parameterisation.axes or BOTH)


def parameterisation_of(config: RunConfig) -> MultiFormation:
    """Return the parameterisation f."""
    parameterisation = config.method.parameterisation
    return MultiFormation(
        parameterisation.factor,
        DECODINGS[parameterisation.decoding],
        budget=config.method.synthetic_limit,
        axes=parameterisation.axes or BOTH,
    )


def learnt_form(config: RunConfig, dataset: ImageSet) -> tuple[Space, MultiFormation]:
    """Return the value space of the learnt pixels, and the parameterisation that decodes them."""
    return space_of(config, dataset), parameterisation_of(config)


Embed = Callable[[int, torch.Tensor], torch.Tensor]
"""Function from a class and positions of its images, int64 ``[n]``, to their features ``[n, d]``."""


def start_of(config: RunConfig, dataset: ImageSet, source: ClassSource, label: int, embed: Embed) -> Learnt:
    """Return the initial learnt tensors of the class ``label``, by name; parameters as for :func:`start_pixels`."""
    learnt = {"pixels": start_pixels(config, dataset, source, label, embed)}
    if config.method.label_lr is not None:
        learnt["labels"] = scores(label, len(learnt["pixels"]), len(dataset.classes))
    return learnt


def start_images(config: RunConfig) -> int:
    """Return the number of real images from which each synthetic image is initialised; 0 for noise."""
    return STARTS[config.method.start].images(grid(config))


def start_pixels(config: RunConfig, dataset: ImageSet, source: ClassSource, label: int, embed: Embed) -> torch.Tensor:
    """Return the initial pixels of the class ``label``, ``[ipc, C, H, W]`` in the value space of the method.

    Real images are drawn at random, as in the authors' programs of DC and DSA, or are those nearest to k-means centres,
    as in that of DREAM; they depend only on the run's seed and the class. Deviation: the authors' program of IDC and
    IDC-I takes the first images of the class.

    :param embed: called only if the images are representative.
    """
    generator, space = randomness.generator(config.seed, "start", label), space_of(config, dataset)
    ipc = images_per_class.number(config, dataset.classes[label])
    real, needed = torch.empty(0, *dataset.shape), ipc * start_images(config)
    if needed:
        positions = torch.randperm(dataset.counts[label], generator=generator)
        if STARTS[config.method.start].representative:
            positions = positions[: max(needed, config.method.representatives.images or len(positions))]
            positions = positions[nearest_to_centres(embed(label, positions), needed, generator)]
        positions = positions[:needed]
        real = space.of(to_values(source.get(label, positions).cpu()))
    noise = partial(space.noise, (ipc, *dataset.shape), generator)
    return STARTS[config.method.start].pixels(Material(grid(config), real, noise))


def reading_of(config: RunConfig, device: torch.device | None = None) -> Reading:
    """Return a worker's settings for reading real images; ``data.tier`` must be resolved, not ``auto``.

    :param device: device of the worker; None: the CPU.
    """
    data = config.data
    return Reading(
        tier=data.tier,
        threads=data.threads or config.compute.threads,
        cache=Path(data.cache) if data.cache else None,
        verify=data.verify,
        device=device or torch.device("cpu"),
        wait=False,
    )


def shard_of(
    config: RunConfig, dataset: ImageSet, labels: list[int], coordinator: Coordinator, placement: Placement
) -> ClassShard:
    """Return the shard of one worker: its classes in their initial state, with a source of real images.

    :param labels: classes that the worker owns.
    """
    names = [c.name for c in dataset.classes]
    source = NamedSource(dataset.train(labels, reading_of(config, placement.device)), names)
    ahead = ReadAhead(source, placement.device)

    def features() -> torch.Tensor:
        return class_features(
            network=network_builder(config, dataset)(randomness.key(config.seed, "feature network")),
            source=source,
            labels=labels,
            counts=dataset.counts,
            statistics=dataset.space.statistics,
            coordinator=coordinator,
            placement=placement,
            shape=dataset.shape,
        )

    return ClassShard(
        matching_recipe(config, dataset, partition_of(config, len(dataset.classes), features)),
        ahead,
        coordinator,
        placement,
        seed=config.seed,
        counts=dataset.counts,
        space=space_of(config, dataset),
        shape=dataset.shape,
        start={c: start_of(config, dataset, source, c, _embedder(config, dataset, ahead, placement)) for c in labels},
        check_finite=config.training.check_finite,
        cuda_graphs=config.compute.cuda_graphs,
    )


def _embedder(config: RunConfig, dataset: ImageSet, source: ReadAhead, placement: Placement) -> Embed:
    """Return the function that embeds the real images from which the pixels are initialised, by a random network."""
    build, seed = network_builder(config, dataset), randomness.key(config.seed, "feature network")

    def embed(label: int, positions: torch.Tensor) -> torch.Tensor:
        return embeddings(
            build(seed).to(placement.device, placement.dtype).eval(),
            source,
            label,
            positions,
            statistics=dataset.space.statistics,
            placement=placement,
            autocast=config.compute.autocast,
        )

    return embed


def partition_of(config: RunConfig, classes: int, features: Callable[[], torch.Tensor]) -> Partition:
    """Return the partition of the classes into groups whose statistics are averaged.

    :param features: computes mean features ``[classes, features]``; called only if the partition depends on them.
    """
    grouping = config.method.grouping
    return PARTITIONS[grouping.name].partition(
        Classes(count=classes, groups=grouping.number, listed=grouping.groups, seed=config.seed, features=features)
    )


def real_batches(config: RunConfig, dataset: ImageSet, shard: ClassShard, normalised: Normalise) -> RealBatches:
    """Return batches of real images of all classes for training theta, as seen by one worker."""
    return RealBatches(
        seed=config.seed,
        counts=dataset.counts,
        source=shard.source.source,
        labels=shard.labels,
        normalised=normalised,
        coordinator=shard.coordinator.beside(),
        placement=shard.placement,
        shape=shard.shape,
        batch=config.training.batch,
        amount=config.training.images,
        matching_steps=config.trajectory.matching_steps,
        stored=dataset.stored,
    )


def synthetic_batches(config: RunConfig, dataset: ImageSet, shard: ClassShard) -> SyntheticBatches:
    """Return batches of decoded synthetic images of all classes for training theta, as seen by one worker."""
    return SyntheticBatches(
        seed=config.seed,
        numbers=[ipc * prod(grid(config)) for ipc in images_per_class.numbers(config, dataset)],
        shard=shard,
        coordinator=shard.coordinator,
        placement=shard.placement,
        shape=shard.shape,
        batch=config.training.batch,
        epochs=config.training.epochs,
        soft=config.method.label_lr is not None,
    )


def identity_of(config: RunConfig, dataset: ImageSet) -> dict[str, Any]:
    """Return the identity of a run: that of its config, and, as ``data``, the digest of its training images."""
    return {**identity(config), "data": dataset.train_split.digest()}


def storage_of(config: RunConfig, part: Entry = RunFolder.checkpoints) -> Storage:
    """Return the storage of a run's checkpoints or of its pool of networks.

    :param part: ``RunFolder.checkpoints`` or ``RunFolder.pool``.
    """
    location = config.tracking.checkpoints
    return storage(join(location, part.name) if location else Path(config.output) / part.name)


def trainer_of(
    config: RunConfig, recipe: TrainingRecipe, coordinator: Coordinator, placement: Placement
) -> NetworkTrainer:
    """Return a trainer of theta with the precision and the number of slices that ``compute`` states."""
    return NetworkTrainer(
        recipe=recipe,
        coordinator=coordinator,
        placement=placement,
        seed=config.seed,
        slices=config.compute.slices or 1,
        autocast=config.compute.autocast,
        compiled=config.compute.compile,
        capture=cuda_graph if config.compute.cuda_graphs and placement.device.type == "cuda" else None,
    )


def trajectory_of(config: RunConfig, dataset: ImageSet, shard: ClassShard) -> Trajectory:
    """Return the trajectory: the initialisation of theta and its training."""
    training, schedule, strategy = config.training, config.trajectory, shard.recipe.strategy
    recipe = TrainingRecipe(
        lr=training.lr,
        momentum=training.momentum,
        weight_decay=training.weight_decay,
        strategy=strategy.without("cutout") if training.cutmix else strategy,
        cutmix=training.cutmix,
    )
    normalised = Normalise.of(shard.space.statistics, shard.placement)  # the same in training and pre-training
    real = partial(real_batches, config, dataset, shard, normalised)
    synthetic = partial(synthetic_batches, config, dataset, shard)
    pretraining = Pretraining(
        epochs=schedule.pretrain_epochs,
        pool_size=schedule.pool_size,
        networks=schedule.networks,
        check_finite=training.check_finite,
        real=real,
        store=partial(storage_of, config, RunFolder.pool),
    )
    return Trajectory(
        build=network_builder(config, dataset),
        trainer=trainer_of(config, recipe, shard.coordinator, shard.placement),
        batches=BATCHES[training.source].batches(TrainingImages(real=real, synthetic=synthetic)),
        start=NETWORK_STARTS[schedule.start].make(pretraining),
        seed=config.seed,
        matching_steps=schedule.matching_steps,
        memory_format=torch.channels_last if config.compute.channels_last else torch.contiguous_format,
    )
