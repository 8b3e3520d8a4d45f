"""Reader of safetensors headers, which contain the types and shapes of a file's tensors in its first bytes."""

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
"""Number of bytes in the first request; a longer header takes a second request."""
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "BOOL": torch.bool,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
}  # fmt: skip
"""Types of tensors, by their names in a header."""


@dataclass(frozen=True)
class Described:
    """Entry of a tensor in a header: dtype, shape and location of its bytes."""

    dtype: str
    shape: tuple[NonNegative, ...]
    data_offsets: tuple[NonNegative, ...]
    """Offsets of the tensor's first byte and of the byte after its last byte, from the end of the header."""


def kinds(store: Storage, name: str, size: int) -> dict[str, Kind] | None:
    """Read the types and shapes of a file's tensors, by name; None if the header is unreadable or invalid.

    The size and hash of the file are not verified.

    :param size: size of the file in bytes, as in the manifest.
    :raises Unreachable: the store does not answer.
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
    """Check that the tensors fill the ``size`` bytes after the header without gaps. Raises ValueError otherwise."""
    at = 0
    for x in sorted(tensors, key=lambda x: x.data_offsets):
        start, at = at, at + prod(x.shape) * DTYPES[x.dtype].itemsize
        if x.data_offsets != (start, at):
            raise ValueError(f"a tensor at {x.data_offsets}, expected {(start, at)}")
    if at != size:
        raise ValueError(f"{at} bytes of tensors in {size}")
