"""Images that will be needed, read and decoded before they are."""

from __future__ import annotations

import time
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Lock, Semaphore

import torch

from dist_condense.data.reading.source import ClassSource
from dist_condense.system.background import Background
from dist_condense.system.transfer import Arrival, Transfer

DEPTH = 4
"""Minibatches that wait, read, to be redeemed."""
READERS = 2
"""Minibatches read at once: threads that have no more to decode of one begin with the next."""
HELD = DEPTH + READERS + 1
"""Minibatches that take memory: besides those that wait, the one in use, and what a reader's heap keeps of its last."""


@dataclass(frozen=True, eq=False)
class Ticket:
    """Images that were announced; to be redeemed once, or forgotten."""

    label: int
    indices: torch.Tensor
    """Positions in the class, int64 ``[n]``."""


Request = tuple[Ticket, Future[Arrival]]


class ReadAhead:
    """Reads announced images of a source by background threads, in the order of the announcements.

    They are copied to the device, at most ``DEPTH`` minibatches before they are redeemed: so much memory this takes,
    whatever was announced. A source that decodes has threads of its own. Close it where the process goes on.
    """

    def __init__(self, source: ClassSource, device: torch.device | None = None) -> None:
        self.source = source
        self.waited = 0.0
        """Seconds that :meth:`redeem` has waited."""
        self._open: dict[Ticket, Future[Arrival]] = {}
        self._line: SimpleQueue[Request | None] = SimpleQueue()
        self._places = Semaphore(DEPTH)
        self._turn = Lock()
        self._threads: list[Background] = []
        self._transfer = Transfer(device or torch.device("cpu"))

    def announce(self, label: int, indices: torch.Tensor) -> Ticket:
        """A ticket for these images of a class (int64 [n]); they are read when there is a place."""
        if not self._threads:
            self._threads = [Background("read ahead", self._serve, self._end) for _ in range(READERS)]
        ticket, future = Ticket(label, indices), Future[Arrival]()
        self._open[ticket] = future
        self._line.put((ticket, future))
        return ticket

    def redeem(self, ticket: Ticket) -> torch.Tensor:
        """The images of a ticket, [n, C, H, W] on the device. Errors of reading rise here; KeyError for a ticket
        that was redeemed or forgotten.
        """
        began = time.perf_counter()
        future = self._open.pop(ticket)  # a ticket that is kept does not keep its images
        if future.cancel():  # not started: it may be queued behind others
            arrival = self._read(ticket)
        else:
            self._places.release()  # before waiting: it may be the one that waits for a place
            arrival = future.result()
        images = arrival.received()
        self.waited += time.perf_counter() - began
        return images

    def forget(self, ticket: Ticket) -> None:
        """Give its place to another."""
        if not self._open.pop(ticket).cancel():
            self._places.release()

    def close(self) -> None:
        """Forget all tickets, and end the threads."""
        self._end()
        for thread in self._threads:
            thread.join()
        self._threads = []

    def _end(self) -> None:
        for _ in self._threads:
            self._line.put(None)
        for ticket in list(self._open):
            self.forget(ticket)

    def __enter__(self) -> ReadAhead:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _serve(self) -> None:
        while request := self._next():
            self._answer(*request)
            del request  # else its images stay in memory until the next one has a place

    def _answer(self, ticket: Ticket, future: Future[Arrival]) -> None:
        try:
            future.set_result(self._read(ticket))
        except BaseException as error:
            future.set_exception(error)

    def _next(self) -> Request | None:
        """The first in the line that is still open, once it has a place: only one waits for a place."""
        with self._turn:
            while request := self._line.get():
                if request[1].set_running_or_notify_cancel():
                    self._places.acquire()
                    return request
            return None

    def _read(self, ticket: Ticket) -> Arrival:
        return self._transfer.begin(self.source.get(ticket.label, ticket.indices))
