"""Algorithm 1: the same text on one process and on many nodes (Zhao et al. 2021, Alg. 1; Kim et al. 2022, Alg. 1)."""

from __future__ import annotations

from typing import Protocol

from torch import nn


class Shard(Protocol):
    """S: the learnt pixels of the owned classes (:class:`dist_condense.engine.shard.ClassShard`)."""

    def begin_network(self) -> None: ...

    def match(self, network: nn.Module, k: int, t: int, visit: int) -> None: ...


class Theta(Protocol):
    """theta: the network now (:class:`dist_condense.engine.trajectory.Trajectory`)."""

    network: nn.Module

    def begin(self, k: int) -> None: ...

    def advance(self, k: int, t: int) -> None: ...


class Record(Protocol):
    """What is written beside (:class:`dist_condense.engine.journal.Journal`)."""

    def resume(self) -> int: ...

    def after_step(self, done: int) -> None: ...


def condense(S: Shard, theta: Theta, K: int, T: int, record: Record) -> None:
    """K networks; T matching steps per network; theta is trained after each but the last (it would be discarded).

    Continues after the steps that ``record`` has already seen. Every worker of a run calls this on its own shard.
    """
    done = record.resume()
    for k in range(done // T, K):
        first = done % T if k == done // T else 0
        if first == 0:
            theta.begin(k)
            S.begin_network()
        for t in range(first, T):
            S.match(theta.network, k, t, visit=k * T + t)
            if t + 1 < T:
                theta.advance(k, t)
            record.after_step(k * T + t + 1)
