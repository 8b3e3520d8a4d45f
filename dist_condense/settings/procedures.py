"""From the configuration to the procedure of a run: every name of one is looked up here, once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod

from dist_condense.data import ImageSet
from dist_condense.engine.coordinator import Coordinator, Placement
from dist_condense.engine.procedure import Outline, Procedure
from dist_condense.procedures.matching import Matching, MatchingOutline
from dist_condense.settings import selecting
from dist_condense.settings.assembly import grid, learnt_shapes, network_builder, shard_of, start_images, trajectory_of
from dist_condense.settings.config import RunConfig
from dist_condense.settings.values import some


def matching_outline(config: RunConfig, dataset: ImageSet) -> MatchingOutline:
    """K, T and the shapes of what matching stores."""
    return MatchingOutline(
        networks=config.trajectory.networks,
        matching_steps=config.trajectory.matching_steps,
        names=[c.name for c in dataset.classes],
        shapes=learnt_shapes(config, dataset),
        build=network_builder(config, dataset),
    )


def matching(
    config: RunConfig, dataset: ImageSet, labels: list[int], coordinator: Coordinator, placement: Placement
) -> Matching:
    """One worker's shard and trajectory."""
    shard = shard_of(config, dataset, labels, coordinator, placement)
    return Matching(
        outline=matching_outline(config, dataset), shard=shard, trajectory=trajectory_of(config, dataset, shard)
    )


def matching_remarks(config: RunConfig, dataset: ImageSet) -> Iterator[str]:
    """Small classes, and tiles that start from parts of images."""
    few = [f"{dataset.classes[c].name} ({n})" for c, n in enumerate(dataset.counts) if n < config.method.real_batch]
    if few:
        yield f"fewer real images than method.real_batch={config.method.real_batch}, each once a step: {some(few)}"
    tiles = prod(grid(config))
    if 0 < start_images(config) < config.ipc * tiles:
        yield (
            f"method.start: {config.method.start} with {tiles} tiles an image starts each tile from a part of one real "
            "image; method.start=mixed makes each of a whole one"
        )


def nothing(config: RunConfig, dataset: ImageSet) -> Iterator[str]:
    """No lines."""
    yield from ()


@dataclass(frozen=True)
class Maker:
    """What makes a procedure of a config."""

    outline: Callable[[RunConfig, ImageSet], Outline]
    worker: Callable[[RunConfig, ImageSet, list[int], Coordinator, Placement], Procedure]
    """One worker's part; ``labels`` are the classes that it owns."""
    problems: Callable[[RunConfig, ImageSet], Iterator[str]] = nothing
    """A line for each reason why it cannot run on this data set."""
    remarks: Callable[[RunConfig, ImageSet], Iterator[str]] = nothing
    """A line for each thing that a person should know, and that does not stop the run."""


PROCEDURES = {
    "matching": Maker(matching_outline, matching, remarks=matching_remarks),
    "selecting": Maker(selecting.outline, selecting.selecting, problems=selecting.problems),
}


def outline_of(config: RunConfig, dataset: ImageSet) -> Outline:
    """What is known of a run's procedure before a worker starts."""
    return PROCEDURES[config.method.procedure].outline(config, dataset)


def procedure_of(
    config: RunConfig, dataset: ImageSet, labels: list[int], coordinator: Coordinator, placement: Placement
) -> Procedure:
    """One worker's part of a run."""
    return PROCEDURES[config.method.procedure].worker(config, dataset, labels, coordinator, placement)
