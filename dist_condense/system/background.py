"""Threads that work ahead and are gone before Python is."""

import atexit
import time
from collections.abc import Callable, Iterable
from threading import Lock, Thread
from typing import TypeVar
from weakref import WeakSet

Item = TypeVar("Item")
Result = TypeVar("Result")

GRACE = 10.0
"""Seconds that the end of the process waits for its threads: one may be inside a collective that nobody answers."""


class Background(Thread):
    """A thread that need not be ended by hand: the end of the process calls ``stop`` and waits for it.

    A bare daemon will not do. One that comes back from C++ while Python shuts down is unwound through torch's frames,
    and the process, whatever it had achieved, dies of SIGABRT ("terminate called without an active exception").
    A plain thread will not do either: left with something to do, it keeps the process from ending.

    :param run: what the thread does.
    :param stop: called by another thread; makes ``run`` return soon.
    """

    def __init__(self, name: str, run: Callable[[], None], stop: Callable[[], None]) -> None:
        super().__init__(target=run, name=name, daemon=True)
        self.stop = stop
        _started.add(self)
        self.start()


_started: WeakSet[Background] = WeakSet()


def side_by_side(action: Callable[[Item], Result], items: Iterable[Item], threads: int) -> list[Result]:
    """The results of an action on each item, in order, by so many threads at once.

    After a failure no other item is begun; those under way are waited for, and the first failure is raised.
    """
    waiting, lock = list(enumerate(items))[::-1], Lock()
    count, results, failures = len(waiting), dict[int, Result](), list[BaseException]()

    def work() -> None:
        while True:
            with lock:
                if not waiting:
                    return
                number, item = waiting.pop()
            try:
                results[number] = action(item)
            except BaseException as error:
                failures.append(error)
                waiting.clear()

    try:
        for thread in [Background("side by side", work, lambda: None) for _ in range(min(threads, count))]:
            thread.join()
    finally:
        waiting.clear()  # where the caller was interrupted
    if failures:
        raise failures[0]
    return [results[number] for number in range(count)]


@atexit.register
def _end_all() -> None:
    """Before the interpreter shuts down: functions registered here run while threads still can."""
    alive = [thread for thread in _started if thread.is_alive()]
    for thread in alive:
        thread.stop()
    deadline = time.monotonic() + GRACE
    for thread in alive:
        thread.join(max(0.0, deadline - time.monotonic()))
