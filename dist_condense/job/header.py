"""The header of a safetensors file: what tensors are in it, by its first bytes alone."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from dist_condense.engine.procedure import Kind
from dist_condense.system import records
from dist_condense.system.conversion import NonNegative
from dist_condense.system.remote import Unreachable
from dist_condense.system.storage import Storage

FIRST = 2**16
"""Bytes in which the header is expected; a longer one is asked for again."""
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "BOOL": torch.bool,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
}  # fmt: skip
"""By their names in a header."""


@dataclass(frozen=True)
class Described:
    """A tensor in a header."""

    dtype: str
    shape: tuple[NonNegative, ...]
    data_offsets: tuple[NonNegative, ...]
    """Its first byte, and the one after its last, from the end of the header."""


def kinds(store: Storage, name: str, size: int) -> dict[str, Kind] | None:
    """Type and shape of each tensor, which nobody has verified; None where the first bytes are no header of a file of
    this size, or cannot be read. Raises Unreachable.

    :param size: bytes of the file.
    """
    try:
        data = store.head(name, FIRST)
        start = 8 + int.from_bytes(data[:8], "little")
        if len(data) < start <= size:
            data = store.head(name, start)
        content = records.made(dict[str, Any], records.parsed(data[8:start], name), name)
        content.pop("__metadata__", None)
        tensors = records.made(dict[str, Described], content, name)
        _check(list(tensors.values()), size - start)
        return {name: (DTYPES[x.dtype], x.shape) for name, x in tensors.items()}
    except Unreachable:
        raise
    except (OSError, ValueError, KeyError):
        return None


def _check(tensors: list[Described], size: int) -> None:
    """Each of its own size, one after the other, to the end of the file; else ValueError."""
    at = 0
    for x in sorted(tensors, key=lambda x: x.data_offsets):
        begin, at = at, at + prod(x.shape) * DTYPES[x.dtype].itemsize
        if x.data_offsets != (begin, at):
            raise ValueError(f"a tensor at {x.data_offsets}, expected {(begin, at)}")
    if at != size:
        raise ValueError(f"{at} bytes of tensors in {size}")
