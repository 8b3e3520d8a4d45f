"""Streamed test images are opened once for any number of passes."""

import pickle

import torch

from dist_condense.data import MemorySource, Reading
from dist_condense.data.reading.split import StreamedImages


class Counted:
    """A split of two classes that counts how often it is opened."""

    counts = (3, 2)
    raw = False

    def __init__(self) -> None:
        self.opened = 0

    def open(self, labels: range, reading: Reading) -> MemorySource:
        self.opened += 1
        return MemorySource({c: torch.full((self.counts[c], 1, 2, 2), c, dtype=torch.uint8) for c in labels})


def read(streamed: StreamedImages) -> list[int]:
    return [int(image[0, 0, 0]) for images, _ in streamed.chunks(2) for image in images]


def test_passes_share_one_opened_source():
    split = Counted()
    streamed = StreamedImages(split, Reading("disk"))
    assert [read(streamed) for _ in range(3)] == [[0, 0, 0, 1, 1]] * 3
    assert split.opened == 1


def test_the_opened_source_does_not_travel():
    streamed = StreamedImages(Counted(), Reading("disk"))
    read(streamed)
    there = pickle.loads(pickle.dumps(streamed))
    assert set(vars(there)) == {"split", "reading"}
    assert read(there) == read(streamed)
    assert (streamed.split.opened, there.split.opened) == (1, 2)  # the copy of a split that had been opened once
