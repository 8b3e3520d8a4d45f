"""Selecting as a procedure: real images selected class by class, in units of one class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dist_condense.engine.finite import all_finite
from dist_condense.engine.procedure import Kind, Problem, Record, Units
from dist_condense.engine.trajectory import Trajectory, theta_tensors
from dist_condense.procedures.base import NoNetwork, ShardProcedure
from dist_condense.select import select
from dist_condense.selection.shard import SelectionShard


@dataclass(frozen=True)
class SelectingOutline:
    """Outline of selecting, which has one unit per class, in label order; a network is trained within the first unit.

    :param names: names of the classes, by label.
    :param numbers: number of selected images of each class, by label.
    :param shape: (C, H, W) of an image.
    :param build: function from a seed to the network that computes features; None for a selection without features.
    """

    names: Sequence[str]
    numbers: Sequence[int]
    shape: tuple[int, int, int]
    build: Callable[[int], nn.Module] | None

    @property
    def units(self) -> Units:
        return Units({"class": len(self.names)})

    def class_tensors(self, label: int) -> dict[str, Kind]:
        """Return the kinds of the selected images of a class, and of their positions within the class."""
        number = self.numbers[label]
        return {"pixels": (torch.float32, (number, *self.shape)), "positions": (torch.int64, (number,))}

    @property
    def shared_tensors(self) -> tuple[dict[str, Kind], dict[str, Kind]]:
        """Tensors of theta, which are required, and of its momentum, which are optional; none without a network."""
        return theta_tensors(self.build(0)) if self.build else ({}, {})

    def facts(self, done: int) -> dict[str, Any]:
        return {}

    def synthetic_set(self, state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the selected images ``[N, C, H, W]``, class after class, and their labels, int64 ``[N]``.

        The images of a class that is not selected yet are zeros.
        """
        labels = range(len(self.names))
        pixels = torch.cat([state[f"pixels.{c}"] for c in labels])
        return pixels, torch.arange(len(labels)).repeat_interleave(torch.tensor(self.numbers))


@dataclass(kw_only=True)
class Selecting(ShardProcedure):
    """Selecting procedure on one worker.

    :param stride: number of workers, which select different classes in parallel.
    """

    outline: SelectingOutline
    shard: SelectionShard
    trajectory: Trajectory | NoNetwork
    stride: int

    def run(self, record: Record) -> None:
        select(self.shard, self.trajectory, self.outline.units.total, self.checked(record))

    def measures(self) -> dict[str, float]:
        return {}

    def problem(self, done: int) -> Problem | None:
        """Return a sort key and a message if theta is not finite, else None; waits for the device.

        Features of such a theta would be meaningless.
        """
        numbers = list(self.trajectory.network.state_dict().values())
        if not numbers or all_finite(numbers):
            return None
        return (done,), "theta is not finite after training on the whole set; lower method.selection.lr in a new output"
