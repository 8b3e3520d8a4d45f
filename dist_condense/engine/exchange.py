"""Exchange of small values between workers as JSON.

The ports of a worker have no authentication, so messages must not be able to execute code, unlike the pickles in
torch's own exchange of objects.
"""

from __future__ import annotations

import json
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dist_condense.engine.errors import RunFailed

LONGEST = 2**22
"""Maximum size of a value in bytes; the largest values list checkpoint files, 150 bytes per class of a worker."""
STRANGE = "; check whether another program is connected to the workers' ports"

Plain = Any
"""None, booleans, numbers and strings; lists of these, and dictionaries with string keys. Floats arrive unchanged."""


def all_gather(value: Plain, group: dist.ProcessGroup | None = None) -> list[Plain]:
    """Return the values of all workers by rank, on every worker; tuples arrive as lists.

    :raises RunFailed: on all workers, if a worker's message is too long or not JSON.
    """
    device = torch.device("cuda" if dist.get_backend(group) == "nccl" else "cpu")
    own = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    sizes = [int(x) for x in _gathered(torch.tensor([len(own)]).to(device), group)]
    for rank, size in enumerate(sizes):
        if not 0 < size <= LONGEST:
            raise RunFailed(f"worker {rank} sent a message of {size} bytes, which must have 1 to {LONGEST}{STRANGE}")
    padded = torch.zeros(max(sizes), dtype=torch.uint8)
    padded[: len(own)] = own
    texts = _gathered(padded.to(device), group)
    return [_value(rank, text[:size]) for rank, (text, size) in enumerate(zip(texts, sizes, strict=True))]


def _gathered(own: Tensor, group: dist.ProcessGroup | None) -> list[Tensor]:
    """Return the tensors of all workers by rank, on the CPU."""
    tensors = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(tensors, own, group=group)
    return [x.cpu() for x in tensors]


def _value(rank: int, text: Tensor) -> Plain:
    try:
        return json.loads(text.numpy().tobytes())
    except (ValueError, RecursionError) as error:
        raise RunFailed(f"worker {rank} sent a message that is not JSON ({type(error).__name__}){STRANGE}") from error
