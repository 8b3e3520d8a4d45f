"""Communication between the class shards of a run.

Every worker runs the same code, which calls its Coordinator where it needs the other workers. With a single process,
the communication is skipped; the arithmetic is the same.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor

from dist_condense.engine.exact_sum import ExactSums, Part, PlainSums, Sums
from dist_condense.engine.exchange import Plain, all_gather
from dist_condense.engine.roll_call import RollCall
from dist_condense.system.transfer import packed, unpacked


class ReducedBytes:
    """Counter of the bytes that a worker has passed to reductions, in all its process groups and threads."""

    def __init__(self) -> None:
        self.bytes = 0
        self._lock = threading.Lock()

    def add(self, tensor: Tensor) -> None:
        """Add the size of a tensor to the counter, without a device synchronisation."""
        with self._lock:
            self.bytes += tensor.nbytes


@dataclass
class Coordinator(ABC):
    """Interface to the collectives of a run; every worker must call the same collectives in the same order.

    :param reproducible: whether sums are taken in fixed point, so that they do not depend on the number of workers;
        otherwise, they are ordinary all-reduces.
    """

    reproducible: bool = True
    step: int | None = field(default=None, init=False)
    """Number of completed units of the procedure, for messages; None if unknown."""

    @property
    @abstractmethod
    def rank(self) -> int:
        """Rank of this worker, from 0."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of workers."""

    @property
    def is_first_here(self) -> bool:
        """Whether this worker is the first on its machine, and prints what concerns all of them."""
        return True

    @abstractmethod
    def reduce(self, tensor: Tensor, operation: dist.ReduceOp.RedOpType) -> None:
        """All-reduce a tensor in place."""

    @abstractmethod
    def gather(self, value: Plain) -> list[Plain]:
        """Return the values of all workers by rank, on every worker. Values must be small and representable in JSON."""

    def reached(self, step: int) -> None:
        """Report that ``step`` units of the procedure are complete."""
        self.step = step

    def reduced(self) -> int:
        """Return the bytes that this worker has passed to reductions so far, in all process groups."""
        return 0

    def warned(self) -> bool:
        """Return whether this worker has been warned that its machine, or another worker's, will be preempted soon."""
        return False

    @abstractmethod
    def beside(self) -> Coordinator:
        """Return a coordinator over a second process group of the same workers, on CPUs, for a thread that reads ahead.

        All workers must call this method.
        """

    def sum(self, parts: Sequence[Part], total: Tensor, terms: int) -> Tensor:
        """Return the sums of all workers' parts per slot, ``[slots, length]``; parameters as for :meth:`sums`."""
        sums = self.sums(total, terms)
        for slot, part in parts:
            sums.add(slot, part)
        sums.agree()
        return sums.result()

    def sums(self, like: Tensor, terms: int, *, stored: int | None = None, expected: Tensor | None = None) -> Sums:
        """Return sums of all workers' parts per slot, to which this worker adds its parts.

        Parameters as for :class:`ExactSums`; ordinary sums use ``like`` alone.
        """
        if not self.reproducible:
            return PlainSums(like, lambda x: self.reduce(x, dist.ReduceOp.SUM))
        return ExactSums(
            like,
            terms,
            maximum=lambda x: self.reduce(x, dist.ReduceOp.MAX),
            reduce=lambda x: self.reduce(x, dist.ReduceOp.SUM),
            stored=stored,
            expected=expected,
        )

    @abstractmethod
    def all_to_all(self, rows: Tensor, sent: Sequence[int], received: Sequence[int]) -> Tensor:
        """Send rows to every worker; return those that were sent to this one, by rank of the sender.

        :param rows: tensor on the CPU, ``[sum(sent), ...]``: the rows for each worker, by rank.
        :param sent: number of rows for each worker.
        :param received: number of rows from each worker.
        """

    def spread(self, tensors: Sequence[Tensor]) -> None:
        """Copy rank 0's values to all workers, in place. Tensors have equal shapes and dtypes on all workers."""
        own = list(tensors)
        flat = self.fill(packed(own) * (self.rank == 0))
        for x, values in zip(own, unpacked(flat, own), strict=True):
            x.copy_(values)

    def fill(self, buffer: Tensor) -> Tensor:
        """Combine the workers' buffers in place, without rounding, and return the result.

        Each element must be set on one worker and be 0 on all others.
        """
        self.reduce(buffer, dist.ReduceOp.SUM)
        return buffer


class LocalCoordinator(Coordinator):
    """Coordinator of a single process, which needs no communication."""

    rank = 0
    size = 1

    def reduce(self, tensor: Tensor, operation: dist.ReduceOp.RedOpType) -> None:
        pass

    def gather(self, value: Plain) -> list[Plain]:
        return [value]

    def all_to_all(self, rows: Tensor, sent: Sequence[int], received: Sequence[int]) -> Tensor:
        return rows

    def beside(self) -> LocalCoordinator:
        return self


@dataclass
class ProcessGroupCoordinator(Coordinator):
    """Coordinator over a process group of torch.distributed, by default the default group: NCCL on GPUs, gloo on CPUs.

    On gloo, a collective raises WorkerLost if another worker does not answer within the timeout of ``peers``. NCCL
    collectives run in the background, so the loss of a worker is noticed in the gloo group of :meth:`beside`.
    """

    group: dist.ProcessGroup | None = None
    peers: RollCall = field(default_factory=RollCall.create)
    notice: Callable[[], bool] | None = None
    """Function that returns whether a machine of the run will be preempted soon; called about once a second."""
    counter: ReducedBytes = field(default_factory=ReducedBytes)

    @property
    def rank(self) -> int:
        return dist.get_rank()

    @property
    def size(self) -> int:
        return dist.get_world_size()

    @property
    def is_first_here(self) -> bool:
        return os.environ.get("LOCAL_RANK", "0") == "0"  # set by Ray Train and torchrun

    def reduce(self, tensor: Tensor, operation: dist.ReduceOp.RedOpType) -> None:
        self.counter.add(tensor)
        with self.peers.watching():
            dist.all_reduce(tensor, operation, group=self.group)

    def gather(self, value: Plain) -> list[Plain]:
        with self.peers.watching():
            return all_gather(value, self.group)

    def all_to_all(self, rows: Tensor, sent: Sequence[int], received: Sequence[int]) -> Tensor:
        self.counter.add(rows)
        arrived = rows.new_empty(sum(received), *rows.shape[1:])
        with self.peers.watching():
            dist.all_to_all_single(arrived, rows.contiguous(), list(received), list(sent), group=self.group)
        return arrived

    def reached(self, step: int) -> None:
        super().reached(step)
        self.peers.step = step

    def reduced(self) -> int:
        return self.counter.bytes

    def warned(self) -> bool:
        return self.notice is not None and self.notice()

    def beside(self) -> ProcessGroupCoordinator:
        timeout = timedelta(seconds=self.peers.timeout)
        with self.peers.watching():
            group = cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=timeout))
        return ProcessGroupCoordinator(self.reproducible, group, self.peers, counter=self.counter)


@dataclass(frozen=True)
class Placement:
    """Device and floating-point dtype with which a worker computes."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
