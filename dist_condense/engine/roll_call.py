"""Detection of lost workers: when a collective fails, the remaining workers report to a shared store.

The store is that of the default process group.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import KW_ONLY, dataclass, field

import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store

from dist_condense.engine.errors import RunFailed, WorkerLost
from dist_condense.engine.exchange import all_gather
from dist_condense.system.background import Background

TIMEOUT = 600.0
"""Seconds that a collective waits for other workers by default."""
SHORTEST, LONGEST = 2.0, 30.0
"""Limits, in seconds, of the time in which workers must report to the store; it is a twentieth of the timeout."""
LOOK_EVERY = 0.1
BROKEN = re.compile(r"timed? ?out|connect|closed|reset|broken pipe|unreachable|no route|socket", re.IGNORECASE)
"""Words in gloo's errors, which have no type of their own, that point to another worker or the network as the cause."""


@dataclass
class RollCall:
    """Check of which workers still answer, shared by all process groups of a worker.

    :param hosts: host of each rank, for messages.
    :param timeout: seconds that a collective waits for other workers.
    """

    hosts: Sequence[str]
    rank: int
    _: KW_ONLY
    timeout: float = TIMEOUT
    step: int | None = None
    """Number of completed units of the procedure; None if unknown."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _missing: list[int] | None = None

    @classmethod
    def create(cls, timeout: float = TIMEOUT, host: str | None = None) -> RollCall:
        """Create the roll call of the default process group; every worker must call this.

        :param timeout: timeout of that process group in seconds.
        :param host: name of this machine; by default, the system's host name.
        """
        return cls(all_gather(host or socket.gethostname()), dist.get_rank(), timeout=timeout)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Replace an error of a collective in this context by WorkerLost if another worker or the network caused it."""
        try:
            yield
        except RunFailed:  # our own message
            raise
        except RuntimeError as error:
            if not isinstance(error, dist.DistError) and not BROKEN.search(str(error)):
                raise
            raise WorkerLost(self._message(error)) from error

    def missing(self) -> list[int]:
        """Return the ranks that do not report to the store.

        Several threads may call this; the check is made only once.
        """
        with self._lock:
            if self._missing is None:
                present = self._present()
                self._missing = [rank for rank in range(len(self.hosts)) if rank not in present]
            return self._missing

    def _present(self) -> set[int]:
        """Return the ranks that report to the store.

        A separate thread talks to the store, because a store whose process hangs never answers.
        """
        window = min(max(self.timeout / 20, SHORTEST), LONGEST)
        ranks, present, answered = set(range(len(self.hosts))), {self.rank}, threading.Event()
        end = time.monotonic() + window

        def meet() -> None:
            with suppress(RuntimeError, ValueError):  # the store's process is gone, or this one closes its group
                store = dist.PrefixStore("roll_call", _get_default_store())
                store.set(str(self.rank), "present")
                while present != ranks and time.monotonic() < end:
                    present.update(rank for rank in ranks - present if store.check([str(rank)]))
                    answered.set()
                    time.sleep(LOOK_EVERY)

        Background("roll call", meet, lambda: None).join(window + SHORTEST)
        return set(present) if answered.is_set() or self.rank == 0 else ranks - {0}  # the store is in rank 0's process

    def _message(self, error: RuntimeError) -> str:
        when = "" if self.step is None else f" after step {self.step}"
        seen = f"(worker {self.rank} on {self.hosts[self.rank]} saw: {_brief(str(error))})"
        if not (missing := self.missing()):
            return f"the connection between workers broke{when}, although all of them still answer {seen}"
        named = ", ".join(f"worker {rank} on {self.hosts[rank]}" for rank in missing)
        was = "was" if len(missing) == 1 else "were"
        return (
            f"{named} {was} lost{when}: no answer, so it hangs, its process ended, or the network is cut; where it is "
            f"only slow, raise cluster.timeout={self.timeout:g} {seen}"
        )


def _brief(text: str) -> str:
    """Return an error text of gloo without its source line and advice, at most 300 characters."""
    return re.sub(r"^\[[^]]*\] ", "", " ".join(text.split())).split(". This is typically")[0][:300]
