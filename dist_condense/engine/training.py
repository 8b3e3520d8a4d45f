"""Training of theta on global batches, cut into slices that do not depend on the number of workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dist_condense.core import cutmix, randomness
from dist_condense.core.augmentation import Strategy
from dist_condense.core.cutmix import CutMixes
from dist_condense.core.program import Captured, Record, compiled
from dist_condense.engine import update
from dist_condense.engine.coordinator import Coordinator, Placement
from dist_condense.engine.slices import Division
from dist_condense.engine.update import Batch, BlockDraws, DrawUpdates, Prepared

Loss = Callable[[nn.Module, Prepared, bool], Tensor]
"""Function like :func:`dist_condense.engine.update.loss`."""
Gradient = Callable[[nn.Module, Prepared], Tensor]
"""Function from a network and a slice of a batch to the gradient of its loss, flattened, ``[length]``."""
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
    capture: Record | None = None
    """Record of updates, which are then replayed (:func:`cuda_graph`); None: updates are not captured."""
    division: Division = field(init=False)
    _loss: Loss = field(init=False, repr=False, compare=False)
    _replayed: Captured[tuple[()]] | None = field(default=None, init=False, repr=False, compare=False)
    """A whole update, for workers that compute all slices."""
    _replayed_slice: Captured[Tensor] | None = field(default=None, init=False, repr=False, compare=False)
    _optimisers: dict[nn.Module, torch.optim.SGD] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Optimiser with which each network is trained at present."""
    _momentum: dict[nn.Parameter, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)
    _draws: dict[nn.Module, bool] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Whether the layers of a network draw numbers by themselves, known after its first update."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "division", Division(self.coordinator, self.slices))
        object.__setattr__(self, "_loss", compiled(update.loss, "an update of theta") if self.compiled else update.loss)
        if self.capture is not None:
            object.__setattr__(self, "_replayed", Captured(self._update_current, record=self._record))
            object.__setattr__(self, "_replayed_slice", Captured(self.gradient, record=self._record))

    def optimiser(self, network: nn.Module) -> torch.optim.SGD:
        """Return a new SGD optimiser for the network."""
        recipe = self.recipe
        return torch.optim.SGD(
            network.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )

    def draws(self, *key: int) -> DrawUpdates:
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
                self._adopt(network, optimiser)
            keyed = partial(self._keyed, network, *key, u)
            if not self._replayed or not self._replayed_slice or self._draws.get(network, True):
                self.update(network, optimiser, batch, self.gradient, keyed)
            elif self.division.everywhere:
                self._replayed(network, batch)
            else:
                self.update(network, optimiser, batch, self._replayed_slice)
            yield u + 1
        self.division.synchronise(_state(network, optimiser))
        network.eval()

    def update(
        self,
        network: nn.Module,
        optimiser: torch.optim.SGD,
        batch: Batch,
        gradient: Gradient,
        keyed: Keyed = lambda v: nullcontext(),
    ) -> None:
        """Take one SGD step, which changes theta and its momentum in place.

        Where this worker computes all slices, this is a function of tensors that never waits for the device.

        :param gradient: :meth:`gradient`, or a recording of it.
        :param keyed: returns a context for slice v, which seeds the draws of layers on the host.
        """
        prepared = update.prepare(batch)

        def part(v: int, rows: slice) -> Tensor:
            with keyed(v):
                return gradient(network, prepared.rows(rows))

        length = sum(p.numel() for p in network.parameters())
        total = torch.zeros(1, length, dtype=self.placement.dtype, device=self.placement.device)
        update.step(optimiser, self.division.sum(len(prepared.labels), part, total))

    def gradient(self, network: nn.Module, part: Prepared) -> Tensor:
        """Return the gradient of the loss of some images (:func:`update.loss`), flattened, ``[length]``."""
        loss = self._loss(network, part, self.autocast)
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(network.parameters()))])

    def _draw(self, key: tuple[int, ...], first: int, counts: Sequence[int], size: tuple[int, int]) -> BlockDraws:
        recipe, updates = self.recipe, range(first, first + len(counts))
        keyed = [randomness.generator(self.seed, "training augmentation", *key, u) for u in updates]
        draw = recipe.strategy.draw_each(counts, size, keyed).to(CPU, self.placement.dtype) if recipe.strategy else None
        if not recipe.cutmix:
            return BlockDraws(draw)
        mixes = [cutmix.draw_cutmix(recipe.cutmix, n, size, x) for n, x in zip(counts, keyed, strict=True)]
        return BlockDraws(draw, CutMixes.of(mixes))

    @contextmanager
    def _keyed(self, network: nn.Module, *key: int) -> Iterator[None]:
        """Seed the draws of layers in this context, and note whether there are any."""
        with randomness.layers_keyed(self.placement.device, self.seed, "training layers", *key) as drawn:
            yield
            if self._replayed and not self._draws.get(network):
                self._draws[network] = drawn()

    def _adopt(self, network: nn.Module, optimiser: torch.optim.SGD) -> None:
        """Make the optimiser use the one momentum of this network, so that updates change the same memory for ever."""
        self._optimisers[network] = optimiser
        for group in optimiser.param_groups:
            for parameter in group["params"] if group["momentum"] else ():
                if parameter not in self._momentum:
                    self._momentum[parameter] = torch.zeros_like(parameter)
                momentum = self._momentum[parameter]
                stored = optimiser.state[parameter].get("momentum_buffer")
                if stored is None:
                    momentum.zero_()  # the first step adds the gradient to 0 times the momentum
                elif stored is not momentum:
                    momentum.copy_(stored)
                optimiser.state[parameter]["momentum_buffer"] = momentum

    def _update_current(self, network: nn.Module, batch: Batch) -> tuple[()]:
        """Take an SGD step with the network's present optimiser."""
        self.update(network, self._optimisers[network], batch, self.gradient)
        return ()

    def _record(self, function: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        """Record an update, and undo the ones that were made for it."""
        assert self.capture is not None
        tensors = [x for network, optimiser in self._optimisers.items() for x in _all(network, optimiser)]
        before = [x.clone() for x in tensors]
        recorded = self.capture(function)
        for x, y in zip(tensors, before, strict=True):
            x.copy_(y)
        return recorded


def _all(network: nn.Module, optimiser: torch.optim.SGD) -> list[Tensor]:
    """Return the weights, buffers and momentum."""
    momentum = [state.get("momentum_buffer") for state in optimiser.state.values()]
    return [*network.state_dict().values(), *(x for x in momentum if x is not None)]


def _state(network: nn.Module, optimiser: torch.optim.SGD) -> list[Tensor]:
    """Return the floating-point weights, running statistics and momentum."""
    return [x for x in _all(network, optimiser) if x.is_floating_point()]
