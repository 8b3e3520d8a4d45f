"""Draws of the engine, in their order, for a loop that is written by hand.

The keys of draws are not compared: a draw is recorded where a public function of ``core`` returns it, and handed out
once. A loop that requests a draw that was not made, or leaves some, is another loop.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from dist_condense.core import cutmix, randomness
from dist_condense.core.augmentation import Strategy
from tests.golden.by_hand import Augmentation, Box

PERMUTATIONS = ("synthetic passes", "synthetic subset")
"""Purposes of the permutations that are handed out."""
AHEAD = ("matching augmentation", "synthetic subset")
"""Kinds of draws that are made one matching step ahead, one for each class."""


class Recorded:
    """Draws of each kind, in the order of their recording."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.kept: defaultdict[str, deque[Any]] = defaultdict(deque)
        self._known: set[int] = set()
        self._watch(patch)

    def next(self, kind: str) -> Any:
        """Return the next draw of a kind."""
        assert self.kept[kind], f"the engine drew no more {kind}"
        return self.kept[kind].popleft()

    def forget(self) -> None:
        """Discard all draws until now."""
        self.kept.clear()

    def augmentation(self, count: int, kind: str = "training") -> Augmentation:
        """Return the augmentation of a training batch of ``count``, one per image; ``matching``: one for a class."""
        result = self.next(f"{kind} augmentation")
        assert len(result.brightness) == count, "as many augmentations as images"
        return result

    def cutmix(self, probability: float, count: int) -> tuple[Tensor, Box]:
        """Return partners and box of a training batch of ``count``."""
        asked, n, partner, box = self.next("CutMix")
        assert (asked, n) == (probability, count), f"CutMix with probability {asked} on {n} images"
        return partner, box

    def nothing_is_left(self, classes: int = 0) -> None:
        """Check that every draw was requested but those of the next matching step, which the engine makes ahead.

        :param classes: number of classes that are matched.
        """
        left = {kind: len(draws) for kind, draws in self.kept.items() if draws}
        left = {kind: n for kind, n in left.items() if (kind, n) not in {(ahead, classes) for ahead in AHEAD}}
        assert left == {}, f"the engine drew more: {left}"

    def _watch(self, patch: pytest.MonkeyPatch) -> None:
        permutation, key, draw, mix = (
            randomness.permutation,
            randomness.key,
            Strategy.draw_each,
            cutmix.draw_cutmix,
        )

        def watched_permutation(count: int, seed: int, purpose: str, *integers: int) -> Tensor:
            result = permutation(count, seed, purpose, *integers)
            if purpose in PERMUTATIONS:
                self.kept[purpose].append(result)
            return result

        def watched_key(seed: int, purpose: str, *integers: int) -> int:
            result = key(seed, purpose, *integers)
            if purpose == "pool":
                self.kept[purpose].append(result)
            return result

        def watched_draw(strategy: Strategy, counts: Sequence[int], size: tuple[int, int], keyed: Any) -> Any:
            result = draw(strategy, counts, size, keyed)
            for n, each, generator in zip(counts, result.split(counts), keyed, strict=True):
                if generator.initial_seed() not in self._known:  # a second look at the images of a class draws the same
                    self._known.add(generator.initial_seed())
                    numbers = (each.brightness, each.saturation, each.contrast, each.warp, each.cut)
                    kind = "matching" if n == 1 else "training"
                    self.kept[f"{kind} augmentation"].append(Augmentation(*(x.tolist() for x in numbers)))
            return result

        def watched_mix(probability: float, n: int, size: tuple[int, int], generator: torch.Generator) -> Any:
            result = mix(probability, n, size, generator)
            self.kept["CutMix"].append((probability, n, result.partner, tuple(result.box.flatten().tolist())))
            return result

        patch.setattr(randomness, "permutation", watched_permutation)
        patch.setattr(randomness, "key", watched_key)
        patch.setattr(Strategy, "draw_each", watched_draw)
        patch.setattr(cutmix, "draw_cutmix", watched_mix)


def agree(ours: Tensor, by_hand: Tensor, start: Tensor, what: str, tolerance: float = 1e-10) -> None:
    """Check that both are equal to a part in 1e10 of the distance from ``start``."""
    assert ours.dtype == by_hand.dtype == torch.float64, f"{what}: {ours.dtype}, {by_hand.dtype}"
    way, error = float((by_hand - start).abs().max()), float((ours - by_hand).abs().max())
    assert way > 0, f"{what} did not move"
    assert error <= tolerance * way, f"{what}: {error:.1e} apart after a way of {way:.1e}"
