"""Where the images of a worker's classes are kept while it runs: on the GPU, decoded, encoded, or on disk.

The images that a source gives are the same in every tier; only their cost differs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from dist_condense.data.reading.decode import Form, decode_into, why_unreadable
from dist_condense.data.reading.source import ClassSource, MemorySource, Wanted
from dist_condense.data.reading.store import RamStore, Store
from dist_condense.system.errors import SHOWN, DataError

AUTO = "auto"
RAW = "ffcv"
"""The tier that reads the beton of a prepared set, where one is."""
MAX_THREADS = 32
SHARES = 2
"""Tasks of each thread in a request, so that one that is held up does not hold up all."""


@dataclass(frozen=True)
class Reading:
    """How images are read; none of it changes what is read."""

    tier: str = "ram"
    """A name of TIERS, or RAW."""
    threads: int | None = None
    """That decode; None: one per core, at most 32."""
    cache: Path | None = None
    """Folder of this node for shards that lie elsewhere."""
    verify: bool = True
    """Compare each shard's hash with the manifest when it is opened."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """For the tier `gpu`."""


class DecodingSource:
    """A ClassSource that decodes on demand, on threads (the decoders release the lock)."""

    def __init__(self, store: Store, form: Form, threads: int | None = None) -> None:
        self.store, self.form = store, form
        self._threads = threads or default_threads()
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="decode")

    def count(self, label: int) -> int:
        """Images of this class."""
        return self.store.count(label)

    def get(self, label: int, indices: torch.Tensor) -> torch.Tensor:
        """Decoded images in the order of ``indices``, uint8 [n, C, size, size]; DataError names bad files.

        The tar that is gone or cut is named alone.
        """
        return self.get_many([(label, indices)])[0]

    def get_many(self, wanted: Sequence[Wanted]) -> list[torch.Tensor]:
        """The same for several classes; no thread waits for a class to be done."""
        places = [(label, index) for label, indices in wanted for index in indices.tolist()]
        # An array, as threads may not write to a tensor that was made in inference mode.
        images = np.empty((len(places), self.form.size, self.form.size, self.form.channels), dtype=np.uint8)

        def fill(row: int, place: tuple[int, int]) -> str | None:
            label, index = place
            try:
                decode_into(images[row], self.store.read(label, index), self.form.upright)
            except (DataError, MemoryError):  # the shard, not this image: the first word on it is enough
                raise
            except Exception as error:  # Pillow's decoders raise anything on bytes that are no image
                where = self.store.where(label, index)
                return f"{where}: the image cannot be read ({why_unreadable(error)}). Replace or remove it."
            return None

        def fill_some(first: int) -> list[str]:
            """Every so many-th row: a task for each image made it an eighth slower."""
            rows = range(first, len(places), step)
            return [problem for row in rows if (problem := fill(row, places[row]))]

        step = SHARES * self._threads
        problems = [problem for found in self._pool.map(fill_some, range(step)) for problem in found]
        if problems:
            rest = [f"... and {len(problems) - SHOWN} more files."] if len(problems) > SHOWN else []
            raise DataError(problems[:SHOWN] + rest)
        return list(torch.from_numpy(images).permute(0, 3, 1, 2).split([len(indices) for _, indices in wanted]))

    def decoded(self) -> MemorySource:
        """All images of all its classes, decoded."""
        labels = self.store.labels
        return MemorySource({c: self.get(c, torch.arange(self.count(c))) for c in labels})


def _disk(store: Store, form: Form, reading: Reading) -> ClassSource:
    return DecodingSource(store, form, reading.threads)


def _encoded(store: Store, form: Form, reading: Reading) -> ClassSource:
    return DecodingSource(RamStore(store), form, reading.threads)


def _ram(store: Store, form: Form, reading: Reading) -> ClassSource:
    return DecodingSource(store, form, reading.threads).decoded()


def _gpu(store: Store, form: Form, reading: Reading) -> ClassSource:
    decoding = DecodingSource(store, form, reading.threads)
    whole = {c: decoding.get(c, torch.arange(store.count(c))).to(reading.device) for c in store.labels}
    return MemorySource(whole)


TIERS: dict[str, Callable[[Store, Form, Reading], ClassSource]] = {
    "gpu": _gpu,
    "ram": _ram,
    "encoded": _encoded,
    "disk": _disk,
}
"""From the fastest to the one that needs no memory. (store, form, reading) -> source."""
DECODED = ("gpu", "ram")
"""Tiers that need no decoding while the run goes."""


@dataclass(frozen=True)
class Choice:
    """A tier, and the bytes it was chosen by: those of one node's share of the images."""

    tier: str
    decoded: int
    encoded: int | None
    budget: int

    def __str__(self) -> str:
        encoded = "" if self.encoded is None else f", {gib(self.encoded)} encoded"
        sizes = f"{gib(self.decoded)} decoded{encoded}"
        return f"tier {self.tier}: a node's share is {sizes}; budget {gib(self.budget)} per node (data.memory_budget)"


def choose(
    tier: str, decoded: int, encoded: Callable[[], int] | None, budget: int, gpu_budget: int, ahead: int = 0
) -> Choice:
    """The fastest tier that fits, or the one that is forced.

    :param tier: a name of TIERS, RAW, or `auto`.
    :param decoded: bytes of a node's share, decoded; ``encoded`` asks for those of its files, which can take time,
        None: there are none, and the images are held decoded.
    :param budget: bytes of memory per node; ``gpu_budget`` of the node's GPUs together (0 without).
    :param ahead: bytes of the minibatches that are read ahead in memory, whatever the tier.
    """
    if tier != AUTO:
        return Choice(tier if encoded or tier in DECODED else "ram", decoded, None, budget)
    if decoded <= gpu_budget:
        return Choice("gpu", decoded, None, budget)
    if encoded is None or decoded + ahead <= budget:
        return Choice("ram", decoded, None, budget)
    files = encoded()
    return Choice("encoded" if files + ahead <= budget else "disk", decoded, files, budget)


def share(bytes_by_class: Sequence[int], workers: int, per_node: int) -> int:
    """Bytes of the classes on the fullest node: at most ``per_node`` of ``workers`` equal shares, rounded up."""
    workers = max(1, workers)
    classes = -(-len(bytes_by_class) // workers) * min(per_node, workers)
    return sum(sorted(bytes_by_class, reverse=True)[:classes])


def default_threads() -> int:
    """One per core."""
    cpu_count: Callable[[], int | None] = getattr(os, "process_cpu_count", os.cpu_count)  # the former from Python 3.13
    return min(cpu_count() or 1, MAX_THREADS)


def gib(size: int) -> str:
    """`1.5 GiB`, or MiB below one."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
