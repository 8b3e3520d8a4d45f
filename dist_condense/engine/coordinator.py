"""What the class shards of a run say to each other.

Every worker runs the same text; where the text needs the others it asks its Coordinator. On one process the
communication is simply skipped, the arithmetic is the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dist_condense.engine.exact_sum import Part, exact_sum


@dataclass
class Coordinator(ABC):
    """Collectives of a run; every worker calls the same ones in the same order.

    :param reproducible: sum in fixed point, so that the result does not depend on the number of workers; else an
        ordinary all-reduce.
    """

    reproducible: bool = True

    @property
    @abstractmethod
    def rank(self) -> int:
        """This worker's number, from 0."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of workers."""

    @abstractmethod
    def reduce(self, tensor: Tensor, operation: dist.ReduceOp.RedOpType) -> None:
        """All-reduce in place."""

    @abstractmethod
    def gather(self, value: Any) -> list[Any]:
        """The values of all workers by rank, on every worker. Small host objects only."""

    def sum(self, parts: Sequence[Part], total: Tensor, terms: int) -> Tensor:
        """Per-slot sums of all workers' parts, ``[slots, length]``: see :func:`exact_sum`."""
        if self.reproducible:
            return exact_sum(
                parts,
                total,
                terms,
                lambda x: self.reduce(x, dist.ReduceOp.MAX),
                lambda x: self.reduce(x, dist.ReduceOp.SUM),
            )
        result = total.clone()
        for slot, part in parts:
            result[slot] += part
        self.reduce(result, dist.ReduceOp.SUM)
        return result

    def fill(self, buffer: Tensor) -> Tensor:
        """Each element from the one worker that set it; the others hold zeros there. In place, exact."""
        self.reduce(buffer, dist.ReduceOp.SUM)
        return buffer


class LocalCoordinator(Coordinator):
    """One process: nothing to say."""

    rank = 0
    size = 1

    def reduce(self, tensor: Tensor, operation: dist.ReduceOp.RedOpType) -> None:
        pass

    def gather(self, value: Any) -> list[Any]:
        return [value]


class ProcessGroupCoordinator(Coordinator):
    """The default process group of torch.distributed: NCCL between GPUs, gloo between CPUs."""

    @property
    def rank(self) -> int:
        return dist.get_rank()

    @property
    def size(self) -> int:
        return dist.get_world_size()

    def reduce(self, tensor: Tensor, operation: dist.ReduceOp.RedOpType) -> None:
        dist.all_reduce(tensor, operation)

    def gather(self, value: Any) -> list[Any]:
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values


@dataclass(frozen=True)
class Placement:
    """Where and in which dtype a worker computes."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
