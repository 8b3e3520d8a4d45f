"""Random choices of a matching step, except its real images; made before the step and copied to the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dist_condense.core import randomness
from dist_condense.core.augmentation import Draw, Strategy
from dist_condense.engine.coordinator import Placement
from dist_condense.engine.matching.recipe import MatchingRecipe
from dist_condense.system.transfer import to_device


@dataclass(frozen=True)
class Drawn:
    """Random choices for one class at one matching step."""

    label: Tensor
    """Label of the class, int64 ``[1]``."""
    augmentation: Draw | None
    """One draw for all images of the class, real and synthetic; None: no augmentation."""
    subset: Tensor | None
    """Positions of the decoded images that take part, int64; None: all."""


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Source of a worker's random choices, keyed by (seed, step, class).

    :param size: height and width of an image.
    :param decoded: number of decoded images of a class; if it exceeds ``limit``, a subset is drawn.
    :param limit: maximum number of decoded images of a class in one step.
    """

    seed: int
    strategy: Strategy
    size: tuple[int, int]
    decoded: int
    limit: int
    placement: Placement

    @classmethod
    def of(
        cls, recipe: MatchingRecipe, *, seed: int, shape: tuple[int, int, int], ipc: int, placement: Placement
    ) -> Draws:
        """Return the source for a method and images of ``shape`` = (C, h, w), with ``ipc`` learnt images per class."""
        return cls(
            seed=seed,
            strategy=recipe.strategy,
            size=shape[1:],
            decoded=recipe.parameterisation.count(ipc),
            limit=recipe.synthetic_limit,
            placement=placement,
        )

    def draw(self, label: int, visit: int) -> Drawn:
        """Draw the random choices for a class at one matching step.

        :param visit: number of matching steps before this one, over all networks.
        """
        device, augmentation, subset = self.placement.device, None, None
        if self.strategy:
            keyed = randomness.generator(self.seed, "matching augmentation", visit, label)
            augmentation = self.strategy.draw(1, self.size, keyed).to(device, self.placement.dtype, to_device)
        if self.decoded > self.limit:
            order = randomness.permutation(self.decoded, self.seed, "synthetic subset", visit, label)
            subset = to_device(order[: self.limit], device)
        return Drawn(to_device(torch.tensor([label]), device), augmentation, subset)
