"""Iterator whose items are computed in the background before they are requested."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from queue import SimpleQueue
from threading import Semaphore
from typing import Generic, TypeVar

from dist_condense.system.background import GRACE, Background

Item = TypeVar("Item")
DEPTH = 2


class Ahead(Generic[Item]):
    """Iterable over ``items``, which a separate thread computes, at most ``depth`` items ahead and one more in hand.

    The thread starts immediately. An error of the iterator is raised in place of its item. Close an instance whose
    items are not all taken.
    """

    def __init__(self, items: Iterator[Item], depth: int = DEPTH) -> None:
        self.waited = 0.0
        """Seconds that the consumer has waited for items."""
        self._ready: SimpleQueue[tuple[Item | None, BaseException | None]] = SimpleQueue()
        self._room = Semaphore(depth)
        self._depth, self._taken = depth, 0
        self._last = math.inf
        """Number of the item, from 1, with which the thread ends."""
        self._thread = Background("ahead", lambda: self._run(items), lambda: self._end_with(0))

    def __iter__(self) -> Iterator[Item]:
        while True:
            started = time.perf_counter()
            item, error = self._ready.get()
            self.waited += time.perf_counter() - started
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            self._taken += 1
            self._room.release()
            yield item  # type: ignore[misc]

    def close(self, *, together: bool = False) -> None:
        """End the thread and drop the items that were not taken.

        :param together: whether the items are computed with collectives by all workers, which have taken as many of
            them. Then the thread first computes everything that it may compute ahead, which is the same on all
            workers, so that no collective lacks a worker. As a worker may have failed, this takes at most
            :data:`GRACE` seconds, after which the thread is left in its collective.
        """
        self._end_with(self._taken + self._depth + 1 if together else 0)
        self._thread.join(GRACE if together else None)
        self._ready = SimpleQueue()

    def _end_with(self, last: int) -> None:
        self._last = last
        self._room.release()  # the thread may wait with an item in hand

    def _run(self, items: Iterator[Item]) -> None:
        try:
            for number, item in enumerate(items, 1):
                self._room.acquire()
                if number >= self._last:
                    return
                self._ready.put((item, None))
            self._ready.put((None, StopIteration()))
        except BaseException as error:
            self._ready.put((None, error))
