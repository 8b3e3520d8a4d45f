"""Connections to MLflow: clients, experiments, and the classification of errors."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from filelock import FileLock

from dist_condense.result.tracking.trust import ARTIFACTS
from dist_condense.settings.tracking_address import LOCK, SERVERS, deleted, sqlite_file
from dist_condense.system.credentials import masked, revealed

if TYPE_CHECKING:
    from mlflow import MlflowClient

DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # with MLflow's own default one call to a dead server takes minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # two lines for every child run
    "GIT_PYTHON_REFRESH": "quiet",
}
"""Environment variables of MLflow that are set unless the user sets them."""
ANSWER_TIMEOUT = 15.0
"""Seconds that a run waits, before it starts, for the server's answer about the experiment."""
BUSY = 60
"""Seconds that a run waits for another one that writes to the same sqlite file."""
TRANSIENT = (408, 429)
"""HTTP status codes between 400 and 499 that are not refusals: request timeout, too many requests."""
COLUMNS = ("attributes.`Duration`", "metrics.`top1`", "metrics.`top1_std`", "params.`method.name`", "params.`ipc`")
VIEW = {"selectedColumns": COLUMNS, "orderByKey": "metrics.`top1`", "searchFilter": "tags.method LIKE '%'"}
"""A shared view of MLflow's page: whole runs, the best top-1 first. MLflow finds it by its name, ``top1``."""
EXPERIMENT = {
    "mlflow.experimentKind": "custom_model_development",  # the experiment opens with its table of runs
    "mlflow.sharedViewState.top1": json.dumps({**VIEW, "orderByAsc": False}),
}
"""Tags of a new experiment."""


class TrackingError(RuntimeError):
    """Failure to send a run to MLflow; the message states the reason."""


class Refused(TrackingError):
    """Refusal of a run by a server that is reachable; the message states what to change."""


def connect(uri: str) -> MlflowClient:
    """Return an MLflow client with few retries and no output; if ``uri`` is a sqlite file, create its folder."""
    for key, value in DEFAULTS.items():
        os.environ.setdefault(key, value)
    from mlflow import MlflowClient

    # progress of database migrations, and tracebacks of errors that are reported in one line
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # a line for every retry
    if (file := sqlite_file(uri)) is None:
        return MlflowClient(revealed(uri))
    file.parent.mkdir(parents=True, exist_ok=True)
    with _alone(file):  # runs that make the tables of a new file at the same time would fail
        client = MlflowClient(revealed(uri) if "?" in revealed(uri) else f"{revealed(uri)}?timeout={BUSY}")
        client.search_experiments(max_results=1)
    return client


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Hold an exclusive lock on a database within the context, on a file system that has locks."""
    lock = FileLock(f"{file}{LOCK}", timeout=BUSY)
    with suppress(NotImplementedError):
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def refusal(uri: str, experiment: str) -> str | None:
    """Return the reason why a server does not accept runs in an experiment.

    None if the server accepts runs, does not answer within :data:`ANSWER_TIMEOUT`, or is a database.
    """
    if not _listens(uri):
        return None
    refusals: list[str] = []

    def ask() -> None:
        try:
            _active_experiment(connect(uri), uri, experiment)
        except Exception as error:  # the server or the network may raise any error
            if is_refusal(error):
                refusals.append(reason(error))

    thread = threading.Thread(target=ask, name="tracking", daemon=True)
    thread.start()
    thread.join(ANSWER_TIMEOUT)
    return refusals[0] if refusals else None


def experiment_id(client: MlflowClient, uri: str, name: str) -> str:
    """Return the id of an experiment, which is created if necessary. Raises Refused if it is deleted on the server."""
    existing = _active_experiment(client, uri, name)
    if existing is not None:
        return existing
    # A server has its own artifact location; for sqlite, MLflow would use the working directory, which a job loses
    location = None
    if (file := sqlite_file(uri)) is not None:
        location = (file.parent / ARTIFACTS).as_uri()
    try:
        return str(client.create_experiment(name, artifact_location=location, tags=EXPERIMENT))
    except Exception:
        existing = _active_experiment(client, uri, name)  # another run may have created it since
        if existing is None:
            raise
        return existing


def has_run(client: MlflowClient, run: str) -> bool:
    """Return whether a run exists and is not deleted. Raises MLflow's error if the server does not answer."""
    from mlflow.exceptions import MlflowException

    try:
        return bool(client.get_run(run).info.lifecycle_stage == "active")
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise


def is_refusal(error: Exception) -> bool:
    """Return whether the error is a rejection by the server or by the local MLflow; other errors may be temporary."""
    if isinstance(error, Refused | ImportError):  # ImportError: the driver of a database is missing
        return True
    status = getattr(error, "get_http_status_code", int)()  # of MLflow's exceptions
    return 400 <= status < 500 and status not in TRANSIENT


def reason(error: Exception) -> str:
    """Describe an error in one short line without secrets; for chained connection errors, name only the innermost."""
    text = masked(" ".join(str(error).split()))  # before it is shortened
    if isinstance(error, Refused | TimeoutError) and text:
        return text
    for known in ("Connection refused", "timed out", "Name or service not known", "Network is unreachable"):
        if known in text:
            return known
    return f"{type(error).__name__}: {text[:200]}"


def _listens(uri: str) -> bool:
    """Check that a server accepts connections, because MLflow would retry for half a minute."""
    parts = urlsplit(revealed(uri))
    if parts.scheme not in SERVERS or parts.hostname is None:
        return False
    port = parts.port or socket.getservbyname(parts.scheme)
    try:
        socket.create_connection((parts.hostname, port), timeout=ANSWER_TIMEOUT / 3).close()
    except OSError:
        return False
    return True


def _active_experiment(client: MlflowClient, uri: str, name: str) -> str | None:
    """Return the id of an experiment; None if it does not exist. Raises Refused if it is deleted on the server."""
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        return None
    if experiment.lifecycle_stage == "deleted":
        raise Refused(deleted(name, str(experiment.experiment_id), uri))
    return str(experiment.experiment_id)
