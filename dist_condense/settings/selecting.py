"""Construction of a selection from the configuration, and of the separate run that makes it for an evaluation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any

from dist_condense.core.parameterisation import MultiFormation
from dist_condense.data import ImageSet
from dist_condense.data.reading.read_ahead import ReadAhead
from dist_condense.data.reading.source import NamedSource
from dist_condense.data.space import Space
from dist_condense.engine.batches import Normalise, RealBatches
from dist_condense.engine.class_features import IMAGES
from dist_condense.engine.coordinator import Coordinator, Placement
from dist_condense.engine.slices import SLICES
from dist_condense.engine.training import TrainingRecipe
from dist_condense.engine.trajectory import Pretrained, Trajectory
from dist_condense.procedures.base import NoNetwork
from dist_condense.procedures.selecting import Selecting, SelectingOutline
from dist_condense.selection.shard import SelectionShard
from dist_condense.selection.table import SELECTIONS, Selection
from dist_condense.settings import assembly, images_per_class, needs, yaml_files
from dist_condense.settings.assembly import Pass
from dist_condense.settings.config import from_dict, shipped
from dist_condense.settings.needs import FLOAT, Need, Needs
from dist_condense.settings.run_folder import SELECTIONS_FOLDER
from dist_condense.settings.schema import EvaluationConfig, MethodConfig, RunConfig, SelectionConfig
from dist_condense.settings.values import some

IGNORED: tuple[str, ...] = (
    *(f"method.{part}." for part in ("parameterisation", "statistic", "grouping", "images", "representatives")),
    *(f"method.{key}" for key in ("unit_space", "start", "distance", "label_lr", "real_batch", "real_draw")),
    *("method.synthetic_limit", "trajectory.", "training.", "compute.microbatch", "compute.second_derivative"),
)
"""Keys of matching, and its sections with a dot at the end, which no selection reads."""


def selection_of(config: RunConfig) -> Selection:
    """Return the selection that the config names."""
    return SELECTIONS[config.method.selection.name or ""]


def outline(config: RunConfig, dataset: ImageSet) -> SelectingOutline:
    """Return the outline of a selection: its classes and the shapes of its stored tensors."""
    return SelectingOutline(
        names=[c.name for c in dataset.classes],
        numbers=images_per_class.numbers(config, dataset),
        shape=dataset.shape,
        build=assembly.network_builder(config, dataset) if selection_of(config).features else None,
    )


def batches(config: RunConfig) -> tuple[int, int]:
    """Return the largest numbers of real images that are read at a time: of a class, and to train the network."""
    features = selection_of(config).features
    of_class, to_train = (IMAGES, config.method.selection.batch) if features else (0, 0)
    return max(images_per_class.most(config), of_class), to_train


def form(config: RunConfig, dataset: ImageSet) -> tuple[Space, MultiFormation]:
    """Return the value space of stored real images, and a parameterisation without tiles."""
    return dataset.space.when_normalised(False), MultiFormation()


def selecting(
    config: RunConfig, dataset: ImageSet, labels: list[int], coordinator: Coordinator, placement: Placement
) -> Selecting:
    """Return one worker's part of a selection: its classes, and the network that all workers train together.

    :param labels: classes that the worker owns.
    """
    planned, (space, _) = outline(config, dataset), form(config, dataset)
    source = dataset.train(labels, assembly.reading_of(config, placement.device))
    shard = SelectionShard(
        selection_of(config),
        labels,
        seed=config.seed,
        numbers=planned.numbers,
        counts=dataset.counts,
        source=ReadAhead(NamedSource(source, planned.names), placement.device),
        space=space,
        placement=placement,
        shape=planned.shape,
    )
    theta = _trajectory(config, dataset, shard, coordinator) if planned.build else NoNetwork()
    return Selecting(outline=planned, shard=shard, trajectory=theta, stride=coordinator.size)


def _trajectory(config: RunConfig, dataset: ImageSet, shard: SelectionShard, coordinator: Coordinator) -> Trajectory:
    """Return the trajectory of the feature network, trained on all real images as ``method.selection`` states."""
    training = config.method.selection
    recipe = TrainingRecipe(
        lr=training.lr,
        momentum=training.momentum,
        weight_decay=training.weight_decay,
        strategy=assembly.strategy_of(config.method.augmentation, dataset),
    )
    real = RealBatches(
        seed=config.seed,
        counts=dataset.counts,
        source=shard.source.source,
        labels=shard.labels,
        normalised=Normalise.of(shard.space.statistics, shard.placement),
        coordinator=coordinator.beside(),
        placement=shard.placement,
        shape=shard.shape,
        batch=training.batch,
        amount=0,
        matching_steps=1,
        stored=dataset.stored,
    )
    return Trajectory(
        build=assembly.network_builder(config, dataset),
        trainer=assembly.trainer_of(config, recipe, coordinator, shard.placement),
        batches=real,
        start=Pretrained(training.epochs, real),
        seed=config.seed,
        matching_steps=1,
    )


def problems(config: RunConfig) -> Iterator[str]:
    """Yield an error message if ``method.selection.name`` is null."""
    if config.method.selection.name is None:
        yield f"method.selection.name: name one of {', '.join(SELECTIONS)}"


def needed(config: RunConfig, dataset: Any, classes: int) -> Needs:
    """Return the memory that a worker needs at least on its device.

    :param classes: number of classes that the worker owns.
    :raises ConfigError: the network cannot be built.
    """
    state = needs.of_state(config, dataset, outline(config, dataset).class_tensors, classes)
    if not selection_of(config).features:
        return Needs([state])
    theta, each = needs.of_theta(config, dataset)
    key, batch = "method.selection.batch", min(config.method.selection.batch, sum(dataset.counts))
    images = Need(key, f"{batch} images of an update of theta", batch * FLOAT * prod(dataset.shape))
    slices = config.compute.slices or SLICES
    return Needs([state, theta], [images, needs.of_pass(config, max(1, batch // slices), each, key)])


def remarks(config: RunConfig, dataset: ImageSet) -> Iterator[str]:
    """Yield a remark if a network is trained, during which no progress is shown."""
    if selection_of(config).features:
        epochs = config.method.selection.epochs
        yield f"before the first class, a network is trained on all real images for {epochs} epochs"


def passes(config: RunConfig, dataset: ImageSet) -> Iterator[Pass]:
    """Yield the pass over the real images in which the feature network is trained, if there is one."""
    training = config.method.selection
    if training.name is not None and selection_of(config).features and training.epochs:
        yield Pass(("method.selection.batch",), sum(dataset.counts), training.batch)


def data_problems(config: RunConfig, dataset: ImageSet) -> Iterator[str]:
    """Yield an error message if a class has fewer images than ``ipc``."""
    if few := images_per_class.lacking(config, dataset):
        yield f"ipc: more real images of a class would be selected than there are: {some(few)}; lower it"


# --- for the rows of an evaluation --------------------------------------------------------------------------------


def place(config: RunConfig) -> Path:
    """Return the folder of selections beside the run's output; runs whose outputs are in the same folder share it."""
    return Path(config.output).expanduser().absolute().parent / SELECTIONS_FOLDER


def run_of_its_own(config: RunConfig, dataset: ImageSet, name: str) -> RunConfig:
    """Return the config of the separate run that makes a selection for the evaluation of a run.

    The separate run has the data, network, ipc, seed and cluster of the evaluated run, and the method of the shipped
    file ``method/NAME.yaml``, or the defaults where there is none. Its folder is named by a digest of everything that
    changes its set, including the training images, so all runs on the same data share it.

    :param config: resolved config of the evaluated run.
    :param name: name of the selection.
    """
    own = RunConfig(
        seed=config.seed,
        ipc=config.ipc,
        dataset=replace(config.dataset, constants=None),  # already replaced by mean and std
        data=config.data,
        network=config.network,
        method=_method(name),
        compute=replace(config.compute, microbatch=0),  # only matching uses it
        cluster=config.cluster,
        evaluation=EvaluationConfig(epochs=0),
        tracking=replace(config.tracking, checkpoints=None),
    )
    known = json.dumps(assembly.identity_of(own, dataset), sort_keys=True)
    return replace(own, output=str(place(config) / f"{name}-{sha256(known.encode()).hexdigest()[:16]}"))


def _method(name: str) -> MethodConfig:
    """Return the method of the selection ``name``, from its shipped file if there is one."""
    file = shipped() / "method" / f"{name}.yaml"
    if not file.is_file():
        return MethodConfig(name=name, procedure="selecting", unit_space=True, selection=SelectionConfig(name=name))
    return from_dict({"method": yaml_files.texts(file)}).method
