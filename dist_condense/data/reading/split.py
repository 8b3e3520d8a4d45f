"""Splits of a data set (training or test images), opened but not decoded: the images of each class by label."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise
from typing import Any, Protocol

import torch

from dist_condense.data.reading.decode import Form
from dist_condense.data.reading.read_ahead import ReadAhead
from dist_condense.data.reading.source import ClassSource
from dist_condense.data.reading.store import ClassFolder, Store
from dist_condense.data.reading.tiers import RAW, TIERS, DecodingSource, Reading
from dist_condense.system.errors import DataError


class Split(Protocol):
    """Protocol of one split of an ImageSet: its images by class."""

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of images of each class, known without decoding them."""
        ...

    @property
    def raw(self) -> bool:
        """Whether a beton (an FFCV file of raw pixels) is available."""
        ...

    def open(self, labels: Sequence[int], reading: Reading) -> ClassSource:
        """Open the images of the classes `labels` only. Raises DataError naming unreadable files."""
        ...

    def on_demand(self, reading: Reading) -> ClassSource:
        """Return a source of all classes that opens files only when their images are read."""
        ...

    @property
    def files(self) -> bool:
        """Whether images are read from files; if not, they are kept decoded in memory in every tier."""
        ...

    def encoded_bytes(self) -> list[int]:
        """Return the total size in bytes of each class's files; empty if images are not read from files."""
        ...

    @property
    def unread(self) -> tuple[ClassFolder, ...]:
        """Image files that have never been decoded, by class; empty for prepared shards, which `prepare` decoded."""
        ...

    def digest(self) -> str:
        """Return a hash in hex that changes with the images; each implementation states the changes it detects."""
        ...


class OpenStore(Protocol):
    """Protocol of a picklable function that opens a store of selected classes."""

    def __call__(self, labels: Sequence[int], reading: Reading, now: bool = True) -> Store:
        """Open a store of these classes.

        :param now: whether to open all files and raise their problems immediately; otherwise each file is opened on
            first use.
        """
        ...


MANY = 2**24
"""Number of images above which shards are opened, and so compared with the manifest, before labels are made."""
OpenRaw = Callable[[Sequence[int]], ClassSource]


@dataclass(frozen=True, kw_only=True)
class StoredSplit:
    """A split whose encoded images are in a store.

    :param sizes: function that returns the encoded bytes of each class.
    :param digest: implementation of :meth:`Split.digest`.
    :param open_raw: function that opens the beton in the same folder as the images; None if there is none.
    :param unread: see :attr:`Split.unread`.
    """

    counts: tuple[int, ...]
    form: Form
    open_store: OpenStore
    sizes: Callable[[], list[int]]
    digest: Callable[[], str]
    open_raw: OpenRaw | None = None
    unread: tuple[ClassFolder, ...] = ()
    files = True

    @property
    def raw(self) -> bool:
        return self.open_raw is not None

    def open(self, labels: Sequence[int], reading: Reading) -> ClassSource:
        """Open these classes in the tier of `reading`; tier `ffcv` opens the beton.

        Raises DataError naming unreadable files, or if the beton is missing.
        """
        if reading.tier != RAW:
            return TIERS[reading.tier](self.open_store(labels, reading), self.form, reading)
        if self.open_raw is None:
            raise DataError([NO_BETON])
        return self.open_raw(labels)

    def on_demand(self, reading: Reading) -> ClassSource:
        """Return a source of all classes that opens and decodes files when their images are read."""
        store = self.open_store(range(len(self.counts)), reading, now=False)
        return DecodingSource(store, self.form, reading.threads)

    def encoded_bytes(self) -> list[int]:
        return self.sizes()


NO_BETON = (
    "data.tier: ffcv, but there is no beton at dataset.root; make one with `dist-condense prepare SOURCE DEST "
    "--size N --ffcv`, or set data.tier=auto"
)


@dataclass(frozen=True, eq=False)
class StreamedImages:
    """Test images that are read again in each pass, in the order of their classes."""

    split: Split
    reading: Reading

    @cached_property
    def labels(self) -> torch.Tensor:
        """Labels of all images, int64 [N].

        Raises DataError if shards contradict so many images, before any memory is allocated for them.
        """
        if sum(self.split.counts) > MANY:
            _ = self._source
        return torch.arange(len(self.split.counts)).repeat_interleave(torch.tensor(self.split.counts))

    def chunks(self, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield the images and labels of one pass in chunks of `size`, reading one chunk ahead.

        A chunk may span several classes.
        """
        within = torch.cat([torch.arange(count) for count in self.split.counts])
        chunks = zip(self.labels.split(size), within.split(size), strict=True)
        with ReadAhead(self._source) as ahead:
            announced = (([ahead.announce(*part) for part in requests_of(*chunk)], chunk[0]) for chunk in chunks)
            for (tickets, labels), _ in pairwise(chain(announced, [([], None)])):
                yield torch.cat([ahead.redeem(ticket) for ticket in tickets]), labels

    def mapped(self, convert: Callable[[Any], Any]) -> StreamedImages:
        """Return this instance unchanged, because it contains no array."""
        return self

    @cached_property
    def _source(self) -> ClassSource:
        """Source of all classes; the first pass in each process opens the source, which hashes and indexes shards."""
        return self.split.open(range(len(self.split.counts)), self.reading)

    def __getstate__(self) -> dict[str, Any]:
        return {"split": self.split, "reading": self.reading}


def requests_of(labels: torch.Tensor, within: torch.Tensor) -> list[tuple[int, torch.Tensor]]:
    """Split a chunk into one request (label, positions in the class) per class.

    :param labels: labels of the images, int64 [n], in ascending order.
    :param within: positions of the images in their classes, int64 [n].
    """
    classes, counts = labels.unique_consecutive(return_counts=True)
    return list(zip(classes.tolist(), within.split(counts.tolist()), strict=True))
