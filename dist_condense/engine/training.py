"""Training of theta on global batches, cut into slices that do not depend on the number of workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import KW_ONLY, dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from dist_condense.core import cutmix, randomness
from dist_condense.core.augmentation import Strategy
from dist_condense.engine import update
from dist_condense.engine.coordinator import Coordinator, Placement
from dist_condense.engine.slices import Division
from dist_condense.engine.update import Batch, DrawUpdate, Prepared, UpdateDraws
from dist_condense.system.program import compiled

Loss = Callable[[nn.Module, Prepared, int, bool], Tensor]
"""Function like :func:`dist_condense.engine.update.loss`."""
Keyed = Callable[[int], AbstractContextManager[None]]
CPU = torch.device("cpu")


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
    _loss: Loss = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "division", Division(self.coordinator, self.slices))
        object.__setattr__(self, "_loss", compiled(update.loss) if self.compiled else update.loss)

    def optimiser(self, network: nn.Module) -> torch.optim.SGD:
        """Return a new SGD optimiser for the network."""
        recipe = self.recipe
        return torch.optim.SGD(
            network.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )

    def draws(self, *key: int) -> DrawUpdate:
        """Return the function that makes the random choices of the updates of one training.

        :param key: integers that, with the seed and the number of the update, determine the random numbers.
        """
        return partial(self._draw, key)

    def train(
        self, network: nn.Module, optimiser: torch.optim.SGD, batches: Iterable[Batch], *key: int, first: int = 0
    ) -> Iterator[int]:
        """Take one SGD step per batch, in training mode; yield the number of completed steps after each.

        :param batches: batches with the draws of :meth:`draws` for the same ``key``.
        :param key: integers that, with the seed and the step, determine the random numbers of layers.
        :param first: number of steps completed before; ``batches`` starts after them.
        """
        network.train()
        for u, batch in enumerate(batches, first):
            if u == first:
                update.zero_momentum(optimiser)
            self.update(network, optimiser, batch, partial(self._keyed, *key, u))
            yield u + 1
        self.division.synchronise(_state(network, optimiser))
        network.eval()

    def update(
        self, network: nn.Module, optimiser: torch.optim.SGD, batch: Batch, keyed: Keyed = lambda v: nullcontext()
    ) -> None:
        """Take one SGD step, which changes theta and its momentum in place; the momentum must be allocated.

        Where this worker computes all slices, this is a function of tensors that never waits for the device.

        :param keyed: returns a context for slice v, which seeds the draws of layers on the host.
        """
        prepared, parameters = update.prepare(batch), list(network.parameters())
        count = len(prepared.labels)

        def gradient(v: int, rows: slice) -> Tensor:
            with keyed(v):
                loss = self._loss(network, prepared.rows(rows), count, self.autocast)
            return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])

        length = sum(p.numel() for p in parameters)
        total = torch.zeros(1, length, dtype=self.placement.dtype, device=self.placement.device)
        update.step(optimiser, self.division.sum(count, gradient, total))

    def _draw(self, key: tuple[int, ...], u: int, shape: Sequence[int]) -> UpdateDraws:
        recipe, generator = self.recipe, randomness.generator(self.seed, "training augmentation", *key, u)
        n, size = shape[0], (shape[-2], shape[-1])
        draw = recipe.strategy.draw(n, size, generator).to(CPU, self.placement.dtype) if recipe.strategy else None
        mix = cutmix.draw_cutmix(recipe.cutmix, n, size, generator)
        return UpdateDraws(draw, mix if recipe.cutmix else None)

    def _keyed(self, *key: int) -> AbstractContextManager[None]:
        return randomness.layers_keyed(self.placement.device, self.seed, "training layers", *key)


def _state(network: nn.Module, optimiser: torch.optim.SGD) -> list[Tensor]:
    """Return the floating-point weights, running statistics and momentum."""
    momentum = [state.get("momentum_buffer") for state in optimiser.state.values()]
    tensors = [*network.state_dict().values(), *(x for x in momentum if x is not None)]
    return [x for x in tensors if x.is_floating_point()]
