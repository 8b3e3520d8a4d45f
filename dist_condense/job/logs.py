"""Log files of the workers and the driver, as JSON lines for programs; messages for people go to the terminal.

Rooms that know no terminal only log; :func:`printed` prints their messages as well.
"""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from dist_condense.engine.coordinator import Coordinator
from dist_condense.settings.run_folder import RunFolder
from dist_condense.system import records, terminal
from dist_condense.system.credentials import masked

PACKAGE = "dist_condense"
SILENT = (f"{PACKAGE}.core", f"{PACKAGE}.engine", f"{PACKAGE}.job.agreed")
"""Loggers whose messages for people are printed by :func:`printed`, because these rooms print none themselves."""
FIRST = "worker_0.jsonl"
"""Name of the log of the first worker."""


@dataclass
class Lines(logging.Formatter):
    """Formatter that writes a log record as one JSON line.

    Its keys are time, level, run, start, rank, host, step, logger and message. Named arguments of a message, as in
    ``log.info("%(loss).4g", {"loss": x})``, are added by name, and a traceback as ``error``.

    :param run: name of the run.
    :param start: identifier of this start of the run, see :attr:`dist_condense.job.claim.Claim.start`.
    :param worker: coordinator that provides rank and step; None in the driver.
    """

    run: str
    start: str
    worker: Coordinator | None

    def __post_init__(self) -> None:
        super().__init__()
        self.host = socket.gethostname()

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "run": self.run,
            "start": self.start,
            "rank": self.worker.rank if self.worker else None,
            "host": self.host,
            "step": self.worker.step if self.worker else None,
            "logger": record.name,
            "message": masked(record.getMessage()),
        }
        if isinstance(record.args, Mapping):
            line |= {str(key): masked(x) if isinstance(x, str) else x for key, x in record.args.items()}
        if record.exc_info:
            line["error"] = masked(self.formatException(record.exc_info))
        return json.dumps(line, default=str)


class _File(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """Ignore a failed write, for example on a full disk, because a run can continue without its log.

        The run reports a full disk when it writes a file that it needs.
        """


class _Printed(logging.Handler):
    """Handler that prints notes and warnings."""

    def emit(self, record: logging.LogRecord) -> None:
        terminal.event(f"{'warning' if record.levelno >= logging.WARNING else 'note'}: {record.getMessage()}")


@contextmanager
def printed(notes: bool = True) -> Iterator[None]:
    """Print what the rooms :data:`SILENT` log within the context.

    :param notes: whether notes are printed as well as warnings.
    """
    handler, loggers = _Printed(logging.INFO if notes else logging.WARNING), [*map(logging.getLogger, SILENT)]
    before = [log.level for log in loggers]
    for log in loggers:
        log.addHandler(handler)
        log.setLevel(logging.INFO)
    try:
        yield
    finally:
        for log, level in zip(loggers, before, strict=True):
            log.removeHandler(handler)
            log.setLevel(level)


def repeat(line: str) -> None:
    """Print a line of a worker's log, whose own output nobody sees on Ray, if :func:`printed` printed it there."""
    try:
        entry = records.parsed(line.encode(), FIRST)
        logger, level, message = (str(entry[key]) for key in ("logger", "level", "message"))
    except (records.Unreadable, TypeError, KeyError):  # a line that was cut
        return
    if any(f"{logger}.".startswith(f"{silent}.") for silent in SILENT):
        terminal.event(f"{'note' if level == 'INFO' else 'warning'}: {message}")


@contextmanager
def kept(folder: Path, start: str, worker: Coordinator | None = None, logger: str = PACKAGE) -> Iterator[None]:
    """Log to a file in ``folder/logs`` within the context: messages of ``logger``, and an error that ends the context.

    :param folder: folder of the run, whose name is the name of the run.
    :param start: identifier of this start of the run, see :attr:`dist_condense.job.claim.Claim.start`.
    :param worker: coordinator of the worker; None in the driver.
    :param logger: name of the logger.
    """
    name = "driver" if worker is None else f"worker_{worker.rank}"
    logs = RunFolder(folder).logs
    logs.mkdir(parents=True, exist_ok=True)
    file, log = _File(logs / f"{name}.jsonl"), logging.getLogger(logger)
    file.setFormatter(Lines(folder.name, start, worker))
    log.addHandler(file)
    log.setLevel(logging.INFO)
    try:
        yield
    except BaseException as error:
        log.error("ended by %s: %s", type(error).__name__, error, exc_info=True)
        raise
    else:
        log.info("ended")
    finally:
        log.removeHandler(file)
        with suppress(OSError):  # for example a full disk
            file.close()
