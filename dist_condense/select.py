"""Selecting: a set of real images, chosen class by class; the same text on one process and on many nodes."""

from __future__ import annotations

from typing import Protocol

from torch import nn

from dist_condense.engine.procedure import Record


class Shard(Protocol):
    """S: the chosen images of the owned classes (:class:`dist_condense.selection.shard.SelectionShard`)."""

    def select(self, network: nn.Module, label: int) -> None: ...


class Theta(Protocol):
    """theta: the network whose features a selection reads (:class:`dist_condense.engine.trajectory.Trajectory`)."""

    network: nn.Module

    def reach(self, k: int, t: int) -> None: ...


def select(S: Shard, theta: Theta, classes: int, record: Record) -> None:
    """Train theta on the whole set, then choose images of one class after the other; a unit is one class.

    Continues after the units that ``record`` has already seen. Every worker of a run calls this on its own shard; a
    class is the work of its owner, and the others go on to the next one at once.
    """
    for label in range(record.resume(), classes):
        if label == 0:
            theta.reach(0, 0)
        S.select(theta.network, label)
        record.after_step(label + 1)
    record.finish()
