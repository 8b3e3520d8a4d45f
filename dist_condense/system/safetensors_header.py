"""Reader of safetensors headers, which contain the types and shapes of a file's tensors in its first bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Annotated, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from dist_condense.system import records
from dist_condense.system.conversion import NonNegative, Rule
from dist_condense.system.records import Unreadable

FIRST = 2**16
"""Number of bytes in the first request; a longer header takes a second request."""
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "BOOL": torch.bool,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
}  # fmt: skip
"""Types of tensors, by their names in a header."""
DIMENSIONS = 16
"""Largest number of dimensions of a tensor, so that the product of their sizes is computed at once."""
METADATA = "__metadata__"
Dtype = Annotated[str, Rule(f"one of {', '.join(DTYPES)}", DTYPES.__contains__)]
Shape = Annotated[tuple[NonNegative, ...], Rule(f"at most {DIMENSIONS} sizes", lambda x: len(x) <= DIMENSIONS)]
Offsets = Annotated[tuple[NonNegative, ...], Rule("two offsets", lambda x: len(x) == 2)]


@dataclass(frozen=True)
class _Described:
    """Entry of a tensor in a header: dtype, shape and location of its bytes."""

    dtype: Dtype
    shape: Shape
    data_offsets: Offsets
    """Offsets of the tensor's first byte and of the byte after its last byte, from the end of the header."""


def read(head: Callable[[int], bytes], size: int, where: str) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Read the types and shapes of a file's tensors, by name; no tensor is read.

    :param head: returns at most the given number of first bytes of the file.
    :param size: size of the file in bytes.
    :param where: name of the file in messages.
    :raises Unreadable: the header is invalid or too long, or its tensors do not fill the file exactly.
    """
    data = head(FIRST)
    length = int.from_bytes(data[:8], "little")
    start = 8 + length
    if len(data) < 8 or start > size or length > records.BYTES:
        most = max(0, min(size - 8, records.BYTES))
        raise Unreadable(f"{where}: it does not begin with a header of at most {most} bytes")
    if len(data) < start:
        data = head(start)
    where = f"{where}, header"
    content = records.made(dict[str, Any], records.parsed(data[8:start], where), where)
    records.made(dict[str, str], content.pop(METADATA, {}), f"{where}: {METADATA}")
    tensors = records.made(dict[str, _Described], content, where)
    _check(tensors, size - start, where)
    return {name: (DTYPES[x.dtype], x.shape) for name, x in tensors.items()}


def tensors(data: bytes, where: str) -> dict[str, Tensor]:
    """Return the tensors of a file's bytes, by name. Raises Unreadable if its header is invalid, see :func:`read`."""
    read(lambda count: data[:count], len(data), where)
    try:
        return load(data)
    except (SafetensorError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise Unreadable(f"{where}: {type(error).__name__}: {' '.join(str(error).split())[:200]}") from error


def _check(tensors: Mapping[str, _Described], size: int, where: str) -> None:
    """Check that the tensors fill the ``size`` bytes after the header without gaps. Raises Unreadable otherwise."""
    at = 0
    for name, x in sorted(tensors.items(), key=lambda item: item[1].data_offsets):
        start, at = at, at + prod(x.shape) * DTYPES[x.dtype].itemsize
        if x.data_offsets != (start, at):
            raise Unreadable(f"{where}: {name!r:.80} is at {list(x.data_offsets)}, expected {[start, at]}")
    if at != size:
        raise Unreadable(f"{where}: its tensors have {at} bytes, {size} follow")
