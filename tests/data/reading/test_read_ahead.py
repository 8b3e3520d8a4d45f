"""Redeeming a ticket returns the images of the source; only the waiting time differs."""

import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable

import pytest
import torch

from dist_condense.data.reading.read_ahead import DEPTH, ReadAhead
from dist_condense.system.errors import DataError


class Slow:
    """A slow source that counts its reads."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds, self.reads, self.threads = seconds, [], set()

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


def test_a_ticket_gives_what_the_source_gives():
    ahead, indices = ReadAhead(Slow()), torch.tensor([3, 1, 3])
    images = ahead.redeem(ahead.announce(2, indices))
    assert torch.equal(images, ahead.source.get(2, indices))
    assert images.flatten().tolist() == [23, 21, 23]


def test_each_ticket_is_read_once_and_redeemed_once():
    """Two tickets may have the same images."""
    source = Slow()
    ahead = ReadAhead(source)
    tickets = [ahead.announce(1, torch.tensor([0])) for _ in range(2)]
    until(lambda: len(source.reads) == 2)
    for ticket in tickets:
        ahead.redeem(ticket)
        with pytest.raises(KeyError):
            ahead.redeem(ticket)
    assert len(source.reads) == 2
    assert source.threads == {"read ahead"}


def test_it_waits_only_for_what_is_not_there_yet():
    source = Slow(0.2)
    ahead, indices = ReadAhead(source), torch.tensor([0])
    ahead.redeem(ahead.announce(0, indices))
    assert ahead.waited >= 0.15
    ticket = ahead.announce(1, indices)
    until(lambda: len(source.reads) == 2)
    before = ahead.waited
    ahead.redeem(ticket)
    assert ahead.waited - before < 0.1


def test_no_more_is_read_than_there_are_places_for():
    source = Slow()
    ahead = ReadAhead(source)
    tickets = [ahead.announce(0, torch.tensor([i])) for i in range(3 * DEPTH)]
    until(lambda: len(source.reads) == DEPTH)
    time.sleep(0.1)  # in which it could read one more
    assert len(source.reads) == DEPTH
    assert [ahead.redeem(ticket).item() for ticket in tickets] == list(range(3 * DEPTH))


def test_tickets_are_redeemed_in_any_order():
    ahead = ReadAhead(Slow())
    tickets = [ahead.announce(1, torch.tensor([i % 10, i // 10])) for i in range(3 * DEPTH)]
    for ticket in reversed(tickets):
        assert ahead.redeem(ticket).flatten().tolist() == (ticket.indices + 10).tolist()


def test_a_ticket_that_is_forgotten_gives_its_place_to_another():
    source = Slow()
    ahead = ReadAhead(source)
    first = [ahead.announce(0, torch.tensor([i])) for i in range(2 * DEPTH)]
    until(lambda: len(source.reads) == DEPTH)
    for ticket in first:
        ahead.forget(ticket)
    last = [ahead.announce(1, torch.tensor([i])) for i in range(DEPTH)]
    until(lambda: sum(label for label, _ in source.reads) == DEPTH)
    assert [ahead.redeem(ticket).item() for ticket in last] == [10 + i for i in range(DEPTH)]
    assert source.threads == {"read ahead"}


def test_what_was_redeemed_takes_no_memory_though_the_ticket_is_kept():
    ahead = ReadAhead(Slow())
    ticket = ahead.announce(0, torch.tensor([0]))
    images = weakref.ref(ahead.redeem(ticket))
    ahead.close()
    assert images() is None


def test_an_error_rises_where_the_ticket_is_redeemed():
    ahead, indices = ReadAhead(Slow()), torch.tensor([0])
    broken, whole = ahead.announce(13, indices), ahead.announce(1, indices)
    assert len(ahead.redeem(whole)) == 1
    with pytest.raises(DataError, match="class 13 is broken"):
        ahead.redeem(broken)


def test_closing_forgets_all_tickets():
    source, before = Slow(), set(threading.enumerate())
    with ReadAhead(source) as ahead:
        for i in range(3 * DEPTH):
            ahead.announce(0, torch.tensor([i]))
        until(lambda: len(source.reads) >= DEPTH)
    assert DEPTH <= len(source.reads) <= DEPTH + 1  # the one that waited for a place may still be read
    assert set(threading.enumerate()) <= before


def test_it_reads_ahead_after_it_was_closed_unused():
    source = Slow()
    ahead = ReadAhead(source)
    ahead.close()
    ticket = ahead.announce(0, torch.tensor([0]))
    until(lambda: source.reads)
    assert source.threads == {"read ahead"}
    assert len(ahead.redeem(ticket)) == 1


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
