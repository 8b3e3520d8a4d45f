"""IDX files, the format of MNIST and FashionMNIST: a header of big-endian integers, then the values."""

import struct
from math import prod
from pathlib import Path

import torch

from dist_condense.system import records
from dist_condense.system.errors import DataError

BYTES = 2**28
"""Limit of a catalogue data set's file in bytes; the largest, of SVHN, has 182 MB."""
REMEDY = "Replace it, or remove it and set dataset.download=true."
_UNSIGNED = 8
"""Code of unsigned bytes in the header."""


def read_idx(file: Path, item: tuple[int, ...] = ()) -> torch.Tensor:
    """Read the values of an IDX file: uint8 ``[n, *item]`` with n >= 1.

    Raises DataError naming the file if it cannot be read, has more than BYTES bytes, or has another type, shape or
    length.

    :param item: expected shape of one item.
    """
    data, start = records.bytes_of(file, BYTES), 8 + 4 * len(item)
    if data[:4] != bytes([0, 0, _UNSIGNED, 1 + len(item)]) or len(data) < start:
        raise _refused(file, f"this is not an IDX file of bytes in {1 + len(item)} dimensions")
    number, *shape = struct.unpack_from(f">{1 + len(item)}I", data, 4)
    if tuple(shape) != item:
        raise _refused(file, f"its items are {_shown(shape)}, expected {_shown(item)}")
    if number == 0 or len(data) != start + number * prod(item):
        raise _refused(file, f"its header states {number} items, but it has {len(data)} bytes")
    return torch.frombuffer(bytearray(data), dtype=torch.uint8, offset=start).view(number, *item)


def read_labelled(images: Path, labels: Path, side: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Read square grey images, uint8 [N, 1, side, side], and their labels, int64 [N], in 0..classes - 1.

    Raises DataError as :func:`read_idx`, and for another number of labels than of images or labels out of range.
    """
    pixels, numbers = read_idx(images, (side, side)), read_idx(labels)
    if len(numbers) != len(pixels):
        raise _refused(labels, f"it has {len(numbers)} labels for the {len(pixels)} images of {images.name}")
    if (largest := int(numbers.max())) >= classes:
        position = int(numbers.argmax())
        raise _refused(labels, f"label {largest} at position {position} is not in the range 0 to {classes - 1}")
    return pixels[:, None], numbers.long()


def _shown(shape: tuple[int, ...] | list[int]) -> str:
    return " x ".join(map(str, shape)) or "single values"


def _refused(file: Path, problem: str) -> DataError:
    return DataError([f"{file}: {problem}. {REMEDY}"])
