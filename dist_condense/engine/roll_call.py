"""Detection of lost workers: when a collective fails, the workers meet at the store of their process group."""

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

from dist_condense.engine.errors import RunFailed
from dist_condense.engine.exchange import all_gather
from dist_condense.system.background import Background

TIMEOUT = 600.0
"""Seconds that a collective waits by default."""
SHORTEST, LONGEST = 2.0, 30.0
"""Limits of the seconds that the workers wait for each other at the store: a twentieth of the timeout within these."""
LOOK_EVERY = 0.1
BROKEN = re.compile(r"timed? ?out|connect|closed|reset|broken pipe|unreachable|no route|socket", re.IGNORECASE)
"""Words in errors of gloo, which have no type of their own, that point to another worker or the network."""


class WorkerLost(RuntimeError):
    """Error for workers that no longer answer; the message names them, their hosts, the step and the key to change."""


@dataclass
class RollCall:
    """A worker's knowledge of the other workers; shared by all process groups between them.

    :param hosts: host of each rank, for messages.
    :param timeout: seconds that a collective waits for other workers.
    """

    hosts: Sequence[str]
    rank: int
    _: KW_ONLY
    timeout: float = TIMEOUT
    step: int | None = None
    """Completed units of the procedure, where known."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _missing: list[int] | None = None

    @classmethod
    def create(cls, timeout: float = TIMEOUT, host: str | None = None) -> RollCall:
        """Create the roll call of the default process group, whose timeout this is; every worker calls it.

        :param host: name of this machine; the system's own by default.
        """
        return cls(all_gather(host or socket.gethostname()), dist.get_rank(), timeout=timeout)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Raise WorkerLost for an error of a collective in this context that another worker or the network caused."""
        try:
            yield
        except RunFailed:  # our own message
            raise
        except RuntimeError as error:
            if not isinstance(error, dist.DistError) and not BROKEN.search(str(error)):
                raise
            raise WorkerLost(self._message(error)) from error

    def missing(self) -> list[int]:
        """Return the ranks that do not come to the store. Several threads may call this; the roll is called once."""
        with self._lock:
            if self._missing is None:
                present = self._present()
                self._missing = [rank for rank in range(len(self.hosts)) if rank not in present]
            return self._missing

    def _present(self) -> set[int]:
        """Return the ranks that answer; asked in a thread, because the store's process may hang and never answer."""
        window = min(max(self.timeout / 20, SHORTEST), LONGEST)
        ranks, present, answered = set(range(len(self.hosts))), {self.rank}, threading.Event()
        end = time.monotonic() + window

        def meet() -> None:
            store = dist.PrefixStore("roll_call", _get_default_store())
            with suppress(RuntimeError):  # the store's process is gone
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
    """Remove gloo's source line and advice."""
    return re.sub(r"^\[[^]]*\] ", "", " ".join(text.split())).split(". This is typically")[0][:300]
