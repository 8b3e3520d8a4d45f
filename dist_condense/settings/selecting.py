"""From the configuration to a selection, and to the run that makes one for the rows of an evaluation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from dist_condense.data import ImageSet
from dist_condense.data.reading.read_ahead import ReadAhead
from dist_condense.data.reading.source import NamedSource
from dist_condense.engine.batches import RealBatches
from dist_condense.engine.coordinator import Coordinator, Placement
from dist_condense.engine.training import NetworkTrainer, TrainingRecipe
from dist_condense.engine.trajectory import Pretrained, Trajectory
from dist_condense.procedures.base import NoNetwork
from dist_condense.procedures.selecting import Selecting, SelectingOutline
from dist_condense.selection.shard import SelectionShard
from dist_condense.selection.table import SELECTIONS, Selection
from dist_condense.settings import assembly, yaml_files
from dist_condense.settings.config import from_dict, shipped
from dist_condense.settings.schema import EvaluationConfig, RunConfig
from dist_condense.settings.values import some

FOLDER = "selections"


def selection_of(config: RunConfig) -> Selection:
    """The selection that the config names."""
    return SELECTIONS[config.method.selection.name or ""]


def outline(config: RunConfig, dataset: ImageSet) -> SelectingOutline:
    """The classes, and the shapes of what a selection stores."""
    return SelectingOutline(
        names=[c.name for c in dataset.classes],
        shape=(config.ipc, *dataset.shape),
        build=assembly.network_builder(config, dataset) if selection_of(config).features else None,
    )


def selecting(
    config: RunConfig, dataset: ImageSet, labels: list[int], coordinator: Coordinator, placement: Placement
) -> Selecting:
    """One worker's classes, and the network that it trains with the others."""
    planned = outline(config, dataset)
    source = dataset.train(labels, assembly.reading_of(config, placement.device))
    shard = SelectionShard(
        selection_of(config),
        labels,
        seed=config.seed,
        ipc=config.ipc,
        counts=dataset.counts,
        source=ReadAhead(NamedSource(source, planned.names), placement.device),
        space=assembly.space_of(config, dataset),
        placement=placement,
        shape=planned.shape[1:],
    )
    theta = _trajectory(config, dataset, shard, coordinator) if planned.build else NoNetwork()
    return Selecting(outline=planned, shard=shard, trajectory=theta, stride=coordinator.size)


def _trajectory(config: RunConfig, dataset: ImageSet, shard: SelectionShard, coordinator: Coordinator) -> Trajectory:
    """One network, trained by `method.selection` on all real images."""
    chosen, strategy = config.method.selection, assembly.strategy_of(config.method.augmentation, dataset)
    trainer = NetworkTrainer(
        TrainingRecipe(lr=chosen.lr, momentum=chosen.momentum, weight_decay=chosen.weight_decay, strategy=strategy),
        coordinator,
        shard.placement,
        seed=config.seed,
        slices=config.compute.slices or 1,
        autocast=config.compute.autocast,
        compiled=config.compute.compile,
    )
    real = RealBatches(
        seed=config.seed,
        counts=dataset.counts,
        source=shard.source.source,
        labels=shard.labels,
        statistics=shard.space.statistics,
        coordinator=coordinator.beside(),
        placement=shard.placement,
        shape=shard.shape,
        batch=chosen.batch,
        amount=0,
        matching_steps=1,
        stored=dataset.stored,
    )
    build = assembly.network_builder(config, dataset)
    return Trajectory(build, trainer, real, Pretrained(chosen.epochs, real), seed=config.seed, matching_steps=1)


# --- for the rows of an evaluation --------------------------------------------------------------------------------


def place(config: RunConfig) -> Path:
    """Where the selections are that runs share, beside the output of this one."""
    return Path(config.output).expanduser().absolute().parent / FOLDER


def run_of_its_own(config: RunConfig, dataset: ImageSet, name: str) -> RunConfig:
    """The run that makes the set of a selection for the evaluation of another run.

    It has that run's data, network, ipc, seed and cluster, and the shipped file ``method/NAME.yaml``; nothing of that
    run's own method. So all runs on the same data share it, by a folder beside theirs that is named by everything that
    changes the set, the digest of the training images included.

    :param config: resolved, of the run that is evaluated.
    """
    file = shipped() / "method" / f"{name}.yaml"
    own = RunConfig(
        seed=config.seed,
        ipc=config.ipc,
        dataset=replace(config.dataset, constants=None),  # settled: mean and std
        data=config.data,
        network=config.network,
        method=from_dict({"method": yaml_files.texts(file)}).method,
        compute=replace(config.compute, microbatch=0),  # of matching alone
        cluster=config.cluster,
        evaluation=EvaluationConfig(epochs=0),
        tracking=replace(config.tracking, checkpoints=None),
    )
    known = json.dumps(assembly.identity_of(own, dataset), sort_keys=True)
    return replace(own, output=str(place(config) / f"{name}-{sha256(known.encode()).hexdigest()[:16]}"))


def problems(config: RunConfig, dataset: ImageSet) -> Iterator[str]:
    """Reasons why images of this data set cannot be selected as the config says."""
    if config.method.selection.name is None:
        yield f"method.selection.name: name one of {', '.join(SELECTIONS)}"
    if config.ipc > min(dataset.counts):
        few = [f"{c.name} ({n})" for c, n in zip(dataset.classes, dataset.counts, strict=True) if n < config.ipc]
        yield f"ipc: {config.ipc} real images of each class are selected, and there are fewer in {some(few)}"
    if config.method.parameterisation.factor > 1:
        yield (
            f"method.parameterisation.factor: {config.method.parameterisation.factor}, but selected images are real "
            "ones, stored whole; set method.parameterisation.factor=1"
        )
    if not config.method.unit_space:
        yield "method.unit_space: false, but selected images are stored as they are; set true"
