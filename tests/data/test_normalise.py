"""Conversions between bytes, values in [0, 1] and normalised pixels."""

import pytest
import torch

from dist_condense.data import ChannelStatistics, to_values

STATISTICS = ChannelStatistics(mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))


def test_values_are_exact_at_the_ends() -> None:
    assert to_values(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == pytest.approx([0.0, 0.2, 1.0])
    with pytest.raises(ValueError, match="uint8"):
        to_values(torch.zeros(3, dtype=torch.int64))


def test_values_are_contiguous_however_the_bytes_lie() -> None:
    bytes_ = torch.randint(256, (2, 3, 4, 5), dtype=torch.uint8)
    values = to_values(bytes_.to(memory_format=torch.channels_last))
    assert values.is_contiguous()
    assert torch.equal(values, to_values(bytes_))


@pytest.mark.parametrize("shape", [(3, 4, 4), (2, 3, 4, 4), (5, 2, 3, 4, 4)])
def test_denormalise_inverts_normalise(shape: tuple[int, ...]) -> None:
    unit = torch.rand(shape, dtype=torch.float64)
    normalised = STATISTICS.normalise(unit)
    assert normalised.dtype is torch.float64
    assert torch.allclose(normalised[..., 1, :, :], (unit[..., 1, :, :] - 0.2) / 0.25)
    assert torch.allclose(STATISTICS.denormalise(normalised), unit)


def test_one_value_is_one_channel() -> None:
    with pytest.raises(ValueError, match="C = 1"):
        ChannelStatistics((0.1,), (0.3,)).normalise(torch.rand(2, 3, 4, 4))
