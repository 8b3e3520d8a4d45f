"""Multi-formation pads the same grey in both spaces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dist_condense.core.parameterisation import DECODINGS, Decoding, MultiFormation, pad, tiles
from dist_condense.data.normalise import ChannelStatistics
from dist_condense.data.space import Space

MEAN, STD = (0.2, 0.5, 0.7), (0.1, 0.25, 0.3)


def by_hand(images: Tensor, factor: int, padding: Sequence[float]) -> Tensor:
    """Decode tile by tile and pixel by pixel; pixels outside of the image are the padding."""
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
    square = factor, factor
    assert torch.allclose(tiles(images, square, grey), by_hand(images, factor, grey), rtol=0, atol=1e-14)
    assert torch.allclose(tiles(images, square, (0.5,)), by_hand(images, factor, [0.5] * 3), rtol=0, atol=1e-14)


@pytest.mark.parametrize(("axes", "decoded"), [("width", 3), ("height", 3), ("both", 9)])
@pytest.mark.parametrize("decoding", DECODINGS.values(), ids=DECODINGS)
def test_tiles_along_one_axis_of_images_that_are_not_square(axes: str, decoded: int, decoding: Decoding) -> None:
    images = torch.rand(2, 1, 5, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    form = MultiFormation(3, decoding, budget=12, padding=(0.0,), axes=axes)
    tall, wide = 3 if axes != "width" else 1, 3 if axes != "height" else 1
    result = form.decode_for_training(images)
    assert len(result) == 2 * form.tiles == 2 * decoded
    height, width = -(-5 // tall), -(-11 // wide)
    padded = F.pad(images, (0, width * wide - 11, 0, height * tall - 5))
    cut = [padded[..., y * height :, x * width :][..., :height, :width] for y in range(tall) for x in range(wide)]
    expected = F.interpolate(torch.cat(cut), size=(5, 11), mode="bilinear", align_corners=False)
    assert torch.equal(result, expected)
    sources = form.origins(2).source
    assert len(form.decode(images)) == len(sources) == form.count(2)
    ones = form.decode(images.new_tensor([1.0, 2.0])[:, None, None, None].expand(-1, 1, 6, 12))
    assert torch.equal(ones[:, 0, 2, 2], sources + 1.0)


@pytest.mark.parametrize("decoding", DECODINGS.values(), ids=DECODINGS)
def test_decoding_normalised_pixels_is_normalising_decoded_ones(decoding) -> None:
    images = torch.rand(5, 3, 7, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    mean, std = (torch.tensor(x, dtype=torch.float64)[:, None, None] for x in (MEAN, STD))
    space = Space(ChannelStatistics(MEAN, STD))
    form = MultiFormation(3, decoding, budget=20, padding=space.pixel_padding)
    normalised = replace(form, padding=space.when_normalised().pixel_padding)
    result = normalised.decode((images - mean) / std)
    torch.testing.assert_close(result * std + mean, form.decode(images), rtol=0, atol=1e-14)


def test_a_gradient_goes_to_the_image_and_not_into_the_padding() -> None:
    images = torch.zeros(1, 1, 2, 2)
    padded, back = torch.func.vjp(lambda x: pad(x, (3, 3), (0.25,)), images)
    assert padded[0, 0].tolist() == [[0, 0, 0.25], [0, 0, 0.25], [0.25, 0.25, 0.25]]
    (gradient,) = back(torch.arange(9.0).view(1, 1, 3, 3))
    assert gradient[0, 0].tolist() == [[0, 1], [3, 4]]
