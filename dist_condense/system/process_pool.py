"""Processes of this machine for work that is handed a map."""

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
"""Items handed over ahead of each process; they are pickled, so not all at once."""
SAFE_PATH = "PYTHONSAFEPATH"


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
        with _nothing_from_here():  # it starts a process that keeps count of semaphores
            executor = ProcessPoolExecutor(self.workers, mp_context=context, initializer=_begin)
        try:
            yield from _bounded(executor, function, iter(items), WAITING * self.workers)
        finally:
            executor.shutdown(cancel_futures=True)


def _bounded(
    executor: ProcessPoolExecutor, function: Callable[[Item], Result], items: Iterator[Item], ahead: int
) -> Iterator[Result]:
    def submitted(number: int) -> set[Future[Result]]:
        with _interrupts_held(), _nothing_from_here():
            return {executor.submit(function, item) for item in islice(items, number)}

    running = submitted(ahead)
    while running:
        done, running = wait(running, return_when=FIRST_COMPLETED)
        running |= submitted(len(done))
        for future in done:
            yield future.result()


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Processes that are started within never see Ctrl-C, not even before their first line: it is the parent's to
    answer, which it does afterwards.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _nothing_from_here() -> Iterator[None]:
    """Processes that are started within import nothing from the folder that this one was called in, which may be that
    of somebody else: they begin as ``python -c`` does, which looks there first.
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


def _begin() -> None:
    """Texts of others do not steer this process's terminal either. A killed parent cannot stop its workers; they would
    wait for it for ever.
    """
    terminal.guard()
    threading.Thread(target=_watch_parent, daemon=True).start()


def _watch_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
