"""Global batches of synthetic images for the training of theta, to which every worker contributes its own classes."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from dist_condense.core import randomness
from dist_condense.engine.ahead import Ahead
from dist_condense.engine.coordinator import Coordinator, Placement
from dist_condense.engine.update import Batch, DrawUpdates, UpdateDraws
from dist_condense.system.transfer import Parcel, Transfer


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

    :param numbers: number of decoded images of each class, by label.
    :param soft: whether labels are learnt.
    """

    seed: int
    numbers: Sequence[int]
    shard: ImageShard
    coordinator: Coordinator
    placement: Placement
    shape: tuple[int, int, int]
    batch: int
    epochs: int
    soft: bool = False
    waited: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._transfer = Transfer(self.placement.device)

    def announce(self, k: int, t: int, draws: DrawUpdates) -> None:
        """Do nothing, because the synthetic images are not known before their segment starts."""

    def close(self) -> None:
        """Do nothing, because nothing is prepared outside of a segment."""

    def segment(self, k: int, t: int, first: int = 0, *, draws: DrawUpdates) -> Generator[Batch]:
        """Yield the batches of shuffled passes over the current synthetic images, from index ``first`` on."""
        own, place = self.shard.labels, self.placement
        decoded = _joined([self.shard.training_images(c) for c in own], self.shape, place)
        learnt = _joined([self.shard.training_labels(c) for c in own if self.soft], (len(self.numbers),), place)
        count, seed = sum(self.numbers), self.seed
        orders = (randomness.permutation(count, seed, "synthetic passes", k, t, epoch) for epoch in range(self.epochs))
        batches = islice((x for order in orders for x in order.split(self.batch)), first, None)
        ahead = Ahead(self._sent(u, positions, draws) for u, positions in enumerate(batches, first))
        try:
            for parcel in ahead:
                sent = parcel.received()
                images = self._rows(decoded, sent)
                yield Batch(images, self._rows(learnt, sent) if self.soft else sent.labels, sent.draws)
        finally:
            ahead.close()

    def _sent(self, u: int, positions: Tensor, draws: DrawUpdates) -> Parcel[Choice]:
        """Start to copy the choices of an update to the device; runs in the read-ahead thread."""
        numbers, own = torch.tensor(self.numbers), torch.tensor(self.shard.labels, dtype=torch.int64)
        ends = numbers.cumsum(0)
        labels = torch.searchsorted(ends, positions, right=True)
        first = torch.full_like(numbers, -1)  # position of the first image of a class among those of the owned classes
        first[own] = numbers[own].cumsum(0) - numbers[own]
        rows = (first[labels] >= 0).nonzero().flatten()
        sources = (first[labels] + positions - (ends - numbers)[labels])[rows]
        [drawn] = draws(u, [len(labels)], self.shape[1:]).split([len(labels)])
        return self._transfer.send(Choice(labels, rows, sources, drawn))

    def _rows(self, own: Tensor, sent: Choice) -> Tensor:
        """Return the images, or their labels, of an update ``[B, ...]``, to which every worker contributes its own.

        :param own: images, or labels, of the owned classes, one after the other.
        """
        batch = own.new_zeros(len(sent.labels), *own.shape[1:])
        batch[sent.rows] = own[sent.sources]
        return self.coordinator.fill(batch)


@dataclass(frozen=True)
class Choice:
    """Images of one update of :class:`SyntheticBatches`, and its draws."""

    labels: Tensor
    """Class of each image, int64 ``[B]``."""
    rows: Tensor
    """Which of the images are those of owned classes, int64 ``[n]``."""
    sources: Tensor
    """Their positions among the images of the owned classes, int64 ``[n]``."""
    draws: UpdateDraws


pytree.register_dataclass(Choice)


def _joined(parts: Sequence[Tensor], shape: tuple[int, ...], placement: Placement) -> Tensor:
    """Return ``[n, *shape]``: the parts one after the other; empty without parts."""
    empty = torch.zeros(0, *shape, dtype=placement.dtype, device=placement.device)
    return torch.cat([empty, *parts])
