"""Sampling with a deterministic backward pass equals torch's, and is used where deterministic algorithms are on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dist_condense.core import augmentation, sampling
from dist_condense.core.augmentation import OPERATIONS, Strategy
from dist_condense.core.parameterisation import MultiFormation
from dist_condense.system.processor import deterministic_kernels

SIZE = (11, 14)
WARPS = (
    Strategy(one_of=("crop",)),
    Strategy(one_of=("scale",)),
    Strategy(one_of=("rotate",)),
    Strategy(tuple(OPERATIONS)),
)


def images(n: int = 5) -> Tensor:
    return torch.randn(n, 3, *SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def assert_equal(one: Callable[[Tensor], Tensor], other: Callable[[Tensor], Tensor]) -> None:
    """Compare the values and the gradients of two functions of images."""
    (x, x_back), (y, y_back) = (torch.func.vjp(function, images()) for function in (one, other))
    torch.testing.assert_close(x, y, rtol=0, atol=1e-13)
    v = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(x_back(v), y_back(v), rtol=0, atol=1e-13)


@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("strategy", WARPS, ids=["crop", "scale", "rotate", "all"])
def test_warps_equal_those_of_torch(strategy: Strategy, n: int) -> None:
    draw = strategy.draw(n, SIZE, torch.Generator().manual_seed(3))
    grid = F.affine_grid(draw.warp.expand(5, 2, 3), [5, 3, *SIZE], align_corners=False)
    torch.testing.assert_close(sampling.affine_grid(draw.warp, SIZE).expand_as(grid), grid, rtol=0, atol=1e-15)
    assert_equal(lambda x: sampling.warped(x, draw.warp), lambda x: augmentation.warp(x, draw))


@pytest.mark.parametrize("size", [(22, 28), (32, 33), (11, 20), (7, 9)])
def test_sizes_change_as_by_torch(size: tuple[int, int]) -> None:
    whole = torch.nn.Upsample(size, mode="bilinear")
    assert_equal(lambda x: sampling.resized(x, size), whole)


@pytest.mark.parametrize("function", ["warped", "resized"])
def test_the_forms_are_used_where_deterministic_algorithms_are_on(
    function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, form, calls = Strategy(("scale",)).draw(1, SIZE, torch.Generator()), MultiFormation(2), list[int]()
    whole = getattr(sampling, function)
    monkeypatch.setattr(sampling, function, lambda *given: calls.append(1) or whole(*given))
    use = {"warped": lambda: augmentation.apply(images(), draw), "resized": lambda: form.decode(images())}[function]
    without = use()
    assert not calls
    with deterministic_kernels():
        torch.testing.assert_close(use(), without, rtol=0, atol=1e-13)
    assert calls == [1]


def test_two_warps_of_a_pixel_in_the_corner_add_up() -> None:
    """Samples outside of the image have no weight, though they are gathered at its border."""
    shift = torch.tensor([[[1.0, 0, 0.5], [0, 1, 0.5]]], dtype=torch.float64)
    moved, back = torch.func.vjp(lambda x: sampling.warped(x, shift), torch.ones(2, 1, 4, 4, dtype=torch.float64))
    assert moved[0, 0].tolist() == [[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0]]
    (gradient,) = back(torch.ones_like(moved))
    assert gradient[0, 0].tolist() == [[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 1, 1], [0, 1, 1, 1]]
