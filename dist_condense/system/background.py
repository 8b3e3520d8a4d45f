"""Threads that work ahead and are gone before Python is."""

import atexit
from collections.abc import Callable
from threading import Thread
from weakref import WeakSet

GRACE = 10.0
"""Seconds that the end of the process waits for each thread: one may be inside a collective that nobody answers."""


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


@atexit.register
def _end_all() -> None:
    """Before the interpreter shuts down: functions registered here run while threads still can."""
    alive = [thread for thread in _started if thread.is_alive()]
    for thread in alive:
        thread.stop()
    for thread in alive:
        thread.join(GRACE)
