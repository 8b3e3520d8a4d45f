"""Every random draw is a function of a key, never of a worker, the clock or a global state.

The published programs seed from the wall clock (DC, DSA, DCC) or once per process (IDC). Here a draw is keyed by
(run seed, purpose, integers such as network k, step t, update u, class, epoch), so that any worker at any time,
also after a restart, draws the same numbers.
"""

from __future__ import annotations

import hashlib
import struct

import torch


def key(seed: int, purpose: str, *integers: int) -> int:
    """A 63-bit integer from blake2b over (seed, purpose, integers); the order of the integers counts."""
    message = purpose.encode() + b"\0" + struct.pack(f"<{len(integers) + 1}q", seed, *integers)
    return int.from_bytes(hashlib.blake2b(message, digest_size=8).digest(), "little") >> 1


def generator(seed: int, purpose: str, *integers: int) -> torch.Generator:
    """A CPU generator seeded by :func:`key`. Draws are made on the CPU so that every device sees the same ones."""
    return torch.Generator().manual_seed(key(seed, purpose, *integers))


def permutation(count: int, seed: int, purpose: str, *integers: int) -> torch.Tensor:
    """A keyed permutation of 0..count-1, int64 ``[count]``."""
    return torch.randperm(count, generator=generator(seed, purpose, *integers))


def draw_without_replacement(count: int, wanted: int, seed: int, purpose: str, *integers: int) -> torch.Tensor:
    """``wanted`` indices below ``count``: whole keyed permutations, one after the other, as many as are needed.

    With ``wanted <= count`` no index repeats; beyond that the draw wraps and no index repeats before all were drawn.
    """
    rounds = [permutation(count, seed, purpose, *integers, r) for r in range(-(-wanted // count))]
    return torch.cat(rounds)[:wanted]


def epoch_batch(count: int, batch: int, visit: int, seed: int, purpose: str, *integers: int) -> torch.Tensor:
    """Batch number ``visit`` of a loader that permutes ``count`` items each epoch and drops the incomplete batch.

    A function of ``visit`` alone: there is no cursor to save. With ``count < batch`` each batch wraps.
    """
    per_epoch = count // batch
    if per_epoch == 0:
        return draw_without_replacement(count, batch, seed, purpose, *integers, visit)
    epoch, position = divmod(visit, per_epoch)
    order = draw_without_replacement(count, count, seed, purpose, *integers, epoch)
    return order[position * batch : (position + 1) * batch]
