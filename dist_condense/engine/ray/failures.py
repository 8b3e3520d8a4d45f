"""Causes of a worker group's failure.

Ray Train's controller, a process of its own, imports this module but not torch, which takes seconds.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ray.exceptions import RayActorError
from ray.train import UserCallback

from dist_condense.engine.errors import RunFailed, WorkerLost
from dist_condense.system import terminal
from dist_condense.system.credentials import masked

HANGING = "health check has been hanging"
"""Part of Ray's message about a worker whose process does not answer; such a worker has no other message."""


class Restarts(UserCallback):
    """Callback that records why a group failed; Ray calls it in a separate process on the driver's node."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Append the cause of a group's failure to the file; whether the group is restarted is not known yet."""
        text = terminal.printable(masked(cause(worker_exceptions)))
        with self.file.open("a") as file:
            file.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {text}\n")


def cause(failures: dict[int, Exception]) -> str:
    """Return why a group failed: a worker's RunFailed, else lost workers, else a WorkerLost, else all errors."""
    failures = dict(sorted(failures.items()))
    for rank, error in failures.items():
        if message := _message(error, RunFailed):
            return f"worker {rank}: {message}"
    if lost := [rank for rank, error in failures.items() if _was_lost(error)]:
        return "; ".join(f"worker {rank}{_where(failures[rank])} was lost: {_loss(failures[rank])}" for rank in lost)
    for error in failures.values():
        if message := _message(error, WorkerLost):
            return message
    return "; ".join(f"worker {rank}: {innermost(error)}" for rank, error in failures.items())


def _message(error: Exception, kind: type[Exception]) -> str:
    """Return the message of ``error`` if it is of class ``kind``, else an empty string.

    The message is also found where Ray quotes such an error in the text of another error.
    """
    if isinstance(error, kind):
        return str(error)
    _, separator, message = innermost(error).rpartition(f"{kind.__name__}: ")
    return message if separator else ""


def _was_lost(error: Exception) -> bool:
    """Return whether the worker's process has ended or hangs, as opposed to its code having raised an exception."""
    failure = getattr(error, "health_check_failure", error)
    signs = ("actor is dead", "ActorDiedError", HANGING)
    return isinstance(failure, RayActorError) or any(sign in str(error) for sign in signs)


def _loss(error: Exception) -> str:
    if HANGING in str(error):
        return "it hangs and does not answer Ray; where it is only slow, raise cluster.timeout"
    return f"its process ended, or its node did ({innermost(error)[:300]})"


def _where(error: Exception) -> str:
    """Return the worker's host as the end of a phrase, or an empty string if Ray does not report it."""
    host = re.search(r"hostname='([^']*)'.*?node_ip='([^']*)'", str(error), re.DOTALL)
    return f" on {host[1]} ({host[2]})" if host else ""


def innermost(error: Exception) -> str:
    """Return the last line of an error's text, where Ray quotes the original error, or the name of its class."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return masked(lines[-1]) if lines else type(error).__name__  # masked here, since callers truncate it
