"""Keyed randomness: every draw is a function of a key, never of a worker, the clock or a global state.

The authors' programs seed from the wall clock (DC, DSA, DCC) or once per process (IDC). Here a draw is keyed by (run
seed, purpose, integers such as network k, step t, update u, class, epoch), so that any worker draws the same numbers at
any time, even after a restart.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


def key(seed: int, purpose: str, *integers: int) -> int:
    """Return a 63-bit integer from blake2b over (seed, purpose, integers); the order of the integers matters."""
    message = purpose.encode() + b"\0" + struct.pack(f"<{len(integers) + 1}q", seed, *integers)
    return int.from_bytes(hashlib.blake2b(message, digest_size=8).digest(), "little") >> 1


def generator(seed: int, purpose: str, *integers: int) -> torch.Generator:
    """Return a CPU generator seeded by :func:`key`.

    Numbers are drawn on the CPU so that they are the same for all devices.
    """
    return torch.Generator().manual_seed(key(seed, purpose, *integers))


@contextmanager
def layers_keyed(device: torch.device, seed: int, purpose: str, *integers: int) -> Iterator[Callable[[], bool]]:
    """Seed the draws of layers (dropout, stochastic depth) by :func:`key` inside the context.

    Such layers use torch's global generators, which are seeded on entry and restored on exit. Yields a function that
    returns whether numbers were drawn so far in the context; only its calls read the generators.
    """
    on_gpu, own = device.type == "cuda", key(seed, purpose, *integers)

    def drawn() -> bool:
        states = {torch.device("cpu"): torch.get_rng_state()}
        if on_gpu:
            states[device] = torch.cuda.get_rng_state(device)
        seeded = {place: torch.Generator(place).manual_seed(own).get_state() for place in states}
        return not all(torch.equal(states[place], seeded[place]) for place in states)

    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        torch.default_generator.manual_seed(own)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(own)
        yield drawn


def permutation(count: int, seed: int, purpose: str, *integers: int) -> torch.Tensor:
    """Return a keyed permutation of 0..count-1, int64 ``[count]``."""
    return torch.randperm(count, generator=generator(seed, purpose, *integers))


def draw_without_replacement(count: int, size: int, seed: int, purpose: str, *integers: int) -> torch.Tensor:
    """Draw ``size`` different indices below ``count``, int64; all of them in random order if ``count`` is smaller."""
    return permutation(count, seed, purpose, *integers, 0)[:size]  # the 0 keeps the draws of earlier versions


def epoch_batch(count: int, batch: int, visit: int, seed: int, purpose: str, *integers: int) -> torch.Tensor:
    """Return batch ``visit``, from 0, of a loader that permutes ``count`` items per epoch and drops incomplete batches.

    The batch is computed from ``visit`` and the key alone, so there is no cursor to save. If ``count < batch``, every
    batch contains each item once.
    """
    batch = min(batch, count)
    epoch, position = divmod(visit, count // batch)
    order = draw_without_replacement(count, count, seed, purpose, *integers, epoch)
    return order[position * batch : (position + 1) * batch]


def endless_batches(
    count: int, batch: int, first: int, seed: int, purpose: str, *integers: int
) -> Iterator[torch.Tensor]:
    """Yield the batches, from index ``first`` on, of an endless loader that permutes ``count`` items each epoch.

    The incomplete batch of an epoch is kept. A batch, int64 indices, is computed from its index and the key alone.
    """
    epoch, position = divmod(first, -(-count // batch))
    while True:
        yield from permutation(count, seed, purpose, *integers, epoch).split(batch)[position:]
        epoch, position = epoch + 1, 0
