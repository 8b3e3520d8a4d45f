"""Selecting as a procedure: real images selected class by class, in units of one class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dist_condense.engine.batches import Batches, NoBatches
from dist_condense.engine.finite import all_finite
from dist_condense.engine.procedure import Kind, Problem, Record, Units
from dist_condense.engine.trajectory import Trajectory, theta_tensors
from dist_condense.select import select
from dist_condense.selection.shard import SelectionShard


@dataclass(frozen=True)
class SelectingOutline:
    """One unit per class, in label order; the network is trained inside the first unit.

    :param names: names of the classes, by label.
    :param shape: shape of the images of a class, ``(ipc, C, H, W)``.
    :param build: function from a seed to the network whose features are read; None for a selection without features.
    """

    names: Sequence[str]
    shape: tuple[int, int, int, int]
    build: Callable[[int], nn.Module] | None

    @property
    def units(self) -> Units:
        """One unit per class."""
        return Units({"class": len(self.names)})

    @property
    def class_tensors(self) -> dict[str, Kind]:
        """Selected images, and their positions within the class."""
        return {"pixels": (torch.float32, self.shape), "positions": (torch.int64, self.shape[:1])}

    @property
    def shared_tensors(self) -> tuple[dict[str, Kind], dict[str, Kind]]:
        """Tensors of theta and of its momentum; none where there is no network."""
        return theta_tensors(self.build(0)) if self.build else ({}, {})

    def facts(self, done: int) -> dict[str, Any]:
        """Return no entry besides those of every card."""
        return {}

    def synthetic_set(self, state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the selected images, class after class; zeros for a class that is not complete."""
        labels = range(len(self.names))
        pixels = torch.cat([state[f"pixels.{c}"] for c in labels])
        return pixels, torch.arange(len(labels)).repeat_interleave(self.shape[0])


class NoNetwork:
    """Trajectory of a selection without features: nothing to train, store or compare."""

    network = nn.Module()
    batches: Batches = NoBatches()
    updates = 0
    after_update: Callable[[], None]

    def reach(self, k: int, t: int) -> None:
        """Nothing."""

    def state_dict(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Nothing."""

    def checksum(self) -> None:
        """None."""


@dataclass
class Selecting:
    """Selecting on one worker.

    :param stride: number of workers, each of which works on a class of its own.
    """

    outline: SelectingOutline
    shard: SelectionShard
    trajectory: Trajectory | NoNetwork
    _: KW_ONLY
    stride: int

    @property
    def labels(self) -> list[int]:
        """Owned classes, ascending."""
        return list(self.shard.labels)

    @property
    def updates(self) -> int:
        """Updates of theta in its training on all images."""
        return self.trajectory.updates

    @property
    def waited(self) -> float:
        """Seconds spent waiting for images so far."""
        return self.shard.source.waited + self.trajectory.batches.waited

    def run(self, record: Record) -> None:
        """Select images class by class."""
        select(self.shard, self.trajectory, self.outline.units.total, record)

    def after_updates(self, call: Callable[[], None]) -> None:
        """Register a callback for each update of theta."""
        self.trajectory.after_update = call

    def state_dict(self) -> dict[str, Tensor]:
        """Return ``pixels.LABEL`` and ``positions.LABEL`` of the owned classes."""
        return self.shard.state_dict()

    def shared_state_dict(self) -> dict[str, Tensor]:
        """Return theta and its momentum."""
        return self.trajectory.state_dict()

    def load_state_dict(self, by_class: Mapping[str, Tensor], shared: Mapping[str, Tensor], updates: int) -> None:
        """Continue from a stored state."""
        self.shard.load_state_dict(by_class)
        self.trajectory.load_state_dict(shared)
        self.trajectory.updates = updates

    def measures(self) -> dict[str, float]:
        """Return no measurement besides those of every procedure."""
        return {}

    def problem(self, done: int) -> Problem | None:
        """Report a theta that is not finite, whose features would be meaningless. Waits for the device."""
        numbers = list(self.trajectory.network.state_dict().values())
        if not numbers or all_finite(numbers):
            return None
        return (done,), "theta is not finite after training on the whole set; lower method.selection.lr in a new output"

    def checksum(self) -> int | None:
        """Return the checksum of theta."""
        return self.trajectory.checksum()

    def close(self) -> None:
        """Stop the threads that read ahead."""
        self.shard.source.close()
