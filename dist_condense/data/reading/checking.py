"""Decoding of every image of a split, to name all images that cannot be read before a run needs them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from dist_condense.data.reading.source import ClassPositions, ClassSource, get_many
from dist_condense.data.reading.split import Split, requests_of
from dist_condense.data.reading.tiers import Reading
from dist_condense.system.errors import SHOWN, DataError

BLOCK, BLOCK_BYTES = 256, 2**26
"""Largest number of images, and of bytes of decoded images, in memory at a time; at least one image is."""


@dataclass
class Unreadable:
    """Problems of images that cannot be read: the first, and the number of the others."""

    first: list[str] = field(default_factory=list)
    """At most :data:`dist_condense.system.errors.SHOWN` problems; each names a file, or a shard that holds images."""
    others: int = 0

    def add(self, problems: list[str]) -> None:
        """Add problems; the problem of a shard, which each of its images reports, is added once."""
        for problem in problems:
            if problem in self.first:
                continue
            if len(self.first) < SHOWN:
                self.first.append(problem)
            else:
                self.others += 1


def decode_all(split: Split, reading: Reading, image_bytes: int, found: Unreadable) -> Iterator[int]:
    """Decode every image of a split once, and yield the number of images so far after each block.

    Images are decoded on the threads of ``reading``, and are not kept. The problems of images that cannot be read are
    added to ``found``.

    :param image_bytes: size of a decoded image.
    """
    source, done = split.on_demand(reading), 0
    for requests in _blocks(split.counts, max(1, min(BLOCK, BLOCK_BYTES // image_bytes))):
        found.add(_problems(source, requests))
        done += sum(len(indices) for _, indices in requests)
        yield done


def _blocks(counts: tuple[int, ...], size: int) -> Iterator[list[ClassPositions]]:
    """Yield requests for all images in the order of their classes, ``size`` images at a time."""
    ends = torch.tensor(counts).cumsum(0)
    firsts = ends - torch.tensor(counts)
    for first in range(0, sum(counts), size):
        at = torch.arange(first, min(first + size, sum(counts)))
        labels = torch.searchsorted(ends, at, right=True)
        yield requests_of(labels, at - firsts[labels])


def _problems(source: ClassSource, requests: list[ClassPositions]) -> list[str]:
    """Return the problems of these images; those of a block with any are decoded again, as few as one message names."""
    try:
        get_many(source, requests)
    except DataError:
        problems = list[str]()
        for label, indices in requests:
            for few in indices.split(SHOWN):
                try:
                    source.get(label, few)
                except DataError as error:
                    problems += sorted(error.problems)  # in which order does not depend on the number of threads
        return problems
    return []
