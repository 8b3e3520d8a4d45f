"""One split of a data set, opened and not decoded: the images of its classes by label."""

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
    """What an ImageSet is made of, twice."""

    @property
    def counts(self) -> tuple[int, ...]:
        """Images of each class, known without decoding them."""
        ...

    @property
    def raw(self) -> bool:
        """Whether there is a beton to read from."""
        ...

    def open(self, labels: Sequence[int], reading: Reading) -> ClassSource:
        """The images of these classes and of no others. Raises DataError naming the files that cannot be read."""
        ...

    def on_demand(self, reading: Reading) -> ClassSource:
        """The images of all classes, from their files; nothing is opened before it is asked for."""
        ...

    @property
    def files(self) -> bool:
        """Whether there are files to read from; else the images are held decoded, whatever the tier."""
        ...

    def encoded_bytes(self) -> list[int]:
        """Bytes of each class's files, where there are files."""
        ...

    @property
    def unread(self) -> tuple[ClassFolder, ...]:
        """Image files that nobody has decoded yet; those in prepared shards were."""
        ...

    def digest(self) -> str:
        """By which other images are known, in hex; see the functions that make one for what it sees."""
        ...


class OpenStore(Protocol):
    """Opens the store of some classes; travels between processes."""

    def __call__(self, labels: Sequence[int], reading: Reading, now: bool = True) -> Store:
        """`now`: whether all is opened, and what is wrong with it told, before it is read."""
        ...


OpenRaw = Callable[[Sequence[int]], ClassSource]


@dataclass(frozen=True)
class StoredSplit:
    """Encoded images in a store.

    :param sizes: encoded bytes of each class.
    :param digest: see :meth:`Split.digest`.
    :param open_raw: opens the beton that was prepared beside them, if there is one.
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
        """Whether there is a beton."""
        return self.open_raw is not None

    def open(self, labels: Sequence[int], reading: Reading) -> ClassSource:
        """By its tier, or the beton."""
        if reading.tier != RAW:
            return TIERS[reading.tier](self.open_store(labels, reading), self.form, reading)
        if self.open_raw is None:
            raise DataError([NO_BETON])
        return self.open_raw(labels)

    def on_demand(self, reading: Reading) -> ClassSource:
        """Decoded as they are read."""
        store = self.open_store(range(len(self.counts)), reading, now=False)
        return DecodingSource(store, self.form, reading.threads)

    def encoded_bytes(self) -> list[int]:
        """By asking the store."""
        return self.sizes()


NO_BETON = (
    "data.tier: ffcv, but there is no beton at dataset.root; make one with `dist-condense prepare SOURCE DEST "
    "--size N --ffcv`, or set data.tier=auto"
)


@dataclass(frozen=True, eq=False)
class StreamedImages:
    """Test images that are read when they are asked for; in the order of their classes."""

    split: Split
    reading: Reading

    @cached_property
    def labels(self) -> torch.Tensor:
        """int64 [N]"""
        return torch.arange(len(self.split.counts)).repeat_interleave(torch.tensor(self.split.counts))

    def chunks(self, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """One pass, the next chunk read while one is used; chunks may span classes."""
        within = torch.cat([torch.arange(count) for count in self.split.counts])
        chunks = zip(self.labels.split(size), within.split(size), strict=True)
        with ReadAhead(self._source) as ahead:
            announced = (([ahead.announce(*part) for part in _requests(*chunk)], chunk[0]) for chunk in chunks)
            for (tickets, labels), _ in pairwise(chain(announced, [([], None)])):
                yield torch.cat([ahead.redeem(ticket) for ticket in tickets]), labels

    def mapped(self, convert: Callable[[Any], Any]) -> StreamedImages:
        """Nothing of it is an array."""
        return self

    @cached_property
    def _source(self) -> ClassSource:
        """Opened by the first pass in each process: shards are hashed and indexed then."""
        return self.split.open(range(len(self.split.counts)), self.reading)

    def __getstate__(self) -> dict[str, Any]:
        return {"split": self.split, "reading": self.reading}


def _requests(labels: torch.Tensor, within: torch.Tensor) -> list[tuple[int, torch.Tensor]]:
    """The parts of a chunk by class, in order; labels ascend."""
    classes, counts = labels.unique_consecutive(return_counts=True)
    return list(zip(classes.tolist(), within.split(counts.tolist()), strict=True))
