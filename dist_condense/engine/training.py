"""Training of theta on global batches, cut into slices that do not depend on the number of workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import KW_ONLY, dataclass, field, replace

import torch
from torch import Tensor, nn

from dist_condense.core import augmentation, cutmix, randomness
from dist_condense.core.augmentation import Strategy
from dist_condense.core.cutmix import CutMix
from dist_condense.engine.batches import Batch
from dist_condense.engine.coordinator import Coordinator, Placement
from dist_condense.engine.slices import Division
from dist_condense.system.transfer import to_device


@dataclass(frozen=True, kw_only=True)
class TrainingRecipe:
    """Hyperparameters of theta's training: SGD, augmentation per image, and CutMix with probability ``cutmix``."""

    lr: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    strategy: Strategy = field(default_factory=Strategy)
    cutmix: float = 0.0


@dataclass(frozen=True)
class NetworkTrainer:
    """Trainer of theta, which is equal on all workers before and after the training.

    A batch is cut into slices, over which gradients are summed. The result depends on the number of slices, not on the
    workers that compute them (:class:`Division`).
    """

    recipe: TrainingRecipe
    coordinator: Coordinator
    placement: Placement
    _: KW_ONLY
    seed: int
    slices: int
    autocast: bool = False
    compiled: bool = False
    division: Division = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "division", Division(self.coordinator, self.slices))

    def optimiser(self, network: nn.Module) -> torch.optim.SGD:
        """Return a new SGD optimiser for the network."""
        recipe = self.recipe
        return torch.optim.SGD(
            network.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )

    def train(
        self, network: nn.Module, optimiser: torch.optim.SGD, batches: Iterable[Batch], *key: int, first: int = 0
    ) -> Iterator[int]:
        """Take one SGD step per batch, in training mode; yield the number of completed steps after each.

        :param key: integers that, with the seed and the step, determine the random numbers.
        :param first: number of steps completed before; ``batches`` starts after them.
        """
        network.train()
        forward = torch.compile(network) if self.compiled else network
        for u, (images, labels) in enumerate(batches, first):
            update = (*key, u)
            images, mix = self._augment(images, *update)
            self._gradients(network, forward, (images, labels), mix, *update)
            optimiser.step()
            yield u + 1
        self.division.synchronise(_state(network, optimiser))
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
        batch: Batch,
        mix: CutMix,
        *key: int,
    ) -> None:
        images, labels = batch
        parameters, partner_labels, device = list(network.parameters()), labels[mix.partner], images.device

        def gradient(v: int, rows: slice) -> Tensor:
            keyed = randomness.layers_keyed(device, self.seed, "training layers", *key, v)
            with keyed, torch.autocast(device.type, torch.bfloat16, enabled=self.autocast):
                logits = forward(images[rows])
            loss = cutmix.mixed_loss(logits.to(images.dtype), labels[rows], partner_labels[rows], mix.weight)
            return torch.cat([g.flatten() for g in torch.autograd.grad(loss.sum() / len(labels), parameters)])

        sizes = [p.numel() for p in parameters]
        total = torch.zeros(1, sum(sizes), dtype=self.placement.dtype, device=self.placement.device)
        summed = self.division.sum(len(labels), gradient, total)
        for p, g in zip(parameters, summed.split(sizes), strict=True):
            p.grad = g.view_as(p)


def _state(network: nn.Module, optimiser: torch.optim.SGD) -> list[Tensor]:
    """Return the floating-point weights, running statistics and momentum."""
    momentum = [state.get("momentum_buffer") for state in optimiser.state.values()]
    tensors = [*network.state_dict().values(), *(x for x in momentum if x is not None)]
    return [x for x in tensors if x.is_floating_point()]
