"""Reading and decoding of announced images in the background, before they are used."""

from __future__ import annotations

import time
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Lock, Semaphore

import torch

from dist_condense.data.reading.source import ClassSource, complete
from dist_condense.system.background import Background
from dist_condense.system.transfer import Arrival, Transfer

DEPTH = 4
"""Maximum number of minibatches that are read and not yet redeemed."""
READERS = 2
"""Number of minibatches read at once, so that decoding threads that are idle can start with the next minibatch."""
HELD = DEPTH + READERS + 1
"""Maximum number of minibatches that occupy memory: DEPTH, the one in use, and the last one of each reader, whose
memory the reader's heap keeps.
"""


@dataclass(frozen=True, eq=False)
class Ticket:
    """Handle of announced images of one class, to be redeemed once or forgotten."""

    label: int
    indices: torch.Tensor
    """Positions in the class, int64 ``[n]``."""


_Announced = tuple[Ticket, Future[Arrival]]


class ReadAhead:
    """Reader of announced images of a source, on background threads and in the order of the announcements.

    Images are copied to the device. To limit the memory, at most ``DEPTH`` minibatches are read and not yet redeemed.
    The reading threads are in addition to the decoding threads of a source. Close an instance that is no longer used.
    """

    def __init__(self, source: ClassSource, device: torch.device | None = None) -> None:
        self.source = source
        self.waited = 0.0
        """Total time in seconds that :meth:`redeem` and :meth:`complete` have waited."""
        self._open: dict[Ticket, Future[Arrival]] = {}
        self._queue: SimpleQueue[_Announced | None] = SimpleQueue()
        self._free = Semaphore(DEPTH)
        self._next_lock = Lock()
        self._threads: list[Background] = []
        self._transfer = Transfer(device or torch.device("cpu"))

    def announce(self, label: int, indices: torch.Tensor) -> Ticket:
        """Queue the images of a class at these positions (int64 [n]) for reading; return their ticket."""
        if not self._threads:
            self._threads = [Background("read ahead", self._serve, self._end) for _ in range(READERS)]
        ticket, future = Ticket(label, indices), Future[Arrival]()
        self._open[ticket] = future
        self._queue.put((ticket, future))
        return ticket

    def redeem(self, ticket: Ticket) -> torch.Tensor:
        """Return the images of a ticket, [n, C, H, W] on the device, once they are read.

        Raises errors of reading, and KeyError for a ticket that was redeemed or forgotten.
        """
        start = time.perf_counter()
        future = self._open.pop(ticket)  # so that a kept ticket does not keep its images
        if future.cancel():  # not started: it may be queued behind others
            arrival = self._read(ticket)
        else:
            self._free.release()  # before waiting: this ticket's own reader may be blocked in `_next`
            arrival = future.result()
        images = arrival.received()
        self.waited += time.perf_counter() - start
        return images

    def again(self, ticket: Ticket) -> torch.Tensor:
        """Return the images of a redeemed ticket, read once more."""
        return self._read(ticket).received()

    def forget(self, ticket: Ticket) -> None:
        """Discard a ticket and release its memory for another one."""
        if not self._open.pop(ticket).cancel():
            self._free.release()

    def complete(self) -> None:
        """Wait until the source has read all that it reads by itself. Raises DataError naming unreadable files."""
        start = time.perf_counter()
        complete(self.source)
        self.waited += time.perf_counter() - start

    def close(self) -> None:
        """Discard all tickets and stop the threads; the source stays open."""
        self._end()
        for thread in self._threads:
            thread.join()
        self._threads = []

    def _end(self) -> None:
        for _ in self._threads:
            self._queue.put(None)
        for ticket in reversed(list(self._open)):  # last first, so that freed memory does not start another
            self.forget(ticket)

    def __enter__(self) -> ReadAhead:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _serve(self) -> None:
        while announced := self._next():
            self._answer(*announced)
            del announced  # otherwise its images would stay in memory until the next ticket is served

    def _answer(self, ticket: Ticket, future: Future[Arrival]) -> None:
        try:
            future.set_result(self._read(ticket))
        except BaseException as error:
            future.set_exception(error)

    def _next(self) -> _Announced | None:
        """Return the first open ticket of the queue, once there is memory for its images; None after :meth:`close`.

        Only one thread at a time waits here, so that tickets are served in order.
        """
        with self._next_lock:
            while announced := self._queue.get():
                if announced[1].set_running_or_notify_cancel():
                    self._free.acquire()
                    return announced
            return None

    def _read(self, ticket: Ticket) -> Arrival:
        return self._transfer.begin(self.source.get(ticket.label, ticket.indices))
