"""Global batches that train theta: the key says which images, the owners contribute theirs.

A batch does not know the workers: every worker ends up with the same rows, so that CutMix mixes the whole batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dist_condense.core import randomness
from dist_condense.data.normalise import normalise, to_unit
from dist_condense.data.source import ClassSource
from dist_condense.engine.coordinator import Coordinator, Placement

Batch = tuple[Tensor, Tensor]
"""Images ``[B, C, H, W]`` in normalised space and labels int64 ``[B]``, the same on every worker."""


@dataclass(frozen=True)
class Statistics:
    """Mean and std per channel of the real training images in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def normalise(self, images: Tensor) -> Tensor:
        """[0, 1] to normalised space."""
        return normalise(images, self.mean, self.std)


class Batches(Protocol):
    """A source of global batches for one stretch of training, keyed by ``key``."""

    def stretch(self, *key: int) -> Iterator[Batch]: ...


@dataclass(frozen=True)
class RealBatches:
    """Real images of all classes.

    :param counts: real images of every class, also of those that others own.
    :param amount: images of one stretch; whole batches until reached (500 by 64: 512), drawn without replacement.
    """

    seed: int
    counts: Sequence[int]
    source: ClassSource
    labels: Sequence[int]
    statistics: Statistics
    coordinator: Coordinator
    placement: Placement
    shape: tuple[int, int, int]
    batch: int
    amount: int

    def stretch(self, *key: int) -> Iterator[Batch]:
        """As many whole batches as ``amount`` needs."""
        wanted = -(-self.amount // self.batch) * self.batch
        order = randomness.draw_without_replacement(sum(self.counts), wanted, self.seed, "real batches", *key)
        return map(self._load, order.split(self.batch))

    def passes(self, epochs: int, *key: int) -> Iterator[Batch]:
        """``epochs`` shuffled passes over all real images, the incomplete batch of a pass kept."""
        for epoch in range(epochs):
            order = randomness.permutation(sum(self.counts), self.seed, "real passes", *key, epoch)
            yield from map(self._load, order.split(self.batch))

    def _load(self, positions: Tensor) -> Batch:
        ends = torch.tensor(self.counts).cumsum(0)
        labels = torch.searchsorted(ends, positions, right=True)
        within = positions - (ends - torch.tensor(self.counts))[labels]
        images = torch.zeros(len(positions), *self.shape, dtype=torch.uint8)
        for c in self.labels:
            rows = (labels == c).nonzero().flatten()
            if len(rows):
                images[rows] = self.source.get(c, within[rows])
        device = self.placement.device
        images = self.coordinator.fill(images.to(device, non_blocking=True))
        return self.statistics.normalise(to_unit(images, self.placement.dtype)), labels.to(device)


class Pixels(Protocol):
    """What :class:`SyntheticBatches` reads of a shard."""

    @property
    def labels(self) -> Sequence[int]: ...

    def training_images(self, label: int) -> Tensor:
        """Decoded images of a class in normalised space ``[m, C, H, W]``."""
        ...


@dataclass(frozen=True)
class SyntheticBatches:
    """The synthetic images of all classes, ``epochs`` shuffled passes a stretch, incomplete batches kept.

    :param per_class: decoded images per class.
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

    def stretch(self, *key: int) -> Iterator[Batch]:
        """Passes over the set as it is now."""
        decoded = {c: self.shard.training_images(c) for c in self.shard.labels}
        for epoch in range(self.epochs):
            order = randomness.permutation(self.classes * self.per_class, self.seed, "synthetic passes", *key, epoch)
            for positions in order.split(self.batch):
                yield self._load(positions, decoded)

    def _load(self, positions: Tensor, decoded: dict[int, Tensor]) -> Batch:
        labels, within = positions // self.per_class, positions % self.per_class
        device, dtype = self.placement.device, self.placement.dtype
        images = torch.zeros(len(positions), *self.shape, dtype=dtype, device=device)
        for c, own in decoded.items():
            rows = (labels == c).nonzero().flatten()
            images[rows.to(device)] = own[within[rows].to(device)]
        return self.coordinator.fill(images), labels.to(device)


class NoBatches:
    """theta is not trained."""

    def stretch(self, *key: int) -> Iterator[Batch]:
        """Nothing."""
        return iter(())
