"""Matching as a procedure: Algorithm 1 over a shard and a trajectory, in units of one matching step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, astuple, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dist_condense.engine.procedure import Kind, Problem, Record, Units
from dist_condense.engine.shard import MOMENTUM, ClassShard
from dist_condense.engine.trajectory import Trajectory, theta_tensors
from dist_condense.match import match
from dist_condense.procedures.base import ShardProcedure

SQUARED_NORM = "squared_gradient_norm"
"""Name of the sum over classes whose square root is the norm."""


@dataclass(frozen=True)
class MatchingOutline:
    """Outline of matching, which learns pixels, and optionally labels, with K networks of T matching steps each.

    :param networks: number K of networks.
    :param matching_steps: number T of matching steps per network.
    :param names: names of the classes, by label.
    :param shapes: shapes of the learnt tensors of each class, by label and name; ``pixels`` is (ipc, C, h, w).
    :param drawn: dtypes and shapes of the tensors that store a class's real minibatch, by name; empty if it follows
        from the step.
    :param build: function from a seed to a network theta.
    """

    _: KW_ONLY
    networks: int
    matching_steps: int
    names: Sequence[str]
    shapes: Sequence[Mapping[str, tuple[int, ...]]]
    drawn: Mapping[str, Kind]
    build: Callable[[int], nn.Module]

    @property
    def units(self) -> Units:
        return Units({"network": self.networks, "matching step": self.matching_steps})

    def class_tensors(self, label: int) -> dict[str, Kind]:
        """Return the kinds of a class's learnt tensors, their SGD momentum, and its stored minibatch, by name."""
        kinds = {name: (torch.float32, shape) for name, shape in self.shapes[label].items()}
        return kinds | {MOMENTUM[name]: kind for name, kind in kinds.items()} | dict(self.drawn)

    @property
    def shared_tensors(self) -> tuple[dict[str, Kind], dict[str, Kind]]:
        """Tensors of theta, which are required, and of its momentum, which exist only after the first update."""
        return theta_tensors(self.build(0))

    def facts(self, done: int) -> dict[str, Any]:
        """Return the card entries: completed networks, total networks, and matching steps per network."""
        return {
            "networks_done": done // self.matching_steps,
            "networks_total": self.networks,
            "matching_steps": self.matching_steps,
        }

    def synthetic_set(self, state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the learnt pixels ``[N, C, h, w]``, class after class, and their labels.

        Labels are int64 ``[N]``, or learnt probabilities ``[N, classes]``.
        """
        labels = range(len(self.names))
        learnt = {name: torch.cat([state[f"{name}.{c}"] for c in labels]) for name in self.shapes[0]}
        if "labels" in learnt:
            return learnt["pixels"].float(), learnt["labels"].float().softmax(1)
        numbers = torch.tensor([shapes["pixels"][0] for shapes in self.shapes])
        return learnt["pixels"].float(), torch.arange(len(self.names)).repeat_interleave(numbers)


@dataclass(kw_only=True)
class Matching(ShardProcedure):
    """Matching procedure on one worker."""

    outline: MatchingOutline
    shard: ClassShard
    trajectory: Trajectory
    stride: int = 1

    def run(self, record: Record) -> None:
        networks, steps = self.outline.networks, self.outline.matching_steps
        match(self.shard, self.trajectory, networks, steps, record=self.checked(record))

    def measures(self) -> dict[str, float]:
        """Return the matching loss and the squared norm of its gradient, summed over the owned classes."""
        return {"loss": _total(self.shard.losses), SQUARED_NORM: _total(self.shard.squared_norms)}

    def measured(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Return ``loss`` and ``gradient_norm``, the Euclidean norm of the gradient in all learnt tensors."""
        return {"loss": sums["loss"], "gradient_norm": math.sqrt(sums[SQUARED_NORM])}

    def problem(self, done: int) -> Problem | None:
        """Return a sort key and a message for the first number that is not finite, else None; waits for the device."""
        finding = self.shard.first_not_finite(self.trajectory.network, done)
        if finding is None:
            return None
        member = self.trajectory.member if finding.step == done else None
        return astuple(finding), finding.message(self.outline.matching_steps, self.outline.names, member)


def _total(by_class: Mapping[int, Tensor]) -> float:
    """Return the sum of a number ``[]`` of each class, in float64; waits for the device once."""
    return float(sum(torch.stack(list(by_class.values())).tolist())) if by_class else 0.0
