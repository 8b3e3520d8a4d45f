"""Global batches for the training of theta.

A key determines the images of a batch, and the owner of each class contributes its images. A batch does not depend on
the number of workers: every worker receives all rows, so that CutMix mixes the whole batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol, cast

import torch
from torch import Tensor

from dist_condense.core import randomness
from dist_condense.data.normalise import ChannelStatistics, to_values
from dist_condense.data.reading.source import ClassSource, get_many
from dist_condense.engine.ahead import Ahead
from dist_condense.engine.coordinator import Coordinator, Placement
from dist_condense.system.transfer import Arrival, Transfer, to_device

Batch = tuple[Tensor, Tensor]
"""Images ``[B, C, H, W]`` in normalised space and labels, int64 ``[B]`` or class probabilities ``[B, classes]``; equal
on all workers.
"""
Gathered = tuple[Arrival, Tensor]
"""Images of a batch as stored, whose transfer to the device has started, and their labels."""
Segment = tuple[int, int, int]
"""Segment of training to read: network k, matching step t, and the index of its first batch to read."""


class Batches(Protocol):
    """Source of global batches in segments of training; segment (k, t) follows matching step t of network k."""

    waited: float
    """Seconds that training has waited for images to be read."""

    def announce(self, k: int, t: int) -> None:
        """Announce that segment (k, t) is next, so that its preparation can start."""
        ...

    def segment(self, k: int, t: int, first: int = 0) -> Iterator[Batch]:
        """Yield the batches of segment (k, t), from index ``first`` on."""
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
    :param coordinator: coordinator with a process group of its own (:meth:`Coordinator.beside`).
    :param amount: minimum number of images in a segment of complete batches; 500 with batches of 64 gives b = 8.
    :param matching_steps: number T of matching steps per network.
    """

    seed: int
    counts: Sequence[int]
    source: ClassSource
    labels: Sequence[int]
    statistics: ChannelStatistics
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

    def announce(self, k: int, t: int) -> None:
        """Start to gather the images of segment (k, t). Every worker must announce the same segments."""
        self._start((k, t, 0))

    def segment(self, k: int, t: int, first: int = 0) -> Iterator[Batch]:
        """Yield the batches of segment (k, t), from index ``first`` on; the last batch of a pass may be smaller."""
        if self._prefetch is None or self._prefetch[0] != (k, t, first):
            self._start((k, t, first))
        (_, batches), self._prefetch = cast(tuple[Segment, Ahead[Gathered]], self._prefetch), None
        return self._ready(batches)

    def passes(self, epochs: int, *key: int, first: int = 0) -> Iterator[Batch]:
        """Yield the batches of ``epochs`` shuffled passes over all real images, including the incomplete ones.

        :param key: integers that, with the seed, determine the shuffles.
        :param first: number of batches to skip, counted over all passes.
        """
        self._drop()
        orders = (randomness.permutation(sum(self.counts), self.seed, "real passes", *key, e) for e in range(epochs))
        positions = (x for order in orders for x in order.split(self.batch))
        return self._ready(Ahead(map(self._gather, islice(positions, first, None))))

    def _start(self, segment: Segment) -> None:
        self._drop()
        k, t, first = segment
        length = -(-self.amount // self.batch)
        start = (k * self.matching_steps + t) * length + first
        positions = randomness.endless_batches(sum(self.counts), self.batch, start, self.seed, "real stretches")
        self._prefetch = segment, Ahead(map(self._gather, islice(positions, max(0, length - first))))

    def _drop(self) -> None:
        """Drain a prefetch that is no longer needed.

        It cannot be abandoned, because two threads must not use one process group and every worker must issue the same
        collectives.
        """
        if self._prefetch is not None:
            deque(self._prefetch[1], maxlen=0)
            self._prefetch = None

    def _gather(self, positions: Tensor) -> Gathered:
        """Gather the images at ``positions`` in the concatenation of all classes; runs in the read-ahead thread."""
        ends = torch.tensor(self.counts).cumsum(0)
        labels = torch.searchsorted(ends, positions, right=True)
        within = positions - (ends - torch.tensor(self.counts))[labels]
        images = torch.zeros(len(positions), *self.shape, dtype=self.stored)
        own = [(c, rows) for c in self.labels if len(rows := (labels == c).nonzero().flatten())]
        parts = get_many(self.source, [(c, within[rows]) for c, rows in own])
        for (_, rows), part in zip(own, parts, strict=True):
            images[rows] = part.cpu()
        return self._transfer.begin(self.coordinator.fill(images)), labels

    def _ready(self, batches: Ahead[Gathered]) -> Iterator[Batch]:
        for arrival, labels in batches:
            images = to_values(arrival.received(), self.placement.dtype)
            yield self.statistics.normalise(images), to_device(labels, self.placement.device)
        self.waited += batches.waited


class ImageShard(Protocol):
    """Interface of a shard to :class:`SyntheticBatches`."""

    @property
    def labels(self) -> Sequence[int]: ...

    def training_images(self, label: int) -> Tensor:
        """Return the decoded images of a class in normalised space ``[m, C, H, W]``."""
        ...

    def training_labels(self, label: int) -> Tensor:
        """Return the learnt labels of a class's decoded images ``[m, classes]``; called only if labels are learnt."""
        ...


@dataclass(kw_only=True)
class SyntheticBatches:
    """Batches of synthetic images of all classes: ``epochs`` shuffled passes per segment. Incomplete batches are kept.

    :param per_class: number of decoded images per class.
    :param soft: whether labels are learnt.
    """

    seed: int
    classes: int
    per_class: int
    shard: ImageShard
    coordinator: Coordinator
    placement: Placement
    shape: tuple[int, int, int]
    batch: int
    epochs: int
    soft: bool = False
    waited: float = field(default=0.0, init=False)

    def announce(self, k: int, t: int) -> None:
        """Do nothing, because the synthetic images are not known before their segment starts."""

    def segment(self, k: int, t: int, first: int = 0) -> Iterator[Batch]:
        """Yield the batches of shuffled passes over the current synthetic images, from index ``first`` on."""
        decoded = {c: self.shard.training_images(c) for c in self.shard.labels}
        learnt = {c: self.shard.training_labels(c) for c in self.shard.labels if self.soft}
        count, seed = self.classes * self.per_class, self.seed
        orders = (randomness.permutation(count, seed, "synthetic passes", k, t, epoch) for epoch in range(self.epochs))
        for positions in islice((x for order in orders for x in order.split(self.batch)), first, None):
            images = self._rows(positions, decoded, *self.shape)
            labels = to_device(positions // self.per_class, self.placement.device)
            yield images, self._rows(positions, learnt, self.classes) if self.soft else labels

    def _rows(self, positions: Tensor, own: dict[int, Tensor], *shape: int) -> Tensor:
        """Return the rows ``[B, *shape]`` at ``positions`` in the concatenation of all classes, on every worker.

        :param own: tensors ``[per_class, *shape]`` of the owned classes.
        """
        labels, within = positions // self.per_class, positions % self.per_class
        device, dtype = self.placement.device, self.placement.dtype
        batch = torch.zeros(len(positions), *shape, dtype=dtype, device=device)
        for c, of_class in own.items():
            rows = (labels == c).nonzero().flatten()
            batch[to_device(rows, device)] = of_class[to_device(within[rows], device)]
        return self.coordinator.fill(batch)


class NoBatches:
    """Empty source, for a theta that is not trained."""

    waited = 0.0

    def announce(self, k: int, t: int) -> None:
        pass

    def segment(self, k: int, t: int, first: int = 0) -> Iterator[Batch]:
        return iter(())
