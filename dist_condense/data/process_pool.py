"""Processes of this machine for work that is handed a map."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
WAITING = 2
"""Items handed over ahead of each process; they are pickled, so not all at once."""


@dataclass(frozen=True)
class LocalMap:
    """Maps over processes, results as they come; one worker is this process itself."""

    workers: int

    def __call__(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """The first error ends it, after what runs has ended."""
        if self.workers == 1:
            yield from map(function, items)
            return
        context = multiprocessing.get_context("spawn")
        executor = ProcessPoolExecutor(self.workers, mp_context=context, initializer=_end_with_parent)
        try:
            yield from _bounded(executor, function, iter(items), WAITING * self.workers)
        finally:
            executor.shutdown(cancel_futures=True)


def _bounded(
    executor: ProcessPoolExecutor, function: Callable[[Item], Result], items: Iterator[Item], ahead: int
) -> Iterator[Result]:
    running: set[Future[Result]] = {executor.submit(function, item) for item in islice(items, ahead)}
    while running:
        done, running = wait(running, return_when=FIRST_COMPLETED)
        running |= {executor.submit(function, item) for item in islice(items, len(done))}
        for future in done:
            yield future.result()


def _end_with_parent() -> None:
    """A killed parent cannot stop its workers; they would wait for it for ever. Ctrl-C is the parent's to answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_watch_parent, daemon=True).start()


def _watch_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
