"""Images announced and images not announced are the same; only the waiting differs."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest
import torch

from dist_condense.data.reading.read_ahead import DEPTH, ReadAhead
from dist_condense.system.errors import DataError


class Slow:
    """A source that takes its time, and counts."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds, self.reads, self.threads = seconds, [], set()

    def count(self, label: int) -> int:
        return 10

    def get(self, label: int, indices: torch.Tensor) -> torch.Tensor:
        time.sleep(self.seconds)
        self.reads.append((label, indices.tolist()))
        self.threads.add(threading.current_thread().name)
        if label == 13:
            raise DataError(["class 13 is broken"])
        return (indices + 10 * label).to(torch.uint8)[:, None, None, None]


def until(holds: Callable[[], object]) -> None:
    wait = time.monotonic() + 20
    while not holds() and time.monotonic() < wait:
        time.sleep(0.01)


def test_announced_and_not_announced_are_the_same():
    ahead, indices = ReadAhead(Slow()), torch.tensor([3, 1, 3])
    direct = ahead.get(2, indices)
    ahead.announce(2, indices)
    assert torch.equal(ahead.get(2, indices), direct)
    assert direct.flatten().tolist() == [23, 21, 23]


def test_an_announcement_is_read_once_and_handed_over_once():
    source = Slow()
    ahead, indices = ReadAhead(source), torch.tensor([0])
    for _ in range(2):
        ahead.announce(1, indices)
    until(lambda: len(source.reads) == 2)
    for _ in range(3):
        ahead.get(1, indices)
    assert len(source.reads) == 3
    assert len(source.threads) == 2  # the third was not announced, and read by the caller


def test_it_waits_only_for_what_is_not_there_yet():
    source = Slow(0.2)
    ahead, indices = ReadAhead(source), torch.tensor([0])
    ahead.get(0, indices)
    assert ahead.waited >= 0.2
    ahead.announce(1, indices)
    until(lambda: len(source.reads) == 2)
    before = ahead.waited
    ahead.get(1, indices)
    assert ahead.waited - before < 0.1


def test_no_more_is_read_than_there_are_places_for():
    source = Slow()
    ahead = ReadAhead(source)
    requests = [torch.tensor([i]) for i in range(3 * DEPTH)]
    for indices in requests:
        ahead.announce(0, indices)
    until(lambda: len(source.reads) == DEPTH)
    time.sleep(0.1)  # in which it could read one more
    assert len(source.reads) == DEPTH
    assert [ahead.get(0, indices).item() for indices in requests] == list(range(3 * DEPTH))


def test_any_order_of_asking_gets_its_images():
    ahead = ReadAhead(Slow())
    requests = [torch.tensor([i % 10, i // 10]) for i in range(3 * DEPTH)]
    for indices in requests:
        ahead.announce(1, indices)
    for indices in reversed(requests):
        assert ahead.get(1, indices).flatten().tolist() == (indices + 10).tolist()


def test_an_error_rises_where_the_images_are_asked_for():
    ahead, indices = ReadAhead(Slow()), torch.tensor([0])
    ahead.announce(13, indices)
    ahead.announce(1, indices)
    assert len(ahead.get(1, indices)) == 1
    with pytest.raises(DataError, match="class 13 is broken"):
        ahead.get(13, indices)


def test_closing_forgets_what_nobody_asked_for():
    source, before = Slow(), set(threading.enumerate())
    with ReadAhead(source) as ahead:
        for i in range(3 * DEPTH):
            ahead.announce(0, torch.tensor([i]))
        until(lambda: len(source.reads) >= DEPTH)
    assert DEPTH <= len(source.reads) <= DEPTH + 1  # the one that waited for a place may still be read
    assert set(threading.enumerate()) <= before


def test_it_reads_ahead_after_it_was_closed_unused():
    source, indices = Slow(), torch.tensor([0])
    ahead = ReadAhead(source)
    ahead.close()
    ahead.announce(0, indices)
    until(lambda: source.reads)
    assert source.threads == {"read ahead"}
    assert len(ahead.get(0, indices)) == 1


def test_a_process_ends_with_announcements_left():
    program = """
import torch
from dist_condense.data import MemorySource
from dist_condense.data.reading.read_ahead import ReadAhead
ahead = ReadAhead(MemorySource({0: torch.zeros(900, 3, 64, 64, dtype=torch.uint8)}))
for i in range(9):
    ahead.announce(0, torch.arange(900).roll(i))  # long enough that the process ends inside of one
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
