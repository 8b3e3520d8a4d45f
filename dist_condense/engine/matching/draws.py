"""Random choices of a matching step, except its real images; made before the step and copied to the device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from dist_condense.core import randomness
from dist_condense.core.augmentation import Draw, Strategy
from dist_condense.engine.coordinator import Placement
from dist_condense.engine.matching.recipe import MatchingRecipe
from dist_condense.system.transfer import together


@dataclass(frozen=True)
class Drawn:
    """Random choices for one class at one matching step."""

    label: Tensor
    """Label of the class, int64 ``[1]``."""
    augmentation: Draw | None
    """One draw for all images of the class, real and synthetic; None: no augmentation."""
    subset: Tensor | None
    """Positions of the decoded images that take part, int64; None: all."""


pytree.register_dataclass(Drawn)


@dataclass(kw_only=True)
class Draws:
    """Source of a worker's random choices, keyed by (seed, step, class).

    :param size: height and width of an image.
    :param decoded: number of decoded images of each owned class; if it exceeds ``limit``, a subset is drawn.
    :param limit: maximum number of decoded images of a class in one step.
    """

    seed: int
    strategy: Strategy
    size: tuple[int, int]
    decoded: Mapping[int, int]
    limit: int
    placement: Placement
    _next: tuple[int, dict[int, Drawn]] | None = field(default=None, init=False)

    @classmethod
    def source(
        cls,
        recipe: MatchingRecipe,
        *,
        seed: int,
        numbers: Mapping[int, int],
        shape: tuple[int, int, int],
        placement: Placement,
    ) -> Draws:
        """Return the source for a method and images of ``shape`` = (C, h, w).

        :param numbers: number of learnt images of each owned class, by label.
        """
        return cls(
            seed=seed,
            strategy=recipe.strategy,
            size=shape[1:],
            decoded={c: recipe.parameterisation.count(ipc) for c, ipc in numbers.items()},
            limit=recipe.synthetic_limit,
            placement=placement,
        )

    def of(self, visit: int) -> dict[int, Drawn]:
        """Return the random choices of all owned classes at one matching step, by label, on the device.

        :param visit: number of matching steps before this one, over all networks.
        """
        if self._next is None or self._next[0] != visit:
            self.prepare(visit)
        (_, drawn), self._next = self._next, None  # type: ignore[misc]
        return drawn

    def prepare(self, visit: int) -> None:
        """Draw the choices of a matching step, while the device still computes the step before.

        They reach the device in one copy.
        """
        self._next = visit, together({c: self._draw(c, visit) for c in self.decoded}, self.placement.device)

    def _draw(self, label: int, visit: int) -> Drawn:
        augmentation, subset = None, None
        if self.strategy:
            keyed = randomness.generator(self.seed, "matching augmentation", visit, label)
            augmentation = self.strategy.draw(1, self.size, keyed).to(torch.device("cpu"), self.placement.dtype)
        if (decoded := self.decoded[label]) > self.limit:
            order = randomness.permutation(decoded, self.seed, "synthetic subset", visit, label)
            subset = order[: self.limit]
        return Drawn(torch.tensor([label]), augmentation, subset)
