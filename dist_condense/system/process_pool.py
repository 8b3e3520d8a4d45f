"""Parallel map over processes on this machine."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from dist_condense.system import terminal

Item = TypeVar("Item")
Result = TypeVar("Result")
WAITING = 2
"""Number of items submitted per process at a time, because submitting all items would pickle all at once."""
SAFE_PATH = "PYTHONSAFEPATH"


@dataclass(frozen=True)
class LocalMap:
    """Parallel map over ``workers`` processes; with one worker, the function runs in this process."""

    workers: int

    def __call__(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield the result of each item, in order of completion.

        The first error is raised once the running items have ended.
        """
        if self.workers == 1:
            yield from map(function, items)
            return
        context = multiprocessing.get_context("spawn")
        with _safe_import_path():  # the executor starts a process that tracks semaphores
            executor = ProcessPoolExecutor(self.workers, mp_context=context, initializer=_initialise)
        try:
            yield from _bounded(executor, function, iter(items), WAITING * self.workers)
        finally:
            executor.shutdown(cancel_futures=True)


def _bounded(
    executor: ProcessPoolExecutor, function: Callable[[Item], Result], items: Iterator[Item], ahead: int
) -> Iterator[Result]:
    def submitted(number: int) -> set[Future[Result]]:
        with _interrupts_blocked(), _safe_import_path():
            return {executor.submit(function, item) for item in islice(items, number)}

    running = submitted(ahead)
    while running:
        done, running = wait(running, return_when=FIRST_COMPLETED)
        running |= submitted(len(done))
        for future in done:
            yield future.result()


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Block SIGINT within the context, so that processes started in it are never interrupted by Ctrl-C.

    A SIGINT that arrives within the context is handled by this process afterwards.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _safe_import_path() -> Iterator[None]:
    """Keep the working directory, which may be untrusted, off the import path of processes started within the context.

    Such a process starts like ``python -c``, which searches the working directory first.
    """
    before = os.environ.get(SAFE_PATH)
    os.environ[SAFE_PATH] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[SAFE_PATH]
        else:
            os.environ[SAFE_PATH] = before


def _initialise() -> None:
    terminal.guard()
    threading.Thread(target=_watch_parent, daemon=True).start()  # a killed parent cannot stop its workers


def _watch_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
