"""Passes over real images in which every worker trains another network, on batches of its own.

The owner of each class sends its images to the workers whose batches contain them, so a worker receives its own batches
only.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dist_condense.data.reading.source import get_many
from dist_condense.engine.batches import Gathered, RealBatches, rows_by_label
from dist_condense.engine.update import Batch, Block, BlockDraws, DrawUpdates


@dataclass(frozen=True)
class OwnPasses:
    """Batches of passes over all real images, other ones for each of the first workers.

    :param keys: integers that, with the seed, determine the shuffles of a worker, by rank. Workers with higher ranks
        get empty batches, as many as the others.
    """

    real: RealBatches
    keys: Sequence[tuple[int, ...]]

    def batches(self, epochs: int, draws: DrawUpdates) -> Generator[Batch]:
        """Yield the batches of this worker, those of ``real.passes(epochs, *keys[rank])``.

        All workers must take as many of them, because they exchange images.
        """
        real = self.real
        real.drop()
        owners = torch.zeros(len(real.counts), dtype=torch.int64)
        for rank, labels in enumerate(real.coordinator.gather(list(real.labels))):
            owners[labels] = rank
        orders = zip(*(real.orders(epochs, *key) for key in self.keys), strict=True)
        together = (batches for each in orders for batches in zip(*each, strict=True))
        blocks = real.blocks(together, 0)
        return real.ready(real.ahead(self._gather(owners, u, block, draws) for u, block in blocks))

    def _gather(self, owners: Tensor, u: int, block: Sequence[tuple[Tensor, ...]], draws: DrawUpdates) -> Gathered:
        """Send the images of owned classes to the workers whose batches contain them, and gather this worker's own.

        :param owners: rank of the owner of each class.
        :param u: number of the update with the first batch.
        :param block: positions of the images in the batches of each update, by rank.
        """
        real, rank = self.real, self.real.coordinator.rank
        sizes = [len(batches[0]) for batches in block]
        labels, within = zip(*(real.located(torch.cat(batches)) for batches in zip(*block, strict=True)), strict=True)
        mine = [owners[x] == rank for x in labels]
        images = self._images(torch.cat(labels)[torch.cat(mine)], torch.cat(within)[torch.cat(mine)])
        sent = [int(x.sum()) for x in mine] + [0] * (real.coordinator.size - len(mine))
        if rank >= len(labels):
            real.coordinator.all_to_all(images, sent, [0] * real.coordinator.size)
            empty = Block(images[:0], labels[0][:0], BlockDraws(), real.normalised)
            return [0] * len(sizes), real.sent(empty)
        of_rows = owners[labels[rank]]
        received = of_rows.bincount(minlength=real.coordinator.size).tolist()
        arrived = real.coordinator.all_to_all(images, sent, received)
        order = of_rows.argsort(stable=True).argsort()  # images arrive from worker after worker
        drawn = draws(u, sizes, real.shape[1:])
        return sizes, real.sent(Block(arrived.index_select(0, order), labels[rank], drawn, real.normalised))

    def _images(self, labels: Tensor, within: Tensor) -> Tensor:
        """Return stored images of owned classes, at positions in their classes, in this order."""
        rows = rows_by_label(labels)
        parts = get_many(self.real.source, [(c, within[at]) for c, at in rows.items()])
        return self.real.in_order(list(rows.values()), parts, len(labels))
