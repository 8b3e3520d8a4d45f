"""Tiers of image storage during a run: on the GPU, decoded in memory, encoded in memory, or on disk.

A source returns the same images in every tier; only the cost differs.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from dist_condense.data.reading.decode import Form, decode_into, why_unreadable
from dist_condense.data.reading.source import ClassPositions, ClassSource, MemorySource
from dist_condense.data.reading.store import RamStore, Store
from dist_condense.system.background import Background
from dist_condense.system.errors import DataError, shortened

AUTO = "auto"
RAW = "ffcv"
"""Name of the tier that reads the beton of a prepared data set."""
MAX_THREADS = 32
FILLED_AT_ONCE = 64
"""Number of images that are decoded together in the background, for which a request waits."""
SHARES = 2
"""Number of tasks per thread into which a request is divided, so that a delayed task does not delay the others."""


@dataclass(frozen=True)
class Reading:
    """Options of reading images; none of them changes the images."""

    tier: str = "ram"
    """A key of TIERS, or RAW."""
    _: KW_ONLY
    threads: int | None = None
    """Number of decoding threads; None: one per core, at most 32."""
    cache: Path | None = None
    """Folder on this node for copies of remote shards."""
    verify: bool = True
    """Whether the hash of each shard is compared with the manifest when the shard is opened."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Device of the images in tier `gpu`."""
    wait: bool = True
    """Whether opening a source in tier `ram` decodes all images; otherwise they are decoded in the background."""


class DecodingSource:
    """A ClassSource that decodes images on demand, on several threads (decoders release the interpreter lock)."""

    def __init__(self, store: Store, form: Form, threads: int | None = None) -> None:
        self.store, self.form = store, form
        self._threads = threads or default_threads()
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="decode")

    def get(self, label: int, indices: torch.Tensor) -> torch.Tensor:
        """Decode the images at these positions, in this order: uint8 [n, C, size, size].

        Raises DataError naming all unreadable files, or only the tar if it is missing or truncated.
        """
        return self.get_many([(label, indices)])[0]

    def get_many(self, requests: Sequence[ClassPositions]) -> list[torch.Tensor]:
        """Decode the images of several classes together, so that no thread waits for the end of a class."""
        positions = [(label, index) for label, indices in requests for index in indices.tolist()]
        # An array, because threads may not write to a tensor that was made in inference mode.
        images = np.empty((len(positions), self.form.size, self.form.size, self.form.channels), dtype=np.uint8)

        def fill(row: int, position: tuple[int, int]) -> str | None:
            label, index = position
            try:
                decode_into(images[row], self.store.read(label, index), self.form.upright)
            except (DataError, MemoryError):  # a problem of the shard or machine, not of this image
                raise
            except Exception as error:  # Pillow raises any exception for bytes that are no image
                where = self.store.where(label, index)
                return f"{where}: the image cannot be read ({why_unreadable(error)}). Replace or remove it."
            return None

        def fill_some(first: int) -> list[str]:
            # Rows in strides: one task per image was slower by an eighth.
            rows = range(first, len(positions), stride)
            return [problem for row in rows if (problem := fill(row, positions[row]))]

        stride = SHARES * self._threads
        problems = list(chain.from_iterable(self._pool.map(fill_some, range(stride))))
        if problems:
            raise DataError(shortened(problems, "files"))
        return list(torch.from_numpy(images).permute(0, 3, 1, 2).split([len(indices) for _, indices in requests]))


@dataclass(eq=False)
class _Kept:
    """Decoded images of each class, uint8 [n, size, size, C], and a flag for each image that is there already."""

    images: dict[int, np.ndarray]
    there: dict[int, np.ndarray]
    problems: dict[int, Exception] = field(default_factory=dict)
    """Error of decoding in the background, by the class that it concerns; it ends the decoding."""

    def add(self, decoding: DecodingSource, requests: Sequence[ClassPositions]) -> None:
        """Decode the requested images that are not there; two threads may add one image, from the same file."""
        lacking = [(label, indices[~torch.from_numpy(self.there[label])[indices]]) for label, indices in requests]
        lacking = [(label, indices) for label, indices in lacking if len(indices)]
        for (label, indices), decoded in zip(lacking, decoding.get_many(lacking), strict=True):
            self.images[label][indices.numpy()] = decoded.permute(0, 2, 3, 1).numpy()
            self.there[label][indices.numpy()] = True


class FillingSource:
    """A ClassSource that keeps all images decoded in memory, and decodes them in the background.

    Images that are requested before are decoded at once, so that a run makes its first steps meanwhile. If an image
    cannot be read in the background, the next request for its class raises the DataError, and so does :meth:`complete`.
    """

    def __init__(self, store: Store, form: Form, threads: int | None = None) -> None:
        counts = {label: store.count(label) for label in store.labels}
        self._decoding = DecodingSource(store, form, threads)
        self._kept = _Kept(
            {c: np.empty((n, form.size, form.size, form.channels), dtype=np.uint8) for c, n in counts.items()},
            {c: np.zeros(n, dtype=bool) for c, n in counts.items()},
        )
        stop = threading.Event()
        weakref.finalize(self, stop.set)
        self.filler = Background("fill", partial(_fill, self._kept, self._decoding, stop), stop.set)
        """Thread that decodes, until all images are there, an error occurs, or the source is closed or deleted."""

    @property
    def labels(self) -> tuple[int, ...]:
        """Labels of the classes in memory."""
        return tuple(self._kept.images)

    def get(self, label: int, indices: torch.Tensor) -> torch.Tensor:
        """Return copies of the images at these positions, [n, C, H, W]. Raises DataError naming unreadable files."""
        return self.get_many([(label, indices)])[0]

    def get_many(self, requests: Sequence[ClassPositions]) -> list[torch.Tensor]:
        """Return the images of several classes."""
        for label, _ in requests:
            if label in self._kept.problems:
                raise self._kept.problems[label]
        self._kept.add(self._decoding, requests)
        found = (torch.from_numpy(self._kept.images[label][indices.numpy()]) for label, indices in requests)
        return [images.permute(0, 3, 1, 2) for images in found]

    def complete(self) -> None:
        """Wait until all images are there. Raises DataError naming unreadable files."""
        self.filler.join()
        for problem in self._kept.problems.values():
            raise problem

    def close(self) -> None:
        """Stop decoding in the background; images that are not there are decoded when they are requested."""
        self.filler.stop()
        self.filler.join()


def _fill(kept: _Kept, decoding: DecodingSource, stop: threading.Event) -> None:
    for label, there in kept.there.items():
        for indices in torch.arange(len(there)).split(FILLED_AT_ONCE):
            if stop.is_set():
                return
            try:
                kept.add(decoding, [(label, indices)])
            except Exception as error:
                kept.problems[label] = error
                return


def _disk(store: Store, form: Form, reading: Reading) -> ClassSource:
    return DecodingSource(store, form, reading.threads)


def _encoded(store: Store, form: Form, reading: Reading) -> ClassSource:
    return DecodingSource(RamStore(store), form, reading.threads)


def _gpu(store: Store, form: Form, reading: Reading) -> ClassSource:
    decoding = DecodingSource(store, form, reading.threads)
    return MemorySource({c: decoding.get(c, torch.arange(store.count(c))).to(reading.device) for c in store.labels})


def _ram(store: Store, form: Form, reading: Reading) -> ClassSource:
    if not reading.wait:
        return FillingSource(store, form, reading.threads)
    return _gpu(store, form, replace(reading, device=torch.device("cpu")))


TIERS: dict[str, Callable[[Store, Form, Reading], ClassSource]] = {
    "gpu": _gpu,
    "ram": _ram,
    "encoded": _encoded,
    "disk": _disk,
}
"""Function that opens a source, by tier: from the fastest tier to the one that keeps no images in memory."""
DECODED = ("gpu", "ram")
"""Tiers that need no decoding during the run."""


@dataclass(frozen=True)
class Choice:
    """A selected tier, and the numbers of bytes on which the selection was based."""

    tier: str
    decoded: int
    """Bytes of a node's share of the images, decoded."""
    encoded: int | None
    """Bytes of the same images, encoded; None if the selection did not depend on it."""
    budget: int
    """Bytes of memory per node."""

    def __str__(self) -> str:
        encoded = "" if self.encoded is None else f", {gib(self.encoded)} encoded"
        sizes = f"{gib(self.decoded)} decoded{encoded}"
        return f"tier {self.tier}: a node's share is {sizes}; budget {gib(self.budget)} per node (data.memory_budget)"


def select_tier(
    tier: str, *, decoded: int, encoded: Callable[[], int] | None, budget: int, gpu_budget: int, ahead: int = 0
) -> Choice:
    """Select the fastest tier that fits in memory (`auto`), or the requested tier.

    :param tier: a key of TIERS, RAW, or `auto`.
    :param decoded: bytes of a node's share of the images, decoded.
    :param encoded: function that returns the bytes of the same images' files, which can take time; None if there are no
        files, so that images stay decoded whatever tier is requested.
    :param budget: bytes of memory per node.
    :param gpu_budget: bytes of memory of all GPUs of a node; 0 without GPUs.
    :param ahead: bytes of memory for minibatches that are read ahead, needed in every tier.
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
    """Return the maximum bytes of the classes that one node can own.

    Classes are divided equally among `workers`, of which `per_node` are on a node. The maximum is reached if these
    workers own the largest classes.
    """
    workers = max(1, workers)
    classes = -(-len(bytes_by_class) // workers) * min(per_node, workers)
    return sum(sorted(bytes_by_class, reverse=True)[:classes])


def default_threads() -> int:
    """Return the number of cores, at most MAX_THREADS."""
    cpu_count: Callable[[], int | None] = getattr(os, "process_cpu_count", os.cpu_count)  # the former from Python 3.13
    return min(cpu_count() or 1, MAX_THREADS)


def gib(size: int) -> str:
    """Format bytes as `1.5 GiB`, or in MiB below one GiB."""
    if size >= 2**30:
        return f"{size / 2**30:.1f} GiB"
    return f"{size / 2**20:.0f} MiB" if size >= 2**20 or size == 0 else "under 1 MiB"
