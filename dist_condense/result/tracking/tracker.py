"""Tracker: a background thread that sends a run to MLflow and neither delays the run nor lets it fail.

The files in the run's folder are the record, and MLflow gets a copy. After an error the tracker is offline: it prints
one line, and the run continues. After a pause the tracker tries the server again and sends all data that the server
lacks. ``dist-condense replay OUTPUT`` does the same by hand.
"""

from __future__ import annotations

import queue
import shlex
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dist_condense.evaluation.rows import Row
from dist_condense.result.metrics_file import MetricsEntry
from dist_condense.result.tracking import server, trust
from dist_condense.result.tracking.server_run import RunAddress, ServerRun
from dist_condense.settings.tracking_address import VARIABLE
from dist_condense.system import terminal
from dist_condense.system.credentials import revealed

QUEUE_LENGTH = 1000
"""Largest number of messages that wait for the thread. At two per second they fill eight minutes, longer than all
retries."""
PAUSE = 60.0
"""Seconds between an error and the next attempt to reach the server."""


class Tracker:
    """Run on an MLflow server, updated in the background. No method raises, and only :meth:`finish` waits."""

    offline: str | None = None
    """Reason why data is not being sent; None while the server accepts the run."""
    refused = False
    """Whether the server refuses the run, so that another attempt does not help."""

    def __init__(self, run: ServerRun, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        self._run, self._params, self._tags = run, params, tags
        self._queue: queue.Queue[Callable[[], object] | None] = queue.Queue(QUEUE_LENGTH)
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._state_lock = threading.Lock()
        self._retry_at = 0.0

    @classmethod
    def start(
        cls,
        uri: str,
        *,
        experiment: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        folder: str | Path,
        run_id: str | None = None,
        trusted: bool = True,
    ) -> Tracker:
        """Create the run, or continue the one that ``folder/tracking.json`` names on the same server.

        :param params: params of the run, nested or flat; a resumed run keeps the values of its first start.
        :param folder: the run's output folder, local or shared, after which the run on the server is named.
        :param run_id: id of the run on the server, if not the id in ``tracking.json``.
        :param trusted: see :class:`ServerRun`.
        """
        folder = Path(folder).expanduser().absolute()
        run_address = RunAddress.of(folder, uri=uri, experiment=experiment, run_id=run_id)
        tracker = cls(ServerRun(uri, run_address, folder, trusted), params, tags)
        tracker._put(tracker._start_run)
        tracker._thread.start()
        return tracker

    @property
    def run_id(self) -> str | None:
        """Id of the run on the server; None until the server has answered."""
        return self._run.address.run_id

    @property
    def how_to_replay(self) -> str:
        """Command that sends the folder again, with a hint if the server's whole address must be supplied."""
        uri, folder = self._run.uri, self._run.folder
        command = f"dist-condense replay {shlex.quote(str(folder))}"
        stored = revealed(uri) == uri and not any(trust.distrusted(uri, folder, ""))
        return command if stored else f"{command} (and {VARIABLE}, set to the whole address)"

    @property
    def remedy(self) -> str | None:
        """Instruction for sending the data that the server lacks; None if nothing is missing."""
        if self.offline is None:
            return None
        first = f"{self.offline}; then " if self.refused else ""
        return f"{first}bring it up to date with: {self.how_to_replay}"

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log params some of which were unknown at the start; the others keep their values."""
        self._params = params
        self._put(lambda: self._run.log_params(params))

    def log_metrics(self, entries: Sequence[MetricsEntry]) -> None:
        """Log entries that are already in metrics.jsonl, from which they are sent again after an error."""
        self._put(lambda: self._run.log_metrics(entries))

    def log_artifacts(self, path: str | Path) -> None:
        """Log a file or a folder that is in the run's folder."""
        self._put(lambda: self._run.log_artifacts(Path(path)))

    def log_evaluations(self, rows: Sequence[Row]) -> None:
        """Log rows of evaluation.csv. Pass all of its rows, because means are computed over ``rows``."""
        self._put(lambda: self._run.log_evaluations(rows))

    def finish(self, status: str | None = "FINISHED", timeout: float = 60.0) -> None:
        """Send all queued messages and end the run on the server, waiting at most ``timeout`` seconds.

        :param status: ``FINISHED``, ``FAILED`` or ``KILLED``; None leaves the run open, because it will be resumed.
        """
        if status is not None:
            self._put(lambda: self._run.finish(status))
        self._put(None)
        self._thread.join(timeout)
        if self._thread.is_alive():
            self._go_offline(TimeoutError(f"no answer within {timeout:.0f} s at the end"))

    def _put(self, message: Callable[[], object] | None) -> None:
        try:
            self._queue.put_nowait(message)
        except queue.Full:
            self._go_offline(TimeoutError(f"{QUEUE_LENGTH} messages wait"))

    def _work(self) -> None:
        while (message := self._queue.get()) is not None:
            if self.offline is None or self._is_back():
                self._attempt(message)

    def _attempt(self, message: Callable[[], object]) -> bool:
        try:
            message()
        except Exception as error:  # the server, the network or the artifact store may raise any error
            self._go_offline(error)
            return False
        return True

    def _is_back(self) -> bool:
        """After the pause, try to send the server all data that it lacks; return whether that succeeded."""
        if time.monotonic() < self._retry_at or not self._attempt(self._catch_up):
            return False
        self.offline, self.refused = None, False
        terminal.event(f"MLflow at {self._run.uri} answers again and has what it missed")
        return True

    def _start_run(self) -> None:
        self._run.start(self._params, self._tags)

    def _catch_up(self) -> None:
        self._start_run()
        self._run.log_everything()

    def _go_offline(self, error: Exception) -> None:
        with self._state_lock:
            reported = self.offline is not None
            self.offline, self.refused = server.reason(error), server.is_refusal(error)
            self._retry_at = time.monotonic() + PAUSE
        if reported:
            return
        if self.refused:
            problem = f"refuses the run, which continues: {self.offline}; then replay with"
        else:
            problem = f"is not reachable ({self.offline}): the run continues; replay later with"
        terminal.event(f"MLflow at {self._run.uri} {problem}: {self.how_to_replay}")
