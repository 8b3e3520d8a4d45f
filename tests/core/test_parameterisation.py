"""Multi-formation pads the same grey in both spaces."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dist_condense.core.parameterisation import bounded, multi, normalised_padding, pad, tiles, uniform

MEAN, STD = (0.2, 0.5, 0.7), (0.1, 0.25, 0.3)


def by_hand(images: Tensor, factor: int, padding: Sequence[float]) -> Tensor:
    """Tile after tile, pixel after pixel: what lies outside of the image is the padding."""
    number, channels, side = images.shape[:3]
    small = (side + factor - 1) // factor
    decoded = []
    for row in range(factor):
        for column in range(factor):
            tile = torch.empty(number, channels, small, small, dtype=images.dtype)
            for c in range(channels):
                for i in range(small):
                    for j in range(small):
                        y, x = row * small + i, column * small + j
                        inside = y < side and x < side
                        tile[:, c, i, j] = images[:, c, y, x] if inside else padding[c]
            decoded.append(F.interpolate(tile, size=(side, side), mode="bilinear", align_corners=False))
    return torch.cat(decoded)


@pytest.mark.parametrize(("factor", "side"), [(2, 6), (2, 5), (3, 8), (3, 4)])
def test_tiles_are_padded_per_channel(factor: int, side: int) -> None:
    images = torch.rand(2, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    grey = [(0.5 - m) / s for m, s in zip(MEAN, STD, strict=True)]
    assert torch.allclose(tiles(images, factor, grey), by_hand(images, factor, grey), rtol=0, atol=1e-14)
    assert torch.allclose(tiles(images, factor), by_hand(images, factor, [0.5] * 3), rtol=0, atol=1e-14)


@pytest.mark.parametrize("decoding", [uniform, multi, bounded])
def test_decoding_normalised_pixels_is_normalising_decoded_ones(decoding) -> None:
    images = torch.rand(5, 3, 7, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    mean, std = (torch.tensor(x, dtype=torch.float64)[:, None, None] for x in (MEAN, STD))
    held, sources = decoding((images - mean) / std, 3, 20, normalised_padding(MEAN, STD))
    unit, same = decoding(images, 3, 20)
    assert torch.equal(sources, same)
    torch.testing.assert_close(held * std + mean, unit, rtol=0, atol=1e-14)


def test_a_gradient_goes_to_the_image_and_not_into_the_padding() -> None:
    images = torch.zeros(1, 1, 2, 2)
    padded, back = torch.func.vjp(lambda x: pad(x, 3, (0.25,)), images)
    assert padded[0, 0].tolist() == [[0, 0, 0.25], [0, 0, 0.25], [0.25, 0.25, 0.25]]
    (gradient,) = back(torch.arange(9.0).view(1, 1, 3, 3))
    assert gradient[0, 0].tolist() == [[0, 1], [3, 4]]
