"""Condensation by matching, the same text on one process and on many nodes.

Zhao et al. 2021, Algorithm 1; Kim et al. 2022, Algorithm 1.
"""

from __future__ import annotations

from typing import Protocol

from torch import nn

from dist_condense.engine.procedure import Record


class Shard(Protocol):
    """S: the learnt pixels of the owned classes (:class:`dist_condense.engine.shard.ClassShard`)."""

    def begin_network(self) -> None: ...

    def match(self, network: nn.Module, k: int, t: int, visit: int) -> None: ...


class Theta(Protocol):
    """theta: the current network (:class:`dist_condense.engine.trajectory.Trajectory`)."""

    network: nn.Module

    def reach(self, k: int, t: int) -> None: ...


def match(S: Shard, theta: Theta, K: int, T: int, record: Record) -> None:
    """Match K networks for T steps each; theta is drawn before the first step of a network and trained between steps.

    Continues after the steps that ``record`` has already seen. Every worker of a run calls this on its own shard.
    """
    for step in range(record.resume(), K * T):
        k, t = divmod(step, T)
        theta.reach(k, t)
        if t == 0:
            S.begin_network()
        S.match(theta.network, k, t, visit=step)
        record.after_step(step + 1)
    record.finish()
