"""Training theta on global batches, cut into slices that do not depend on the workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from dist_condense.core import augmentation, cutmix, randomness
from dist_condense.core.augmentation import Strategy
from dist_condense.core.cutmix import CutMix
from dist_condense.engine.batches import Batch
from dist_condense.engine.coordinator import Coordinator, Placement
from dist_condense.system.transfer import to_device


@dataclass(frozen=True)
class TrainingRecipe:
    """How theta moves: SGD (lr, momentum, weight_decay), augmentation per image, CutMix with a probability."""

    lr: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    strategy: Strategy = field(default_factory=Strategy)
    cutmix: float = 0.0


@dataclass(frozen=True)
class NetworkTrainer:
    """Trains theta; all workers hold the same theta before and after.

    A batch is cut into ``slices`` units; worker r computes the slices v with v % workers == r and the gradients are
    summed over slices. The result depends on ``slices``, not on who computes them.
    """

    recipe: TrainingRecipe
    coordinator: Coordinator
    placement: Placement
    seed: int
    slices: int
    autocast: bool = False
    compiled: bool = False

    def optimiser(self, network: nn.Module) -> torch.optim.SGD:
        """A fresh optimiser."""
        recipe = self.recipe
        return torch.optim.SGD(
            network.parameters(), recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )

    def train(
        self, network: nn.Module, optimiser: torch.optim.SGD, batches: Iterable[Batch], *key: int, first: int = 0
    ) -> Iterator[int]:
        """One SGD step per batch, in training mode; yields after each how many are done.

        :param first: how many were done before; ``batches`` begin after them.
        """
        network.train()
        forward = torch.compile(network) if self.compiled else network
        for u, (images, labels) in enumerate(batches, first):
            images, mix = self._augment(images, *key, u)
            self._gradients(network, forward, images, labels, mix, *key, u)
            self._share_buffers(network)
            optimiser.step()
            yield u + 1
        network.eval()

    def _augment(self, images: Tensor, *key: int) -> tuple[Tensor, CutMix]:
        generator = randomness.generator(self.seed, "training augmentation", *key)
        n, size = len(images), (images.shape[-2], images.shape[-1])
        if self.recipe.strategy:
            draw = self.recipe.strategy.draw(n, size, generator)
            images = augmentation.apply(images, draw.to(images.device, images.dtype, to_device))
        mix = cutmix.draw_cutmix(self.recipe.cutmix, n, size, generator)
        mix = replace(mix, partner=to_device(mix.partner, images.device))
        return mix.images(images), mix

    def _gradients(
        self,
        network: nn.Module,
        forward: Callable[[Tensor], Tensor],
        images: Tensor,
        labels: Tensor,
        mix: CutMix,
        *key: int,
    ) -> None:
        parameters = list(network.parameters())
        partner_labels = labels[mix.partner]
        parts = []
        device = images.device
        for v, rows in self._own_slices(len(labels)):
            keyed = randomness.layers_keyed(device, self.seed, "training layers", *key, v)
            with keyed, torch.autocast(device.type, torch.bfloat16, enabled=self.autocast):
                logits = forward(images[rows])
            loss = cutmix.mixed_loss(logits.to(images.dtype), labels[rows], partner_labels[rows], mix.weight)
            gradients = torch.autograd.grad(loss.sum() / len(labels), parameters)
            parts.append((0, torch.cat([g.flatten() for g in gradients])))
        length = sum(p.numel() for p in parameters)
        total = torch.zeros(1, length, dtype=self.placement.dtype, device=self.placement.device)
        summed = self.coordinator.sum(parts, total, terms=self.slices)[0]
        for p, g in zip(parameters, summed.split([p.numel() for p in parameters]), strict=True):
            p.grad = g.view_as(p)

    def _own_slices(self, batch: int) -> list[tuple[int, slice]]:
        """Number and rows of each that this worker computes."""
        cuts = [batch * v // self.slices for v in range(self.slices + 1)]
        own = range(self.coordinator.rank, self.slices, self.coordinator.size)
        return [(v, slice(cuts[v], cuts[v + 1])) for v in own if cuts[v] < cuts[v + 1]]

    def _share_buffers(self, network: nn.Module) -> None:
        """Running statistics of BatchNorm are those of the worker that computed the only slice."""
        buffers = [b for b in network.buffers() if b.is_floating_point()]
        if not buffers or self.coordinator.size == 1:
            return
        flat = torch.cat([b.flatten() for b in buffers]) * (self.coordinator.rank == 0)
        parts = self.coordinator.fill(flat).split([b.numel() for b in buffers])
        for buffer, part in zip(buffers, parts, strict=True):
            buffer.copy_(part.view_as(buffer))
