"""Images that will be asked for, decoded before they are."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Lock, Semaphore

import torch

from dist_condense.data.reading.source import ClassSource
from dist_condense.system.background import Background
from dist_condense.system.transfer import Arrival, Transfer

Key = tuple[int, bytes]
Request = tuple[Future[Arrival], int, torch.Tensor]

DEPTH = 4
"""Minibatches that wait, read, to be asked for."""
READERS = 2
"""Minibatches read at once: threads that have no more to decode of one begin with the next."""
HELD = DEPTH + READERS + 1
"""Minibatches that take memory: besides those that wait, the one in use, and what a reader's heap keeps of its last."""


class ReadAhead:
    """A ClassSource beside another, whose coming requests can be announced.

    Announced requests are read in their order by background threads (a source that decodes has threads of its
    own) and copied to the device, at most ``DEPTH`` before they are asked for: so much memory this takes, whatever
    was announced. Nothing depends on announcements but time. Close it where the process goes on.
    """

    def __init__(self, source: ClassSource, device: torch.device | None = None) -> None:
        self.source = source
        self.waited = 0.0
        """Seconds that :meth:`get` has waited, for images on their way or not announced."""
        self._coming: defaultdict[Key, deque[Future[Arrival]]] = defaultdict(deque)
        self._line: SimpleQueue[Request | None] = SimpleQueue()
        self._places = Semaphore(DEPTH)
        self._turn = Lock()
        self._threads: list[Background] = []
        self._transfer = Transfer(device or torch.device("cpu"))

    def count(self, label: int) -> int:
        """Images of this class."""
        return self.source.count(label)

    def announce(self, label: int, indices: torch.Tensor) -> None:
        """These images will be asked for; begin to read them when there is a place."""
        if not self._threads:
            self._threads = [Background("read ahead", self._serve, self._forget) for _ in range(READERS)]
        future: Future[Arrival] = Future()
        self._coming[_key(label, indices)].append(future)
        self._line.put((future, label, indices))

    def get(self, label: int, indices: torch.Tensor) -> torch.Tensor:
        """uint8 [n, C, H, W] on the device; what was announced is handed over once. Errors of reading rise here."""
        began = time.perf_counter()
        announced = self._announced(_key(label, indices))
        if announced is None or announced.cancel():  # not begun, so that it may stand behind others in the line
            arrival = self._read(label, indices)
        else:
            self._places.release()  # before waiting: it may be the one that waits for a place
            arrival = announced.result()
        images = arrival.received()
        self.waited += time.perf_counter() - began
        return images

    def _announced(self, key: Key) -> Future[Arrival] | None:
        waiting = self._coming.get(key)
        if not waiting:
            return None
        first = waiting.popleft()
        if not waiting:
            del self._coming[key]
        return first

    def close(self) -> None:
        """Forget what was announced and not asked for, and end the threads."""
        self._forget()
        for thread in self._threads:
            thread.join()
        self._threads = []

    def _forget(self) -> None:
        left = [future for waiting in self._coming.values() for future in waiting]
        self._coming.clear()
        for _ in self._threads:
            self._line.put(None)
        for future in left:
            if not future.cancel():
                self._places.release()

    def __enter__(self) -> ReadAhead:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _serve(self) -> None:
        while request := self._next():
            self._answer(*request)
            del request  # else its images are held until the next one has a place

    def _answer(self, future: Future[Arrival], label: int, indices: torch.Tensor) -> None:
        try:
            future.set_result(self._read(label, indices))
        except BaseException as error:
            future.set_exception(error)

    def _next(self) -> Request | None:
        """The first in the line that is still wanted, once it has a place: only one request waits for a place."""
        with self._turn:
            while request := self._line.get():
                if request[0].set_running_or_notify_cancel():
                    self._places.acquire()
                    return request
            return None

    def _read(self, label: int, indices: torch.Tensor) -> Arrival:
        return self._transfer.begin(self.source.get(label, indices))


def _key(label: int, indices: torch.Tensor) -> Key:
    return label, indices.numpy().tobytes()
