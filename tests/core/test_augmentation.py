"""A strategy applies every operation that it lists, also several warps."""

from __future__ import annotations

import itertools
from dataclasses import fields

import pytest
import torch
from torch import Tensor

from dist_condense.core.augmentation import OPERATIONS, Draw, Sampler, Strategy, apply, neutral, warp

SIZE = (64, 48)
SEEDS = range(4)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ramp() -> Tensor:
    """Return an image with one linear channel for the rows and one for the columns, on which interpolation is exact."""
    rows, columns = (torch.linspace(-1, 1, side, dtype=torch.float64) for side in SIZE)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[None]


def drawn(names: tuple[str, ...], seed: int) -> list[Draw]:
    """Return a draw of each operation alone, in the order of the table, from the random numbers of one strategy."""
    sampler = Sampler(1, SIZE, generator(seed))
    return [OPERATIONS[name](neutral(1), sampler) for name in OPERATIONS if name in names]


def middle(images: Tensor) -> Tensor:
    """Return the pixels that no border reaches."""
    return images[..., 26:38, 20:28]


WARPS = [
    name
    for name in OPERATIONS
    if any(not torch.equal(x.warp, neutral(1).warp) for s in SEEDS for x in drawn((name,), s))
]


def test_the_warps() -> None:
    assert WARPS == ["flip", "crop", "scale", "rotate"]


@pytest.mark.parametrize("names", [names for n in (2, 3, 4) for names in itertools.permutations(WARPS, n)])
def test_several_warps_are_applied_one_after_the_other(names: tuple[str, ...]) -> None:
    for seed in SEEDS:
        expected = ramp()
        for each in drawn(names, seed):
            expected = warp(expected, each)
        found = warp(ramp(), Strategy(always=names).draw(1, SIZE, generator(seed)))
        torch.testing.assert_close(middle(found), middle(expected), rtol=0, atol=1e-12)


@pytest.mark.parametrize("names", list(itertools.combinations(OPERATIONS, 2)))
def test_no_operation_is_lost(names: tuple[str, str]) -> None:
    """Without one of two operations, the images are others."""
    images = torch.rand(1, 3, *SIZE, generator=generator(9), dtype=torch.float64)
    for left_out in names:
        pairs = (Strategy(always=x).draw(8, SIZE, generator(1)) for x in (names, (left_out,)))
        both, one = (apply(images.expand(8, -1, -1, -1), draw) for draw in pairs)
        assert not torch.allclose(both, one)


def test_a_warp_that_is_always_applied_joins_the_one_that_is_drawn() -> None:
    strategy = Strategy(always=("crop",), one_of=("rotate",))
    shifts = strategy.draw(32, SIZE, generator(2)).warp
    assert (shifts[:, 0, 1] != 0).all()  # rotated
    assert (shifts[:, :, 2] != 0).any()  # shifted


@pytest.mark.parametrize(
    "strategy",
    [
        Strategy(one_of=tuple(OPERATIONS)),
        Strategy(always=("flip", "color", "rotate", "cutout")),
        Strategy(always=("color",), one_of=("crop", "scale", "rotate")),
    ],
)
@pytest.mark.parametrize("counts", [[64] * 7, [5, 1, 64, 3, 3, 40, 64]])
def test_batches_drawn_together_are_those_drawn_alone(strategy: Strategy, counts: list[int]) -> None:
    """In every bit, whatever the place of a batch among the others, and whichever operations these have."""
    for seed in range(0, 70, 7):
        together = strategy.draw_each(counts, SIZE, [generator(seed + i) for i in range(7)]).split(counts)
        for i, (n, found) in enumerate(zip(counts, together, strict=True)):
            alone = strategy.draw(n, SIZE, generator(seed + i))
            assert all(torch.equal(getattr(found, x.name), getattr(alone, x.name)) for x in fields(Draw))
