"""MLflow, beside the run and never in its way: metrics.jsonl is the truth, this sends it on.

One background thread talks to the server. The first thing that fails takes the tracker offline: one line on stderr,
the run goes on, ``dist-condense replay OUTPUT`` sends the rest later. The only import of mlflow is in this file.
"""

from __future__ import annotations

import csv
import json
import logging
import os
import queue
import re
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlflow import MlflowClient

STATE = "tracking.json"
DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # with MLflow's own default one call to a dead server takes minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
WAITING = 1000
"""Messages that may wait for the thread: at two per second eight minutes, longer than all retries."""
METRICS_PER_CALL, PARAMS_PER_CALL, PARAM_LENGTH = 1000, 100, 6000  # limits of MLflow's log_batch
PARENT = "mlflow.parentRunId"
RESULTS = ("top1_last", "top1_best")  # of evaluation.csv; its other columns are params
SENT_NOT = ("step",)  # the x-axis of the others

Entry = Mapping[str, Any]
"""A line of metrics.jsonl: ``step`` and numbers."""


class TrackingError(RuntimeError):
    """A replay could not be sent; the message says why."""


def resolve_uri(configured: str | None, output: str | Path) -> str:
    """The configured URI, else MLFLOW_TRACKING_URI, else sqlite under the output folder."""
    uri = configured or os.environ.get("MLFLOW_TRACKING_URI")
    return uri or f"sqlite:///{Path(output).expanduser().absolute()}/mlflow.db"


def masked(text: str) -> str:
    """Without the password of URLs."""
    return re.sub(r"(://[^/\s:@]*:)[^/\s@]+@", r"\1***@", text)


@dataclass
class Sent:
    """What has reached the server, kept in ``tracking.json`` so that a resumed run sends nothing twice."""

    uri: str
    """Without a password."""
    experiment: str
    run_name: str
    run_id: str | None = None
    last_step: int = 0
    children: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path) -> Sent | None:
        """What an earlier start left; None if there is nothing readable."""
        try:
            return cls(**json.loads((folder / STATE).read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, folder: Path) -> None:
        """Whole or not at all."""
        writing = folder / f".{STATE}.writing"
        writing.write_text(json.dumps(asdict(self), indent=1) + "\n")
        writing.replace(folder / STATE)


class Tracker:
    """One run on an MLflow server. Every method returns at once and never raises; ``offline`` says why it gave up."""

    offline: str | None = None
    """The reason, once something failed."""

    def __init__(self, uri: str, sent: Sent, folder: Path) -> None:
        self.uri, self.folder = uri, folder
        self._sent = sent
        self._client: MlflowClient | None = None
        self._waiting: queue.Queue[Callable[[], object] | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._gave_up = threading.Lock()

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
    ) -> Tracker:
        """Make the run, or go on with the one that ``folder/tracking.json`` names for the same server.

        :param params: nested or flat; written once, so a resumed run keeps its first ones.
        :param folder: OUTPUT, a local or shared path.
        :param run_id: overrides the one of ``tracking.json``.
        """
        folder = Path(folder).expanduser().absolute()
        earlier = Sent.read(folder)
        same = earlier is not None and earlier.uri == masked(uri) and run_id in (None, earlier.run_id)
        sent = earlier if earlier is not None and same else Sent(masked(uri), experiment, run_name, run_id)
        tracker = cls(uri, sent, folder)
        tracker._put(lambda: tracker._begin(experiment, run_name, params, tags))
        tracker._thread.start()
        return tracker

    @property
    def run_id(self) -> str | None:
        """None until the server has answered."""
        return self._sent.run_id

    def log_metrics(self, entries: Sequence[Entry]) -> None:
        """Send lines of metrics.jsonl; steps that were sent before are left out."""
        self._put(lambda: self._metrics(entries))

    def log_summary(self, values: Mapping[str, float]) -> None:
        """Numbers of the whole run, by which runs are compared."""
        self._put(lambda: self._log(self._run(), [(key, value, 0) for key, value in values.items()]))

    def log_artifacts(self, path: str | Path) -> None:
        """Send a file, or a folder under its own name."""
        self._put(lambda: self._artifacts(Path(path)))

    def child(
        self,
        name: str,
        params: Mapping[str, Any],
        metrics: Mapping[str, float],
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """A finished run nested in this one; the same name and params are sent once, also after a resume."""
        self._put(lambda: self._child(name, params, metrics, tags or {}))

    def log_evaluations(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """A child for each row of evaluation.csv, and on the run itself the mean of each set and architecture.

        Call it with all rows: the means are those of the rows given.
        """
        self._put(lambda: self._evaluations(rows))

    def finish(self, status: str = "FINISHED", timeout: float = 60.0) -> None:
        """Send what waits and end the run (``FINISHED``, ``FAILED``, ``KILLED``); waits at most ``timeout`` s."""
        self._put(lambda: self._need().set_terminated(self._run(), status))
        self._put(None)
        self._thread.join(timeout)
        if self._thread.is_alive():
            self._give_up(f"no answer within {timeout:.0f} s at the end")

    def _put(self, message: Callable[[], object] | None) -> None:
        if self.offline is None or message is None:
            try:
                self._waiting.put_nowait(message)
            except queue.Full:
                self._give_up(f"{WAITING} messages wait")

    def _work(self) -> None:
        while (message := self._waiting.get()) is not None:
            if self.offline is None:
                try:
                    message()
                except Exception as error:  # whatever the server, the network or the store says
                    self._give_up(_reason(error))

    def _give_up(self, reason: str) -> None:
        with self._gave_up:
            if self.offline is not None:
                return
            self.offline = masked(reason)
        print(
            f"MLflow at {masked(self.uri)} is not reachable ({self.offline}): the run goes on; "
            f"replay later with: dist-condense replay {self.folder}",
            file=sys.stderr,
            flush=True,
        )

    # What follows runs in the thread.

    def _begin(self, experiment: str, name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._sent.write(self.folder)
        self._client = client = _connect(self.uri)
        if self._sent.run_id is not None and not _has_run(client, self._sent.run_id):
            self._sent.run_id, self._sent.last_step, self._sent.children = None, 0, []
        if self._sent.run_id is None:
            made = client.create_run(_experiment(client, self.uri, experiment), run_name=name, tags=dict(tags))
            self._sent.run_id = made.info.run_id
            self._sent.write(self.folder)
        else:
            client.update_run(self._sent.run_id, status="RUNNING")
        self._params(self._sent.run_id, params)

    def _params(self, run: str, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        there = self._need().get_run(run).data.params
        new = [Param(key, masked(text)[:PARAM_LENGTH]) for key, text in _flat(params) if key not in there]
        for start in range(0, len(new), PARAMS_PER_CALL):
            self._need().log_batch(run, params=new[start : start + PARAMS_PER_CALL])

    def _metrics(self, entries: Sequence[Entry]) -> None:
        new = [x for x in entries if x["step"] > self._sent.last_step]
        if new:
            values = [(key, value, x["step"]) for x in new for key, value in x.items() if key not in SENT_NOT]
            self._log(self._run(), [x for x in values if isinstance(x[1], int | float)])
            self._sent.last_step = max(x["step"] for x in new)
            self._sent.write(self.folder)

    def _log(self, run: str, values: Iterable[tuple[str, float, int]]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(key, float(value), now, step) for key, value, step in values]
        for start in range(0, len(metrics), METRICS_PER_CALL):
            self._need().log_batch(run, metrics=metrics[start : start + METRICS_PER_CALL])

    def _artifacts(self, path: Path) -> None:
        if path.is_dir():
            self._need().log_artifacts(self._run(), str(path), artifact_path=path.name)
        elif path.exists():
            self._need().log_artifact(self._run(), str(path))
        else:  # not the server's fault
            print(f"not sent to MLflow: {path} is not there", file=sys.stderr, flush=True)

    def _child(
        self, name: str, params: Mapping[str, Any], metrics: Mapping[str, float], tags: Mapping[str, str]
    ) -> bool:
        key = json.dumps([name, _flat(params)])
        if key in self._sent.children:
            return False
        client, parent = self._need(), self._run()
        experiment = client.get_run(parent).info.experiment_id
        run = client.create_run(experiment, run_name=name, tags={**tags, PARENT: parent}).info.run_id
        self._params(run, params)
        self._log(run, [(k, value, 0) for k, value in metrics.items()])
        client.set_terminated(run, "FINISHED")
        self._sent.children.append(key)
        self._sent.write(self.folder)
        return True

    def _evaluations(self, rows: Sequence[Mapping[str, Any]]) -> None:
        new, found = False, defaultdict[str, list[float]](list)
        for row in rows:
            metrics = {key: float(row[key]) for key in RESULTS if row.get(key) not in (None, "")}
            params = {key: str(value) for key, value in row.items() if key not in RESULTS}
            name = f"{row['set']}, {row['architecture']}, seed {row['seed']}"
            new |= self._child(name, params, metrics, {"dist_condense.kind": "evaluation"})
            if RESULTS[0] in metrics:
                found[f"top1/{row['set']}/{row['architecture']}"].append(metrics[RESULTS[0]])
        if new:
            self._log(self._run(), [(key, fmean(values), 0) for key, values in found.items()])

    def _need(self) -> MlflowClient:
        if self._client is None:
            raise TrackingError("not connected")
        return self._client

    def _run(self) -> str:
        if self._sent.run_id is None:
            raise TrackingError("no run")
        return self._sent.run_id


def replay(
    folder: str | Path, uri: str | None = None, experiment: str | None = None, run_name: str | None = None
) -> str:
    """Send a run's folder to MLflow: config, metrics, evaluations, set and report; returns the run id.

    What an earlier start or replay sent to the same server is not sent again. Raises TrackingError.
    """
    folder = Path(folder).expanduser().absolute()
    if not (folder / "config.yaml").exists():
        raise TrackingError(f"{folder} is not the folder of a run: config.yaml is missing")
    config = yaml.safe_load((folder / "config.yaml").read_text()) or {}
    tracking = config.get("tracking") or {}
    earlier = Sent.read(folder)
    tracker = Tracker.start(
        resolve_uri(uri or tracking.get("uri"), folder),
        experiment or (earlier.experiment if earlier else None) or tracking.get("experiment") or "dist_condense",
        run_name or (earlier.run_name if earlier else None) or folder.name,
        config,
        {"dist_condense.replayed": "true"},
        folder,
    )
    with _finishing(tracker):
        tracker.log_metrics(read_metrics(folder / "metrics.jsonl"))
        if (folder / "evaluation.csv").exists():
            with (folder / "evaluation.csv").open(newline="") as file:
                tracker.log_evaluations(list(csv.DictReader(file)))
        for name in ("config.yaml", "environment.json", "evaluation.csv", "report.html", "synthetic_set"):
            if (folder / name).exists():
                tracker.log_artifacts(folder / name)
    if tracker.offline is not None or tracker.run_id is None:
        raise TrackingError(f"replay of {folder} to {masked(tracker.uri)} was not complete: {tracker.offline}")
    return tracker.run_id


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """The whole lines of metrics.jsonl; none if it is not there."""
    lines = file.read_text().splitlines() if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


@contextmanager
def _finishing(tracker: Tracker) -> Iterator[None]:
    try:
        yield
    finally:
        tracker.finish(timeout=3600)


def _connect(uri: str) -> MlflowClient:
    for key, value in DEFAULTS.items():
        os.environ.setdefault(key, value)
    from mlflow import MlflowClient

    logging.getLogger("mlflow.store.db.utils").setLevel(
        logging.CRITICAL
    )  # progress, and tracebacks of what is told in one line
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # a line for every retry
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).absolute().parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(uri)


def _experiment(client: MlflowClient, uri: str, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    place = None  # a server knows where; MLflow's own place for sqlite is the working folder, thrown away after a job
    if uri.startswith("sqlite:///"):
        place = (Path(uri.removeprefix("sqlite:///")).absolute().parent / "mlartifacts").as_uri()
    try:
        return str(client.create_experiment(name, artifact_location=place))
    except Exception:
        found = client.get_experiment_by_name(name)  # another run may have made it meanwhile
        if found is None:
            raise
        return str(found.experiment_id)


def _has_run(client: MlflowClient, run: str) -> bool:
    """False where the database was deleted or the run was; raises when the server does not answer."""
    from mlflow.exceptions import MlflowException

    try:
        return bool(client.get_run(run).info.lifecycle_stage == "active")
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """``{"a": {"b": 1}}`` to ``[("a.b", "1")]``."""
    found: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found += _flat(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", str(value)))
    return found


def _reason(error: Exception) -> str:
    """One short line: of a chain of connection errors the last one, which says what happened."""
    text = " ".join(str(error).split())
    for known in ("Connection refused", "timed out", "Name or service not known", "Network is unreachable"):
        if known in text:
            return known
    return f"{type(error).__name__}: {text[:200]}"
