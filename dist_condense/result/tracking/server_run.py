"""Copy of a run's folder on an MLflow server; data that the server already has is not sent again."""

from __future__ import annotations

import json
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import isnan, nan
from pathlib import Path
from statistics import fmean, stdev
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from dist_condense.evaluation.rows import COLUMNS, Row, read_csv
from dist_condense.result import metrics_file
from dist_condense.result.metrics_file import RATE, STEP, TIME, MetricsEntry, counters
from dist_condense.result.tracking import server, trust
from dist_condense.result.tracking.server import Refused, TrackingError
from dist_condense.result.tracking.tags import data_of, joined
from dist_condense.settings import assembly, run_folder
from dist_condense.settings.config import read
from dist_condense.settings.keys import leaves
from dist_condense.settings.run_folder import RunFolder
from dist_condense.settings.schema import CONDENSED
from dist_condense.settings.tracking_address import VARIABLE
from dist_condense.system import records, terminal
from dist_condense.system.conversion import Rule
from dist_condense.system.credentials import address, masked, revealed
from dist_condense.system.files import write_atomically

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

Id = Annotated[str, Rule("1 to 100 letters, digits, _ or -", re.compile(r"[\w-]{1,100}", re.ASCII).fullmatch)]
"""Id of a run on a server, or of an output folder; safe in a query and in a path."""
DIGEST_LENGTH = 36  # limit of a data set's digest on the server
METRICS_PER_CALL, PARAMS_PER_CALL, PARAM_LENGTH = 1000, 100, 6000  # limits of MLflow's log_batch
PARENT, FOLDER = "mlflow.parentRunId", "dist_condense.folder"
NOT_PARAMS = ("output", "tracking")  # they differ between any two runs and explain no difference
RESULTS = ("top1_last", "top1_best", "balanced")  # columns of evaluation.csv that are metrics; the others are params
PROXIED = "mlflow-artifacts"
"""Scheme of artifact locations that the server itself stores."""
ARTIFACTS = (
    *(RunFolder.config, RunFolder.environment),
    *(RunFolder.evaluation, RunFolder.evaluation_classes, RunFolder.report, RunFolder.synthetic_set),
)

Value = tuple[str, float, int, float | None]
"""Key, value, step and time (seconds since 1970; None: now) of one value of a metric."""


@dataclass(kw_only=True)
class RunAddress:
    """Location of a run on an MLflow server, stored in ``tracking.json``."""

    uri: str
    """Address of the server, without its password."""
    experiment: str
    run_name: str
    run_id: Id | None = None
    folder: Id = field(default_factory=lambda: uuid4().hex)
    """Id of the output folder. Its run has this id as a tag on every server, so that a run is found even if the server
    did not confirm that it was created."""

    @classmethod
    def read(cls, folder: Path) -> RunAddress | None:
        """Read ``tracking.json``; return None if it is missing, unreadable or has an impossible id."""
        try:
            return records.read(cls, RunFolder(folder).tracking, ignore_unknown=True)
        except records.Unreadable:
            return None

    def write(self, folder: Path) -> None:
        """Write ``tracking.json`` atomically."""
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(RunFolder(folder).tracking, (json.dumps(asdict(self), indent=1) + "\n").encode())

    @classmethod
    def of(cls, folder: Path, *, uri: str, experiment: str, run_id: str | None = None) -> RunAddress:
        """Return the stored address if it names the same server and run, else a new address.

        A new address keeps the stored id of the folder.

        :param run_id: id of the run on the server; None: the stored id.
        """
        earlier, shown = cls.read(folder), str(address(uri))
        fresh = cls(uri=shown, experiment=experiment, run_name=folder.name, run_id=run_id)
        if earlier is None:
            return fresh
        if earlier.uri == shown and run_id in (None, earlier.run_id):
            return earlier
        return replace(fresh, folder=earlier.folder)


class ServerRun:
    """Run on an MLflow server. Methods raise the errors of the server, the network or the artifact store.

    Every method may be called again: it asks which data the server already has, and sends only the missing data.

    :param trusted: whether the user, and not only the folder's config.yaml, names the server. A server that is not
        trusted must store files itself; any other location that it gives is refused.
    """

    def __init__(self, uri: str, run_address: RunAddress, folder: Path, trusted: bool = True) -> None:
        self.uri, self.address, self.folder, self.trusted = address(uri), run_address, folder, trusted
        self._client: MlflowClient | None = None
        self._artifact_uri: str | None = None
        self._last_step = 0

    @property
    def client(self) -> MlflowClient:
        """Client of the server, connected by :meth:`start`."""
        if self._client is None:
            raise TrackingError("not connected")
        return self._client

    @property
    def id(self) -> str:
        """Id of the run, known after :meth:`start`."""
        if self.address.run_id is None:
            raise TrackingError("no run")
        return self.address.run_id

    def start(self, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Connect to the server, and create or continue the run; a continued run keeps its existing params."""
        self.address.write(self.folder)
        self._client = client = server.connect(self.uri)
        if self.address.run_id is not None and not server.has_run(client, self.address.run_id):
            self.address.run_id = None
        if self.address.run_id is None:
            self.address.run_id = self._existing_run() or self._new_run(tags)
            self.address.write(self.folder)
        artifact_uri = str(client.get_run(self.id).info.artifact_uri)
        self._check_artifact_uri(artifact_uri)
        self._artifact_uri = artifact_uri
        client.update_run(self.id, status="RUNNING")
        self.log_params(params)
        self._log_data()
        history = client.get_metric_history(self.id, RATE)
        self._last_step = max((metric.step for metric in history), default=0)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log those params of the run, nested or flat, that the server lacks."""
        self._log_params(self.id, {key: value for key, value in params.items() if key not in NOT_PARAMS})

    def finish(self, status: str) -> None:
        """End the run with the status ``FINISHED``, ``FAILED`` or ``KILLED``."""
        self.client.set_terminated(self.id, status)

    def log_everything(self) -> None:
        """Log the metrics, the evaluations and all artifacts in the folder."""
        files = RunFolder(self.folder)
        self.log_metrics(metrics_file.read(files.metrics))
        self.log_evaluations(read_csv(files.evaluation))
        for entry in ARTIFACTS:
            if (path := self.folder / entry.name).exists():
                self.log_artifacts(path)

    def log_metrics(self, entries: Iterable[MetricsEntry]) -> None:
        """Log entries of metrics.jsonl in order, except those that the server already has.

        The values of an entry are sent in a single call, which the server accepts or rejects as a whole.
        """
        batch: list[Value] = []
        for entry in [x for x in entries if x[STEP] > self._last_step]:
            values = _values(entry)
            if len(batch) + len(values) > METRICS_PER_CALL:
                self._log_values(self.id, batch)
                batch = []
            batch += values
            self._last_step = entry[STEP]
        self._log_values(self.id, batch)

    def log_evaluations(self, rows: Sequence[Row]) -> None:
        """Log a finished child run for each row of evaluation.csv, and the mean and standard deviation over seeds.

        A child run is identified by its name. A mean is the metric ``SET/ARCHITECTURE/PROTOCOL_N_epochs/top1`` of the
        run itself, with the number of seeds as its step; the standard deviation is ``.../top1_std``. MLflow forbids
        ``=`` in names of metrics, so ``convnet:depth=4`` becomes ``convnet:depth_4``. The mean of the run's own set
        for the first architecture of its config is also the metric ``top1``, its standard deviation ``top1_std``. Their
        step is the number of all rows, because MLflow takes the value of the highest step for the latest; ``top1_std``
        is NaN where the latest mean is of one network.
        """
        children, groups = self._children(), defaultdict[str, list[float]](list)
        for row in rows:
            params = {key: str(getattr(row, key)) for key in COLUMNS if key not in RESULTS}
            metrics = {key: value for key in RESULTS if (value := getattr(row, key)) is not None}
            group = (row.set, row.architecture, row.protocol, row.epochs)
            name = f"{', '.join(map(str, group))} epochs, seed {row.seed}"
            self._log_child(children.get(name), name, params, metrics)
            groups[_metric_name("{}/{}/{}_{}_epochs/top1".format(*group))].append(row.top1_last)
        latest: list[tuple[str, float]] = []
        if (main := _main(self.folder, rows)) is not None:
            own = (main.set, main.architecture, main.protocol, main.epochs)
            main_values = groups[_metric_name("{}/{}/{}_{}_epochs/top1".format(*own))]
            latest = [("top1", fmean(main_values)), ("top1_std", stdev(main_values) if main_values[1:] else nan)]
        before = self.client.get_run(self.id).data.metrics
        means = [(key, fmean(values), len(values), None) for key, values in groups.items()]
        means += [(f"{key}_std", stdev(values), len(values), None) for key, values in groups.items() if len(values) > 1]
        means += [(key, value, len(rows), None) for key, value in latest if key in before or not isnan(value)]
        self._log_values(self.id, [mean for mean in means if str(before.get(mean[0])) != str(mean[1])])

    def log_artifacts(self, path: Path) -> None:
        """Log a folder under its own name, or a file, also one of the synthetic set, replacing the server's copy.

        Raises Refused for links.
        """
        is_of_set = path.parent == RunFolder(self.folder).synthetic_set
        if problem := next(run_folder.strange(path.parent if is_of_set else path), None):
            raise Refused(problem)
        if path.is_dir():
            self._artifacts.log_artifacts(str(path), path.name)
        elif path.name == RunFolder.config.name and path.exists():  # earlier versions stored passwords in it
            with TemporaryDirectory() as folder:
                copy = Path(folder, path.name)
                copy.write_text(masked(path.read_text(encoding="utf-8")), encoding="utf-8")
                self._artifacts.log_artifact(str(copy))
        elif path.exists():
            self._artifacts.log_artifact(str(path), path.parent.name if is_of_set else None)
        else:  # not an error of the server, so no exception
            terminal.event(f"not sent to MLflow: {path} does not exist")

    def _check_artifact_uri(self, artifacts: str) -> None:
        """Check that artifacts will be stored in an acceptable location; raise Refused otherwise.

        MLflow's client writes files to any location that the server names, even on this machine. For a database that
        nobody has named, only :func:`trust.place_of_files` is acceptable, without links; if the server is not trusted,
        only the server itself. For all other servers, any location is acceptable.
        """
        parts = urlsplit(artifacts)
        path, place = Path(unquote(parts.path)), trust.place_of_files(self.uri, self.folder)
        if place is None:
            if not self.trusted and (parts.scheme != PROXIED or parts.netloc):
                raise Refused(
                    f"{RunFolder(self.folder).config} alone names it, and it would have files written to "
                    f"{masked(artifacts)[:200]} instead of storing them itself ({PROXIED}:); if it is yours, give its "
                    f"address: replay --uri {self.uri}, evaluate tracking.uri={self.uri}, or {VARIABLE}"
                )
        elif parts.scheme not in ("", "file") or not trust.is_inside(path, place):
            raise Refused(
                f"the database stores files at {artifacts}, which is not in {place}; if the folder was moved, "
                "move it back, or give tracking.experiment a new name: its files are stored here"
            )
        elif place != self.folder and (problem := next(_links(place, path), None)):
            raise Refused(problem)

    @property
    def _artifacts(self) -> ArtifactRepository:
        """Artifact repository at the location that :meth:`start` has checked.

        MLflow's client is not used, because it would ask the server for the location again.
        """
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
        from mlflow.utils.uri import add_databricks_profile_info_to_artifact_uri

        if self._artifact_uri is None:
            raise TrackingError("not connected")
        uri = revealed(self.uri)
        return get_artifact_repository(add_databricks_profile_info_to_artifact_uri(self._artifact_uri, uri), uri)

    def _existing_run(self) -> str | None:
        """Return the id of this folder's run on the server, found by the folder's tag; None if there is no such run.

        The id is not stored if the server did not confirm the creation, or if another server was used since.
        """
        experiment = server.experiment_id(self.client, self.uri, self.address.experiment)
        runs = self.client.search_runs([experiment], f"tags.`{FOLDER}` = '{self.address.folder}'", max_results=1)
        return str(runs[0].info.run_id) if runs else None

    def _new_run(self, tags: Mapping[str, str]) -> str:
        experiment = server.experiment_id(self.client, self.uri, self.address.experiment)
        tags = {**tags, FOLDER: self.address.folder}
        return str(self.client.create_run(experiment, run_name=self.address.run_name, tags=tags).info.run_id)

    def _children(self) -> dict[str, Run]:
        """Return the child runs of the run by their names."""
        experiment, token = self.client.get_run(self.id).info.experiment_id, None
        children: dict[str, Run] = {}
        while True:
            page = self.client.search_runs([experiment], f"tags.`{PARENT}` = '{self.id}'", page_token=token)
            children |= {str(child.info.run_name): child for child in page}
            token = page.token
            if not token:
                return children

    def _log_child(self, child: Run | None, name: str, params: Mapping[str, str], metrics: Mapping[str, float]) -> None:
        """Log a finished child run, or complete a child run whose logging an outage of the server interrupted."""
        if child is not None and child.info.status == "FINISHED":
            return
        logged = child.data.metrics if child is not None else {}
        if child is None:
            experiment = self.client.get_run(self.id).info.experiment_id
            tags = {"dist_condense.kind": "evaluation", PARENT: self.id}
            child = self.client.create_run(experiment, run_name=name, tags=tags)
        run = str(child.info.run_id)
        self._log_params(run, params)
        self._log_values(run, [(key, value, 0, None) for key, value in metrics.items() if key not in logged])
        self.client.set_terminated(run, "FINISHED")

    def _log_data(self) -> None:
        """Log the data set of the run, with its hash, unless the server has it."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        data = data_of(self.folder)
        if data is None or self.client.get_run(self.id).inputs.dataset_inputs:
            return
        source = {"uri": data.source}
        kind = urlsplit(data.source).scheme or "local"
        dataset = Dataset(data.name, data.digest[:DIGEST_LENGTH], kind, json.dumps(source))
        context = InputTag("mlflow.data.context", "training")
        self.client.log_inputs(self.id, [DatasetInput(dataset, [context])])

    def _log_params(self, run: str, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        logged = self.client.get_run(run).data.params
        new = [Param(key, masked(text)[:PARAM_LENGTH]) for key, text in _flat(params) if key not in logged]
        for start in range(0, len(new), PARAMS_PER_CALL):
            self.client.log_batch(run, params=new[start : start + PARAMS_PER_CALL])

    def _log_values(self, run: str, values: Sequence[Value]) -> None:
        from mlflow.entities import Metric

        now = time.time()  # for MLflow's time axis; nothing depends on it
        metrics = [
            Metric(key, float(value), int((now if at is None else at) * 1000), step) for key, value, step, at in values
        ]
        if metrics:
            self.client.log_batch(run, metrics=metrics)


def _links(place: Path, path: Path) -> Iterator[str]:
    """Yield a message for each link among the files of a run, and for a link in place of the folder of all files."""
    if place.is_symlink():
        yield f"{place} is a link, and not followed; replace it by its target"
    yield from run_folder.strange(path)


def _main(folder: Path, rows: Sequence[Row]) -> Row | None:
    """Return the latest row of the run's own set with the first architecture and the protocol of its config."""
    try:
        config = read(RunFolder(folder).config)
        architecture = assembly.architecture(config, config.evaluation.architectures[0])
    except (ValueError, IndexError):  # a config of another version, or none
        return None
    wanted = (CONDENSED, architecture, config.evaluation.protocol)
    return next((row for row in reversed(rows) if (row.set, row.architecture, row.protocol) == wanted), None)


def _metric_name(text: str) -> str:
    """Replace characters that MLflow forbids in a metric's name with ``_``."""
    return re.sub(r"[^\w/.: -]", "_", text)


def _values(entry: MetricsEntry) -> list[Value]:
    """Return the metrics of an entry: all numbers except its step, time and counters."""
    numbers = {key: value for key, value in entry.items() if key not in counters(entry)}
    at = numbers.pop(TIME, None)
    step = int(numbers.pop(STEP))
    return [(key, value, step, at) for key, value in numbers.items()]


def _flat(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Flatten nested values to dotted names and texts, omitting None and what is empty.

    ``{"a": {"b": 1, "c": ["d", "e"]}}`` becomes ``[("a.b", "1"), ("a.c", "d, e")]``. A dict that is the value of a key
    of the config, such as ``ipc``, is one text, because its names are the user's.
    """
    return [(key, joined(value)) for key, value in leaves(values) if value not in (None, [], {})]
