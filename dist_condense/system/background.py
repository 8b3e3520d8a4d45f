"""Background threads that end before the interpreter shuts down."""

import atexit
import time
from collections.abc import Callable, Iterable
from threading import Lock, Thread
from typing import TypeVar
from weakref import WeakSet

Item = TypeVar("Item")
Result = TypeVar("Result")

GRACE = 10.0
"""Seconds that a process waits for its threads at exit, because one may block in a collective without peers."""


class Background(Thread):
    """Thread that starts at once, and is stopped and joined when the process exits.

    A plain daemon thread that returns from C++ while Python shuts down is unwound through torch's frames, which aborts
    the process with SIGABRT ("terminate called without an active exception"). An ordinary thread would keep the
    process alive until its work is done.

    :param run: work of the thread.
    :param stop: function that makes ``run`` return soon; called from another thread.
    """

    def __init__(self, name: str, run: Callable[[], None], stop: Callable[[], None]) -> None:
        super().__init__(target=run, name=name, daemon=True)
        self.stop = stop
        _started.add(self)
        self.start()


_started: WeakSet[Background] = WeakSet()


def side_by_side(action: Callable[[Item], Result], items: Iterable[Item], threads: int) -> list[Result]:
    """Apply an action to each item on up to ``threads`` threads; return the results in the order of the items.

    After a failure no further item is started; items in progress are completed, and the first failure is raised.
    """
    pending, lock = list(enumerate(items))[::-1], Lock()
    count, results, failures = len(pending), dict[int, Result](), list[BaseException]()

    def work() -> None:
        while True:
            with lock:
                if not pending:
                    return
                number, item = pending.pop()
            try:
                results[number] = action(item)
            except BaseException as error:
                failures.append(error)
                pending.clear()

    try:
        for thread in [Background("side by side", work, lambda: None) for _ in range(min(threads, count))]:
            thread.join()
    finally:
        pending.clear()  # if the caller was interrupted
    if failures:
        raise failures[0]
    return [results[number] for number in range(count)]


@atexit.register
def _end_all() -> None:
    """Stop and join all background threads.

    Registered with atexit, because atexit functions are called while daemon threads still run.
    """
    alive = [thread for thread in _started if thread.is_alive()]
    for thread in alive:
        thread.stop()
    deadline = time.monotonic() + GRACE
    for thread in alive:
        thread.join(max(0.0, deadline - time.monotonic()))
