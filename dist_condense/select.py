"""Selection of real images, class by class; the same code runs on one process and on many nodes."""

from __future__ import annotations

from typing import Protocol

from torch import nn

from dist_condense.engine.procedure import Record


class Shard(Protocol):
    """S: the selected images of the owned classes (:class:`dist_condense.selection.shard.SelectionShard`)."""

    def select(self, network: nn.Module, label: int) -> None: ...


class Theta(Protocol):
    """theta: the network whose features a selection reads (:class:`dist_condense.engine.trajectory.Trajectory`)."""

    network: nn.Module

    def reach(self, k: int, t: int) -> None: ...


def select(S: Shard, theta: Theta, classes: int, record: Record) -> None:
    """Train theta on all images, then select images of one class after the other; a unit is one class.

    Continues after the units that ``record`` has already seen. Every worker of a run calls this on its own shard; the
    owner of a class selects its images, and the other workers continue with the next class at once.
    """
    for label in range(record.resume(), classes):
        if label == 0:
            theta.reach(0, 0)
        S.select(theta.network, label)
        record.after_step(label + 1)
    record.finish()
