"""Global batches for the training of theta.

A key determines the images of a batch, and the owner of each class contributes its images. A batch does not depend on
the number of workers: every worker receives all rows, so that CutMix mixes the whole batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from math import prod
from typing import Protocol, TypeVar, cast

import torch
from torch import Tensor

from dist_condense.core import randomness
from dist_condense.data.normalise import ChannelStatistics, to_values
from dist_condense.data.reading.source import ClassSource, get_many
from dist_condense.engine.ahead import DEPTH, Ahead
from dist_condense.engine.coordinator import Coordinator, Placement
from dist_condense.engine.update import Batch, Block, DrawUpdates
from dist_condense.system.transfer import Parcel, Transfer, to_device

CPU = torch.device("cpu")
Item = TypeVar("Item")
AHEAD_BYTES = 16 << 20
"""Bytes of images that are read before their update; at least DEPTH batches are."""
BLOCK = 16
"""Maximum number of batches that are gathered and drawn together, because each operation costs more than its bytes."""
Gathered = tuple[list[int], Parcel[Block]]
"""Sizes of the batches of consecutive updates, and their inputs, whose transfer to the device has started."""
Segment = tuple[int, int, int]
"""Segment of training to read: network k, matching step t, and the index of its first batch to read."""


class Batches(Protocol):
    """Source of global batches in segments of training; segment (k, t) follows matching step t of network k."""

    waited: float
    """Seconds that training has waited for images to be read."""

    def announce(self, k: int, t: int, draws: DrawUpdates) -> None:
        """Announce that segment (k, t) is next, so that its preparation can start."""
        ...

    def segment(self, k: int, t: int, first: int = 0, *, draws: DrawUpdates) -> Generator[Batch]:
        """Yield the batches of segment (k, t), from index ``first`` on, with the draws of their updates.

        The generator must be closed if it is not exhausted.
        """
        ...

    def close(self) -> None:
        """End the preparation of an announced segment."""
        ...


@dataclass(kw_only=True)
class RealBatches:
    """Batches of real images of all classes, which a separate thread gathers from their owners ahead of need.

    Segment (k, t) follows matching step t of network k. As in IDC's program, whose loader continues from one call of
    ``train_epoch`` to the next, the segments follow each other through shuffled passes over all images. Let T be
    ``matching_steps``, s = k T + t, and b = ceil(``amount`` / ``batch``). Then segment (k, t) consists of the batches s
    b to (s + 1) b - 1 of these passes, so it can be read without the segments before it. (The authors' program trains
    theta after step T - 1, too; here, those batches are skipped.)

    Deviations from the authors' program:

    * Here, a segment has b batches. In the program, a segment ends once it has ``amount`` images, or after one pass; if
      it contains an incomplete batch, at the end of a pass, it may therefore have b + 1 batches.
    * Here, :meth:`passes` are shuffled separately. In the program, pre-training uses the same loader as the segments.
    * Here, incomplete batches are always kept. On ImageNet-100, the program drops them.

    :param counts: number of real images of every class, owned or not.
    :param normalised: function from stored images to normalised space. Updates with the same function are captured
        together, so all batches of a run must have one.
    :param coordinator: coordinator with a process group of its own (:meth:`Coordinator.beside`).
    :param amount: minimum number of images in a segment of complete batches; 500 with batches of 64 gives b = 8.
    :param matching_steps: number T of matching steps per network.
    """

    seed: int
    counts: Sequence[int]
    source: ClassSource
    labels: Sequence[int]
    normalised: Normalise
    coordinator: Coordinator
    placement: Placement
    shape: tuple[int, int, int]
    batch: int
    amount: int
    matching_steps: int
    stored: torch.dtype = torch.uint8
    """Dtype of the stored images."""
    waited: float = field(default=0.0, init=False)
    """Seconds that training has waited for images."""
    _prefetch: tuple[Segment, Ahead[Gathered]] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._transfer = Transfer(self.placement.device)

    def announce(self, k: int, t: int, draws: DrawUpdates) -> None:
        """Start to gather the images of segment (k, t). Every worker must announce the same segments."""
        self._start((k, t, 0), draws)

    def segment(self, k: int, t: int, first: int = 0, *, draws: DrawUpdates) -> Generator[Batch]:
        """Yield the batches of segment (k, t), from index ``first`` on; the last batch of a pass may be smaller.

        :param draws: function that makes the draws of an update; called in the thread that gathers the images.
        """
        if self._prefetch is None or self._prefetch[0] != (k, t, first):
            self._start((k, t, first), draws)
        (_, batches), self._prefetch = cast(tuple[Segment, Ahead[Gathered]], self._prefetch), None
        return self.ready(batches)

    def passes(self, epochs: int, *key: int, first: int = 0, draws: DrawUpdates) -> Generator[Batch]:
        """Yield the batches of ``epochs`` shuffled passes over all real images, including the incomplete ones.

        :param key: integers that, with the seed, determine the shuffles.
        :param first: number of batches to skip, counted over all passes.
        :param draws: as for :meth:`segment`.
        """
        self.drop()
        positions = (x for batches in self.orders(epochs, *key) for x in batches)
        return self.ready(self._ahead(islice(positions, first, None), first, draws))

    def orders(self, epochs: int, *key: int) -> Iterator[tuple[Tensor, ...]]:
        """Yield the positions of the images of all batches of each pass, see :meth:`located`."""
        for epoch in range(epochs):
            yield randomness.permutation(sum(self.counts), self.seed, "real passes", *key, epoch).split(self.batch)

    def _start(self, segment: Segment, draws: DrawUpdates) -> None:
        self.drop()
        k, t, first = segment
        length = -(-self.amount // self.batch)
        start = (k * self.matching_steps + t) * length + first
        positions = randomness.endless_batches(sum(self.counts), self.batch, start, self.seed, "real stretches")
        self._prefetch = segment, self._ahead(islice(positions, max(0, length - first)), first, draws)

    def _ahead(self, positions: Iterator[Tensor], first: int, draws: DrawUpdates) -> Ahead[Gathered]:
        """Start to gather the batches at ``positions``, whose updates are numbered from ``first`` on."""
        return self.ahead(self._gather(u, block, draws) for u, block in self.blocks(positions, first))

    def blocks(self, batches: Iterator[Item], first: int) -> Iterator[tuple[int, list[Item]]]:
        """Yield the batches that are gathered together, each with the number of its first update, from ``first`` on."""
        blocks = iter(lambda: list(islice(batches, self._length)), [])
        return ((first + i * self._length, block) for i, block in enumerate(blocks))

    def ahead(self, gathered: Iterator[Gathered]) -> Ahead[Gathered]:
        """Start to gather blocks in a separate thread."""
        return Ahead(gathered, max(DEPTH, self._depth // self._length))

    @property
    def _depth(self) -> int:
        """Number of batches in :data:`AHEAD_BYTES`."""
        return AHEAD_BYTES // (self.batch * prod(self.shape) * self.stored.itemsize)

    @property
    def _length(self) -> int:
        """Number of batches in a block."""
        return min(BLOCK, max(1, self._depth // DEPTH))

    def drop(self) -> None:
        """Drain a prefetch that is no longer needed.

        It cannot be abandoned, because two threads must not use one process group and every worker must issue the same
        collectives.
        """
        if self._prefetch is not None:
            deque(self._prefetch[1], maxlen=0)
            self._prefetch = None

    def close(self) -> None:
        """End a prefetch, after the collectives that it makes on all workers unless one of them has failed."""
        if self._prefetch is not None:
            self._end(self._prefetch[1])
            self._prefetch = None

    def _end(self, batches: Ahead[Gathered]) -> None:
        batches.close(together=self.coordinator.size > 1)

    def _gather(self, u: int, batches: list[Tensor], draws: DrawUpdates) -> Gathered:
        """Gather batches of images at positions in the concatenation of all classes; runs in the read-ahead thread.

        :param u: number of the update with the first batch.
        """
        (labels, within), own, sizes = self.located(torch.cat(batches)), set(self.labels), [len(x) for x in batches]
        rows = {c: at for c, at in rows_by_label(labels).items() if c in own}
        parts = get_many(self.source, [(c, within[at]) for c, at in rows.items()])
        images = self.coordinator.fill(self.in_order(list(rows.values()), parts, len(labels)))
        drawn = draws(u, sizes, self.shape[1:])
        return sizes, self.sent(Block(images, labels, drawn, self.normalised))

    def sent(self, block: Block) -> Parcel[Block]:
        """Start to copy a block to the device."""
        return self._transfer.send(block)

    def located(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the classes of positions in the concatenation of all classes, and the positions in their classes."""
        counts = torch.tensor(self.counts)
        ends = counts.cumsum(0)
        labels = torch.searchsorted(ends, positions, right=True)
        return labels, positions - (ends - counts)[labels]

    def in_order(self, rows: Sequence[Tensor], parts: Sequence[Tensor], count: int) -> Tensor:
        """Return stored images ``[count, C, H, W]`` with ``parts`` in their ``rows``, and 0 in all others.

        They are on the CPU, where workers exchange them; a single worker leaves them where its source keeps them.
        """
        device = parts[0].device if parts and self.coordinator.size == 1 else CPU
        own = torch.cat([torch.zeros(1, *self.shape, dtype=self.stored, device=device), *(x.to(device) for x in parts)])
        sources = torch.zeros(count, dtype=torch.int64)
        sources[torch.cat([sources[:0], *rows])] = torch.arange(1, len(own))
        return own.contiguous().index_select(0, to_device(sources, device))

    def ready(self, batches: Ahead[Gathered]) -> Generator[Batch]:
        """Yield the inputs of each update on the device, and end the thread at last."""
        try:
            for sizes, parcel in batches:
                yield from parcel.received().batches(sizes)
        finally:
            self._end(batches)
            self.waited += batches.waited


@dataclass(frozen=True, eq=False)
class Normalise:
    """Function from stored images to normalised space, with constants on the device; equal only to itself.

    :param mean: mean of the values of real images, ``[C, 1, 1]``, in the dtype of the result.
    :param std: standard deviation of these values, in the same form.
    """

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, statistics: ChannelStatistics, placement: Placement) -> Normalise:
        """Return the function for images of a data set."""
        mean, std = (
            torch.tensor(x, dtype=placement.dtype, device=placement.device)[:, None, None]
            for x in (statistics.mean, statistics.std)
        )
        return cls(mean, std)

    def __call__(self, stored: Tensor) -> Tensor:
        return (to_values(stored, self.mean.dtype) - self.mean) / self.std


def rows_by_label(labels: Tensor) -> dict[int, Tensor]:
    """Return the positions of each label that occurs in ``labels``, int64 ``[n]``, on the CPU; both are ascending."""
    order = labels.argsort(stable=True)
    present, counts = labels[order].unique_consecutive(return_counts=True)
    return dict(zip(present.tolist(), order.split(counts.tolist()), strict=True))


class NoBatches:
    """Empty source, for a theta that is not trained."""

    waited = 0.0

    def announce(self, k: int, t: int, draws: DrawUpdates) -> None:
        pass

    def segment(self, k: int, t: int, first: int = 0, *, draws: DrawUpdates) -> Generator[Batch]:
        yield from ()

    def close(self) -> None:
        pass
