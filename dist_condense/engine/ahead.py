"""Iterator whose items are computed in the background before they are requested."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Generic, TypeVar

from dist_condense.system.background import Background

Item = TypeVar("Item")
DEPTH = 2


class Ahead(Generic[Item]):
    """Iterable over ``items``, which a separate thread computes, at most ``depth`` items ahead.

    The thread starts immediately. An error of the iterator is raised in place of its item.
    """

    def __init__(self, items: Iterator[Item], depth: int = DEPTH) -> None:
        self.waited = 0.0
        """Seconds that the consumer has waited for items."""
        self._ready: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(depth)
        self._stopped = False
        Background("ahead", lambda: self._run(items), self._stop)

    def __iter__(self) -> Iterator[Item]:
        while True:
            started = time.perf_counter()
            item, error = self._ready.get()
            self.waited += time.perf_counter() - started
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]

    def _run(self, items: Iterator[Item]) -> None:
        try:
            for item in items:
                if self._stopped:
                    return
                self._ready.put((item, None))
            self._ready.put((None, StopIteration()))
        except BaseException as error:
            self._ready.put((None, error))

    def _stop(self) -> None:
        self._stopped = True
        with suppress(queue.Empty):  # makes room for the producer, which may be blocked
            while True:
                self._ready.get_nowait()
