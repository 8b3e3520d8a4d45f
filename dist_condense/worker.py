"""What one worker executes: the same on a Ray worker and in the driver's own process."""

from __future__ import annotations

from pathlib import Path

import torch

from dist_condense import parts
from dist_condense.condense import condense
from dist_condense.config import RunConfig
from dist_condense.engine.coordinator import Coordinator, Placement
from dist_condense.engine.journal import Journal
from dist_condense.engine.memory import keep_freed_memory
from dist_condense.engine.ownership import assign


def work(config: RunConfig, coordinator: Coordinator, device: torch.device) -> None:
    """Condense this worker's classes to the end, continuing from the newest checkpoint in ``config.output``."""
    keep_freed_memory()
    if config.cluster.threads:
        torch.set_num_threads(config.cluster.threads)
    journal = assemble(config, coordinator, Placement(device))
    K, T = config.trajectory.networks, config.trajectory.matching_steps
    condense(journal.shard, journal.trajectory, K, T, journal)


def assemble(config: RunConfig, coordinator: Coordinator, placement: Placement) -> Journal:
    """Shard, trajectory and journal of one worker."""
    dataset = parts.dataset_of(config)
    costs = [1.0] * len(dataset.classes)  # every class has the same batch in every step
    labels = list(assign(costs, coordinator.size)[coordinator.rank])
    folder = Path(config.output)
    shard = parts.shard_of(config, dataset, labels, coordinator, placement)
    return Journal(
        folder,
        shard,
        parts.trajectory_of(config, dataset, shard, folder / "checkpoints"),
        config.trajectory.matching_steps,
        config.trajectory.networks * config.trajectory.matching_steps,
        [c.name for c in dataset.classes],
        config.tracking.log_every,
        config.tracking.checkpoint_minutes,
    )
