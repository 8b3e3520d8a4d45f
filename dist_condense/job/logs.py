"""What a worker and the driver do, as lines of JSON for machines to read; a person is told on the terminal."""

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
from dist_condense.system.credentials import masked

PACKAGE = "dist_condense"


@dataclass
class Lines(logging.Formatter):
    """A record as one line: when, how grave, of which run and start of it, where, at which step, what.

    What a message was made of (``log.info("%(loss).4g", {"loss": x})``) stands beside it; a traceback is ``error``.

    :param start: which start of the run this is.
    :param worker: knows rank and step; None in the driver.
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
        """A disk that is full: the run tells it by what it cannot do without, and a log is not that."""


@contextmanager
def kept(folder: Path, start: str, worker: Coordinator | None = None, logger: str = PACKAGE) -> Iterator[None]:
    """In ``folder/logs``, what ``logger`` and those below it say while it is entered, and the error that ends it.

    :param folder: of the run, and named like it.
    """
    name = "driver" if worker is None else f"worker_{worker.rank}"
    place = RunFolder(folder).logs
    place.mkdir(parents=True, exist_ok=True)
    file, log = _File(place / f"{name}.jsonl"), logging.getLogger(logger)
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
        with suppress(OSError):  # what a full disk did not take
            file.close()
