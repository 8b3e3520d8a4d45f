"""Global batches that train theta: the key says which images, the owners contribute theirs.

A batch does not know the workers: every worker ends up with the same rows, so that CutMix mixes the whole batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, cast

import torch
from torch import Tensor

from dist_condense.core import randomness
from dist_condense.data.normalise import ChannelStatistics, to_unit
from dist_condense.data.reading.source import ClassSource, get_many
from dist_condense.engine.ahead import Ahead
from dist_condense.engine.coordinator import Coordinator, Placement
from dist_condense.system.transfer import Arrival, Transfer, to_device

Batch = tuple[Tensor, Tensor]
"""Images ``[B, C, H, W]`` in normalised space and labels, int64 ``[B]`` or class probabilities ``[B, classes]``; the
same on every worker."""
Gathered = tuple[Arrival, Tensor]
"""The same as bytes, on their way to the device."""
Stretch = tuple[int, int, int]
"""Network k, step t, and the first batch."""


class Batches(Protocol):
    """A source of global batches for one stretch of training: that after matching step t of network k."""

    waited: float
    """Seconds that training has waited for images to be read."""

    def announce(self, k: int, t: int) -> None:
        """This stretch comes next; what can be done before, may begin."""
        ...

    def stretch(self, k: int, t: int, first: int = 0) -> Iterator[Batch]:
        """All batches of the stretch but those before ``first``."""
        ...


@dataclass
class RealBatches:
    """Real images of all classes, gathered from their owners ahead of need by a thread of its own.

    Stretches walk through shuffled passes over all images, each where the one before ended, as in IDC's program, whose
    loader goes on from one call of ``train_epoch`` to the next. A stretch is b batches, and that of (k, t) is the
    batches s b to (s + 1) b - 1 with s = k T + t, so that it can be had without those before it. (The program trains
    theta after step T - 1, too; those batches are passed over here.) Deviations: its stretch counts images, so that
    it takes one batch more where an incomplete one, at the end of a pass, leaves it below ``amount``, and it ends at
    one pass at most; its pre-training goes through the same loader, :meth:`passes` are shuffled on their own; on
    ImageNet-100 it drops the incomplete batches.

    :param counts: real images of every class, also of those that others own.
    :param coordinator: a line of its own (:meth:`Coordinator.beside`).
    :param amount: images of one stretch; whole batches until reached (500 by 64: b = 8).
    :param matching_steps: T
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
    waited: float = 0.0
    """Seconds that training has waited for images."""
    _coming: tuple[Stretch, Ahead[Gathered]] | None = None

    def __post_init__(self) -> None:
        self._transfer = Transfer(self.placement.device)

    def announce(self, k: int, t: int) -> None:
        """Begin to gather a stretch. Every worker announces the same ones."""
        self._begin((k, t, 0))

    def stretch(self, k: int, t: int, first: int = 0) -> Iterator[Batch]:
        """As many batches as ``amount`` needs; one that ends a pass may be smaller."""
        if self._coming is None or self._coming[0] != (k, t, first):
            self._begin((k, t, first))
        coming, self._coming = cast(tuple[Stretch, Ahead[Gathered]], self._coming), None
        return self._ready(coming[1])

    def passes(self, epochs: int, *key: int, first: int = 0) -> Iterator[Batch]:
        """``epochs`` shuffled passes over all real images, the incomplete batch of a pass kept."""
        self._drop()
        orders = (randomness.permutation(sum(self.counts), self.seed, "real passes", *key, e) for e in range(epochs))
        positions = (x for order in orders for x in order.split(self.batch))
        return self._ready(Ahead(map(self._gather, islice(positions, first, None))))

    def _begin(self, stretch: Stretch) -> None:
        self._drop()
        k, t, first = stretch
        length = -(-self.amount // self.batch)
        start = (k * self.matching_steps + t) * length + first
        positions = randomness.endless_batches(sum(self.counts), self.batch, start, self.seed, "real stretches")
        self._coming = stretch, Ahead(map(self._gather, islice(positions, length - first)))

    def _drop(self) -> None:
        """Gather to its end what was announced and nobody wants: two threads must not share the line, and each
        worker's has to say the same on it, so that none may stop where it stands.
        """
        if self._coming is not None:
            deque(self._coming[1], maxlen=0)
            self._coming = None

    def _gather(self, positions: Tensor) -> Gathered:
        """In the thread that reads ahead."""
        ends = torch.tensor(self.counts).cumsum(0)
        labels = torch.searchsorted(ends, positions, right=True)
        within = positions - (ends - torch.tensor(self.counts))[labels]
        images = torch.zeros(len(positions), *self.shape, dtype=torch.uint8)
        own = [(c, rows) for c in self.labels if len(rows := (labels == c).nonzero().flatten())]
        found = get_many(self.source, [(c, within[rows]) for c, rows in own])
        for (_, rows), part in zip(own, found, strict=True):
            images[rows] = part.cpu()
        return self._transfer.begin(self.coordinator.fill(images)), labels

    def _ready(self, coming: Ahead[Gathered]) -> Iterator[Batch]:
        for arrival, labels in coming:
            images = to_unit(arrival.received(), self.placement.dtype)
            yield self.statistics.normalise(images), to_device(labels, self.placement.device)
        self.waited += coming.waited


class Pixels(Protocol):
    """What :class:`SyntheticBatches` reads of a shard."""

    @property
    def labels(self) -> Sequence[int]: ...

    def training_images(self, label: int) -> Tensor:
        """Decoded images of a class in normalised space ``[m, C, H, W]``."""
        ...

    def training_labels(self, label: int) -> Tensor:
        """Their learnt labels ``[m, classes]``; asked for where labels are learnt."""
        ...


@dataclass
class SyntheticBatches:
    """The synthetic images of all classes, ``epochs`` shuffled passes a stretch, incomplete batches kept.

    :param per_class: decoded images per class.
    :param soft: whether labels are learnt.
    """

    seed: int
    classes: int
    per_class: int
    shard: Pixels
    coordinator: Coordinator
    placement: Placement
    shape: tuple[int, int, int]
    batch: int
    epochs: int
    soft: bool = False
    waited: float = 0.0

    def announce(self, k: int, t: int) -> None:
        """Nothing can be done before the set is what it then will be."""

    def stretch(self, k: int, t: int, first: int = 0) -> Iterator[Batch]:
        """Passes over the set as it is now."""
        decoded = {c: self.shard.training_images(c) for c in self.shard.labels}
        learnt = {c: self.shard.training_labels(c) for c in self.shard.labels if self.soft}
        count, seed = self.classes * self.per_class, self.seed
        orders = [randomness.permutation(count, seed, "synthetic passes", k, t, epoch) for epoch in range(self.epochs)]
        for positions in [x for order in orders for x in order.split(self.batch)][first:]:
            images = self._rows(positions, decoded, *self.shape)
            labels = to_device(positions // self.per_class, self.placement.device)
            yield images, self._rows(positions, learnt, self.classes) if self.soft else labels

    def _rows(self, positions: Tensor, own: dict[int, Tensor], *shape: int) -> Tensor:
        """``[B, *shape]``: rows of the classes' tensors ``[per_class, *shape]``, from the workers that have them."""
        labels, within = positions // self.per_class, positions % self.per_class
        device, dtype = self.placement.device, self.placement.dtype
        found = torch.zeros(len(positions), *shape, dtype=dtype, device=device)
        for c, of_class in own.items():
            rows = (labels == c).nonzero().flatten()
            found[to_device(rows, device)] = of_class[to_device(within[rows], device)]
        return self.coordinator.fill(found)


class NoBatches:
    """theta is not trained."""

    waited = 0.0

    def announce(self, k: int, t: int) -> None:
        """Nothing."""

    def stretch(self, k: int, t: int, first: int = 0) -> Iterator[Batch]:
        """Nothing."""
        return iter(())
