"""MLflow, beside the run and never in its way: what lies in the run's folder is the truth, this sends it on.

One background thread talks to the server. What fails takes the tracker offline: one line on stderr, the run goes on,
the server is asked again after a pause and then gets what it missed. ``dist-condense replay OUTPUT`` does the same by
hand. Everything may be sent again: the server is asked what it has. The only import of mlflow is in this file.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import re
import shlex
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean, stdev
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from dist_condense.evaluation.rows import Row, RowsError, read_csv
from dist_condense.result import metrics_file, trust
from dist_condense.result.metrics_file import RATE, STEP, TIME, Entry, counters
from dist_condense.result.synthetic_set import SyntheticSetError, read_card
from dist_condense.result.tags import stored_config, tags_of
from dist_condense.settings import run_folder
from dist_condense.settings.run_folder import RunFolder
from dist_condense.settings.tracking_address import SERVERS, VARIABLE, deleted, problems, resolve_uri, sqlite_file
from dist_condense.system import records, terminal
from dist_condense.system.conversion import Rule
from dist_condense.system.credentials import address, masked, revealed
from dist_condense.system.files import write_atomically

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

Id = Annotated[str, Rule("1 to 100 letters, digits, _ or -", re.compile(r"[\w-]{1,100}", re.ASCII).fullmatch)]
"""Of a run on a server, and of an output folder; part of a query, and of a path."""
DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # with MLflow's own default one call to a dead server takes minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # two lines for every child
    "GIT_PYTHON_REFRESH": "quiet",
}
WAITING = 1000
"""Messages that may wait for the thread: at two per second eight minutes, longer than all retries."""
PAUSE = 60.0
"""Seconds until a server that failed is asked again."""
ASKING = 15.0
"""Seconds that a start waits for a server's word on the experiment."""
PASSING = (408, 429)
"""HTTP answers of the 400s that are no refusal."""
METRICS_PER_CALL, PARAMS_PER_CALL, PARAM_LENGTH = 1000, 100, 6000  # limits of MLflow's log_batch
PARENT, FOLDER = "mlflow.parentRunId", "dist_condense.folder"
KIND = {"mlflow.experimentKind": "custom_model_development"}  # the experiment opens with its table of runs
NOT_PARAMS = ("output", "tracking")  # two runs always differ in them, and never by them
RESULTS = ("top1_last", "top1_best")  # of evaluation.csv; its other columns are params
PROXIED = "mlflow-artifacts"
"""The scheme of files that a server takes itself."""
ARTIFACTS = (RunFolder.config, RunFolder.environment, RunFolder.evaluation, RunFolder.report, RunFolder.synthetic_set)


class TrackingError(RuntimeError):
    """A replay could not be sent; the message says why."""


class Refused(TrackingError):
    """The server answers and does not take the run; the message says what to change."""


def _metric_name(text: str) -> str:
    """With `_` for the characters that MLflow refuses in a metric's name."""
    return re.sub(r"[^\w/.: -]", "_", text)


@dataclass(kw_only=True)
class Address:
    """The run's place on a server, kept in ``tracking.json``."""

    uri: str
    """Without a password."""
    experiment: str
    run_name: str
    run_id: Id | None = None
    folder: Id = field(default_factory=lambda: uuid4().hex)
    """The output folder's own name on every server, by which a run is found whose making was not answered."""

    @classmethod
    def read(cls, folder: Path) -> Address | None:
        """What an earlier start left; None if there is nothing readable, or an id that no server gives."""
        try:
            return records.read(cls, RunFolder(folder).tracking, ignore_unknown=True)
        except records.Unreadable:
            return None

    def write(self, folder: Path) -> None:
        """Whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(RunFolder(folder).tracking, (json.dumps(asdict(self), indent=1) + "\n").encode())

    @classmethod
    def of(cls, folder: Path, *, uri: str, experiment: str, run_name: str, run_id: str | None = None) -> Address:
        """The one of an earlier start where it names the same server and run, else a new one of the same folder."""
        earlier, shown = cls.read(folder), str(address(uri))
        fresh = cls(uri=shown, experiment=experiment, run_name=run_name, run_id=run_id)
        if earlier is None:
            return fresh
        if earlier.uri == shown and run_id in (None, earlier.run_id):
            return earlier
        return replace(fresh, folder=earlier.folder)


class ServerRun:
    """One run on an MLflow server. All of it may be said again: what the server has already is left out.

    Errors are whatever the server, the network or the store says. Of one that is not trusted, since a folder's
    config.yaml alone names it, no path, store or other server is taken as the place of files: it keeps them itself.
    """

    def __init__(self, uri: str, place: Address, folder: Path, trusted: bool = True) -> None:
        self.uri, self.address, self.folder, self.trusted = address(uri), place, folder, trusted
        self._client: MlflowClient | None = None
        self._place: str | None = None
        self._last_step = 0

    @property
    def client(self) -> MlflowClient:
        """Connected by :meth:`begin`."""
        if self._client is None:
            raise TrackingError("not connected")
        return self._client

    @property
    def run(self) -> str:
        """Its id, known after :meth:`begin`."""
        if self.address.run_id is None:
            raise TrackingError("no run")
        return self.address.run_id

    def begin(self, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Make the run or go on with it; a resumed one keeps its first params."""
        self.address.write(self.folder)
        self._client = client = _connect(self.uri)
        if self.address.run_id is not None and not _has_run(client, self.address.run_id):
            self.address.run_id = None
        if self.address.run_id is None:
            self.address.run_id = self._found() or self._made(tags)
            self.address.write(self.folder)
        place = str(client.get_run(self.run).info.artifact_uri)
        self._check_place(place)
        self._place = place
        client.update_run(self.run, status="RUNNING")
        self._params(self.run, {key: value for key, value in params.items() if key not in NOT_PARAMS})
        history = client.get_metric_history(self.run, RATE)
        self._last_step = max((metric.step for metric in history), default=0)

    def _check_place(self, artifacts: str) -> None:
        """MLflow's client writes files wherever the server says, also on this machine. A database in the run's folder
        may name that folder, a server that is not trusted itself alone. Raises Refused for another place."""
        place = urlsplit(artifacts)
        if not trust.is_inside(sqlite_file(self.uri), self.folder):
            if not self.trusted and (place.scheme != PROXIED or place.netloc):
                raise Refused(
                    f"{RunFolder(self.folder).config} alone names it, and it would have files written to "
                    f"{masked(artifacts)[:200]} instead of keeping them itself ({PROXIED}:); if it is yours, give its "
                    f"address: replay --uri {self.uri}, evaluate tracking.uri={self.uri}, or {VARIABLE}"
                )
        elif place.scheme not in ("", "file") or not trust.is_inside(Path(unquote(place.path)), self.folder):
            raise Refused(
                f"the database keeps what it is sent at {artifacts}, which is not in {self.folder}; where the folder "
                "was moved, move mlflow.db out of it, and a new one is made"
            )

    def metrics(self, entries: Iterable[Entry]) -> None:
        """Lines of metrics.jsonl in order. An entry is in one call, which the server takes whole or not at all."""
        waiting: list[tuple[str, float, int, float | None]] = []
        for entry in [x for x in entries if x[STEP] > self._last_step]:
            values = _values(entry)
            if len(waiting) + len(values) > METRICS_PER_CALL:
                self._log(self.run, waiting)
                waiting = []
            waiting += values
            self._last_step = entry[STEP]
        self._log(self.run, waiting)

    def evaluations(self, rows: Sequence[Row]) -> None:
        """A finished child for each row of evaluation.csv, known by its name, and means over seeds on the run itself.

        A mean is ``SET/ARCHITECTURE/PROTOCOL_N_epochs/top1``, its step the number of seeds; beside it ``top1_std``.
        MLflow has no ``=`` in a metric's name, so there ``convnet:depth=4`` is ``convnet:depth_4``.
        """
        there, found = self._children(), defaultdict[str, list[float]](list)
        for row in rows:
            params = {key: str(value) for key, value in asdict(row).items() if key not in RESULTS}
            metrics = {key: value for key in RESULTS if (value := getattr(row, key)) is not None}
            kind = (row.set, row.architecture, row.protocol, row.epochs)
            name = f"{', '.join(map(str, kind))} epochs, seed {row.seed}"
            self._child(there.get(name), name, params, metrics)
            found[_metric_name("{}/{}/{}_{}_epochs/top1".format(*kind))].append(row.top1_last)
        before = self.client.get_run(self.run).data.metrics
        means = [(key, fmean(values), len(values), None) for key, values in found.items()]
        means += [(f"{key}_std", stdev(values), len(values), None) for key, values in found.items() if len(values) > 1]
        self._log(self.run, [mean for mean in means if before.get(mean[0]) != mean[1]])

    def artifacts(self, path: Path) -> None:
        """A file, or a folder under its own name; it replaces what the server has. Raises Refused for a link."""
        if told := next(run_folder.strange(path), None):
            raise Refused(told)
        if path.is_dir():
            self._store.log_artifacts(str(path), path.name)
        elif path.name == RunFolder.config.name and path.exists():  # earlier versions stored passwords in it
            with TemporaryDirectory() as folder:
                copy = Path(folder, path.name)
                copy.write_text(masked(path.read_text(encoding="utf-8")), encoding="utf-8")
                self._store.log_artifact(str(copy))
        elif path.exists():
            self._store.log_artifact(str(path))
        else:  # not the server's fault
            terminal.say(f"not sent to MLflow: {path} is not there")

    @property
    def _store(self) -> ArtifactRepository:
        """Of the artifact location that :meth:`begin` has checked; MLflow's client would ask for it once more."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
        from mlflow.utils.uri import add_databricks_profile_info_to_artifact_uri

        if self._place is None:
            raise TrackingError("not connected")
        uri = revealed(self.uri)
        return get_artifact_repository(add_databricks_profile_info_to_artifact_uri(self._place, uri), uri)

    def everything(self) -> None:
        """All that lies in the folder now."""
        files = RunFolder(self.folder)
        self.metrics(metrics_file.read(files.metrics))
        self.evaluations(read_csv(files.evaluation))
        for entry in ARTIFACTS:
            if (path := self.folder / entry.name).exists():
                self.artifacts(path)

    def end(self, status: str) -> None:
        """``FINISHED``, ``FAILED`` or ``KILLED``."""
        self.client.set_terminated(self.run, status)

    def _found(self) -> str | None:
        """The run of this folder, where its making was not answered, or another server was used since."""
        experiment = _experiment(self.client, self.uri, self.address.experiment)
        there = self.client.search_runs([experiment], f"tags.`{FOLDER}` = '{self.address.folder}'", max_results=1)
        return str(there[0].info.run_id) if there else None

    def _made(self, tags: Mapping[str, str]) -> str:
        experiment = _experiment(self.client, self.uri, self.address.experiment)
        tags = {**tags, FOLDER: self.address.folder}
        return str(self.client.create_run(experiment, run_name=self.address.run_name, tags=tags).info.run_id)

    def _children(self) -> dict[str, Run]:
        """By name."""
        experiment, token = self.client.get_run(self.run).info.experiment_id, None
        found: dict[str, Run] = {}
        while True:
            page = self.client.search_runs([experiment], f"tags.`{PARENT}` = '{self.run}'", page_token=token)
            found |= {str(child.info.run_name): child for child in page}
            token = page.token
            if not token:
                return found

    def _child(self, there: Run | None, name: str, params: Mapping[str, str], metrics: Mapping[str, float]) -> None:
        """What is missing of it: it may have been begun when the server went away."""
        if there is not None and there.info.status == "FINISHED":
            return
        have = there.data.metrics if there is not None else {}
        if there is None:
            experiment = self.client.get_run(self.run).info.experiment_id
            tags = {"dist_condense.kind": "evaluation", PARENT: self.run}
            there = self.client.create_run(experiment, run_name=name, tags=tags)
        child = str(there.info.run_id)
        self._params(child, params)
        self._log(child, [(key, value, 0, None) for key, value in metrics.items() if key not in have])
        self.client.set_terminated(child, "FINISHED")

    def _params(self, run: str, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        there = self.client.get_run(run).data.params
        new = [Param(key, masked(text)[:PARAM_LENGTH]) for key, text in _flat(params) if key not in there]
        for start in range(0, len(new), PARAMS_PER_CALL):
            self.client.log_batch(run, params=new[start : start + PARAMS_PER_CALL])

    def _log(self, run: str, values: Sequence[tuple[str, float, int, float | None]]) -> None:
        """(key, value, step, seconds since 1970 or None: now). The time is for MLflow's axis; nothing depends on it."""
        from mlflow.entities import Metric

        now = time.time()
        metrics = [
            Metric(key, float(value), int((now if at is None else at) * 1000), step) for key, value, step, at in values
        ]
        if metrics:
            self.client.log_batch(run, metrics=metrics)


class Tracker:
    """A run in the background. Every method returns at once and never raises.

    What is not delivered because the server is away lies in the folder, and is sent when it answers again.
    """

    offline: str | None = None
    """The reason, while the server is away or refuses the run."""
    refused = False
    """Whether that is a refusal, which waiting does not mend."""

    def __init__(self, server: ServerRun, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        self._server, self._params, self._tags = server, params, tags
        self._waiting: queue.Queue[Callable[[], object] | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._gave_up = threading.Lock()
        self._ask_at = 0.0

    @classmethod
    def start(
        cls,
        uri: str,
        experiment: str,
        run_name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        folder: str | Path,
        run_id: str | None = None,
        trusted: bool = True,
    ) -> Tracker:
        """Make the run, or go on with the one that ``folder/tracking.json`` names for the same server.

        :param params: nested or flat; written once, so a resumed run keeps its first ones.
        :param folder: OUTPUT, a local or shared path.
        :param run_id: overrides the one of ``tracking.json``.
        :param trusted: of :class:`ServerRun`.
        """
        folder = Path(folder).expanduser().absolute()
        place = Address.of(folder, uri=uri, experiment=experiment, run_name=run_name, run_id=run_id)
        tracker = cls(ServerRun(uri, place, folder, trusted), params, tags)
        tracker._put(tracker._begin)
        tracker._thread.start()
        return tracker

    @property
    def run_id(self) -> str | None:
        """None until the server has answered."""
        return self._server.address.run_id

    @property
    def how_to_replay(self) -> str:
        """The command, and what has to be given with it where the folder alone is not believed or has no password."""
        uri, folder = self._server.uri, self._server.folder
        command = f"dist-condense replay {shlex.quote(str(folder))}"
        stored = revealed(uri) == uri and not any(trust.distrusted(uri, folder, ""))
        return command if stored else f"{command} (and {VARIABLE}, set to the whole address)"

    @property
    def remedy(self) -> str | None:
        """What to do about what was not sent; None while nothing is missing."""
        if self.offline is None:
            return None
        first = f"{self.offline}; then " if self.refused else ""
        return f"{first}bring it up to date with: {self.how_to_replay}"

    def log_metrics(self, entries: Sequence[Entry]) -> None:
        """Lines that metrics.jsonl has already."""
        self._put(lambda: self._server.metrics(entries))

    def log_artifacts(self, path: str | Path) -> None:
        """A file or a folder in the run's folder."""
        self._put(lambda: self._server.artifacts(Path(path)))

    def log_evaluations(self, rows: Sequence[Row]) -> None:
        """All rows of evaluation.csv: the means are those of the rows given."""
        self._put(lambda: self._server.evaluations(rows))

    def finish(self, status: str | None = "FINISHED", timeout: float = 60.0) -> None:
        """Send what waits and end the run (``FINISHED``, ``FAILED``, ``KILLED``; None: leave it to go on); waits at
        most ``timeout`` s."""
        if status is not None:
            self._put(lambda: self._server.end(status))
        self._put(None)
        self._thread.join(timeout)
        if self._thread.is_alive():
            self._give_up(TimeoutError(f"no answer within {timeout:.0f} s at the end"))

    def _put(self, message: Callable[[], object] | None) -> None:
        try:
            self._waiting.put_nowait(message)
        except queue.Full:
            self._give_up(TimeoutError(f"{WAITING} messages wait"))

    def _work(self) -> None:
        while (message := self._waiting.get()) is not None:
            if self.offline is None or self._answers_again():
                self._attempt(message)

    def _attempt(self, message: Callable[[], object]) -> bool:
        try:
            message()
        except Exception as error:  # whatever the server, the network or the store says
            self._give_up(error)
            return False
        return True

    def _answers_again(self) -> bool:
        """Whether the pause is over and the server now has what it missed."""
        if time.monotonic() < self._ask_at or not self._attempt(self._catch_up):
            return False
        self.offline, self.refused = None, False
        terminal.say(f"MLflow at {self._server.uri} answers again and has what it missed")
        return True

    def _begin(self) -> None:
        self._server.begin(self._params, self._tags)

    def _catch_up(self) -> None:
        self._begin()
        self._server.everything()

    def _give_up(self, error: Exception) -> None:
        with self._gave_up:
            told, self.offline, self.refused = self.offline is not None, _reason(error), _refuses(error)
            self._ask_at = time.monotonic() + PAUSE
        if told:
            return
        server = f"MLflow at {self._server.uri}"
        if self.refused:
            text = f"{server} refuses the run, which goes on: {self.offline}; then replay with: {self.how_to_replay}"
        else:
            text = (
                f"{server} is not reachable ({self.offline}): the run goes on; replay later with: {self.how_to_replay}"
            )
        terminal.say(text)


def replay(
    folder: str | Path, uri: str | None = None, experiment: str | None = None, run_name: str | None = None
) -> str:
    """Send a run's folder to MLflow: config, metrics, evaluations, set and report; returns the run id.

    What the server has is not sent again. Raises TrackingError; ConfigError for a folder in which something is no plain
    file.
    """
    folder = Path(folder).expanduser().absolute()
    run_folder.check(folder)
    files = RunFolder(folder)
    if not files.config.exists():
        raise TrackingError(f"{folder} is not the folder of a run: {files.config.name} is missing")
    try:
        config = stored_config(folder)
    except ValueError as error:
        raise TrackingError(str(error)) from error
    tracking = config.get("tracking") or {}
    if not isinstance(tracking, dict) or not isinstance(tracking.get("uri"), str | None):
        raise TrackingError(f"{files.config}: tracking.uri is no address; give one, --uri")
    if uri is None and (told := next(trust.distrusted(tracking.get("uri"), folder, "--uri "), None)):
        raise TrackingError(told)
    given = address(uri, bare=True) if uri else tracking.get("uri")
    trusted = bool(uri) or trust.is_own(tracking.get("uri"))
    uri = resolve_uri(given, folder)
    experiment = experiment or tracking.get("experiment") or "dist_condense"
    if told := next(problems(given, folder, experiment), None):
        raise TrackingError(told)
    try:
        read_csv(files.evaluation)
    except RowsError as error:
        raise TrackingError(str(error)) from error
    place = Address.of(folder, uri=uri, experiment=experiment, run_name=run_name or folder.name)
    server = ServerRun(uri, place, folder, trusted)
    try:
        server.begin(config, {**tags_of(folder), "dist_condense.replayed": "true"})
        server.everything()
        server.end("FINISHED" if _is_complete(folder) else "FAILED")
    except Exception as error:  # whatever the server, the network or the store says
        raise TrackingError(f"replay of {folder} to {uri} was not complete: {_reason(error)}") from error
    return server.run


def _is_complete(folder: Path) -> bool:
    try:
        return read_card(RunFolder(folder).synthetic_set).complete
    except SyntheticSetError:
        return False


def refusal(uri: str, experiment: str) -> str | None:
    """What a server that answers has against a run in this experiment; None where it takes it, or does not answer."""
    if not _listens(uri):
        return None
    found: list[str] = []

    def ask() -> None:
        try:
            _active(_connect(uri), uri, experiment)
        except Exception as error:  # whatever the server or the network says
            if _refuses(error):
                found.append(_reason(error))

    asking = threading.Thread(target=ask, name="tracking", daemon=True)
    asking.start()
    asking.join(ASKING)
    return found[0] if found else None


def _listens(uri: str) -> bool:
    """Whether somebody takes connections at a server's address; MLflow would try for half a minute."""
    parts = urlsplit(revealed(uri))
    if parts.scheme not in SERVERS or parts.hostname is None:
        return False
    port = parts.port or socket.getservbyname(parts.scheme)
    try:
        socket.create_connection((parts.hostname, port), timeout=ASKING / 3).close()
    except OSError:
        return False
    return True


def _connect(uri: str) -> MlflowClient:
    for key, value in DEFAULTS.items():
        os.environ.setdefault(key, value)
    from mlflow import MlflowClient

    logging.getLogger("mlflow.store.db.utils").setLevel(
        logging.CRITICAL
    )  # progress, and tracebacks of what is told in one line
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # a line for every retry
    if (file := sqlite_file(uri)) is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(revealed(uri))


def _active(client: MlflowClient, uri: str, name: str) -> str | None:
    """The id of an experiment; None where there is none yet. Raises Refused for one that is deleted."""
    found = client.get_experiment_by_name(name)
    if found is None:
        return None
    if found.lifecycle_stage == "deleted":
        raise Refused(deleted(name, str(found.experiment_id), uri))
    return str(found.experiment_id)


def _experiment(client: MlflowClient, uri: str, name: str) -> str:
    found = _active(client, uri, name)
    if found is not None:
        return found
    place = None  # a server knows where; MLflow's own place for sqlite is the working folder, thrown away after a job
    if (file := sqlite_file(uri)) is not None:
        place = (file.parent / "mlartifacts").as_uri()
    try:
        return str(client.create_experiment(name, artifact_location=place, tags=KIND))
    except Exception:
        found = _active(client, uri, name)  # another run may have made it meanwhile
        if found is None:
            raise
        return found


def _has_run(client: MlflowClient, run: str) -> bool:
    """False where the database was deleted or the run was; raises when the server does not answer."""
    from mlflow.exceptions import MlflowException

    try:
        return bool(client.get_run(run).info.lifecycle_stage == "active")
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise


def _values(entry: Entry) -> list[tuple[str, float, int, float | None]]:
    """(key, value, step, time) of the numbers of an entry but its counters."""
    numbers = {key: value for key, value in entry.items() if key not in counters(entry)}
    at = numbers.pop(TIME, None)
    step = int(numbers.pop(STEP))
    return [(key, value, step, at) for key, value in numbers.items()]


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """``{"a": {"b": 1, "c": ["d", "e"]}}`` to ``[("a.b", "1"), ("a.c", "d, e")]``; what is not set is left out."""
    found: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{key}.")
        elif value is not None and value != []:
            found.append((f"{prefix}{key}", ", ".join(map(str, value)) if isinstance(value, list) else str(value)))
    return found


def _refuses(error: Exception) -> bool:
    """Whether the server, or this machine's MLflow, answers and says no; everything else may pass."""
    if isinstance(error, Refused | ImportError):  # of a database's driver
        return True
    status = getattr(error, "get_http_status_code", int)()  # of MLflow's exceptions
    return 400 <= status < 500 and status not in PASSING


def _reason(error: Exception) -> str:
    """One short line without secrets: of a chain of connection errors the last one, which says what happened."""
    text = masked(" ".join(str(error).split()))  # before it is cut
    if isinstance(error, Refused | TimeoutError) and text:
        return text
    for known in ("Connection refused", "timed out", "Name or service not known", "Network is unreachable"):
        if known in text:
            return known
    return f"{type(error).__name__}: {text[:200]}"
