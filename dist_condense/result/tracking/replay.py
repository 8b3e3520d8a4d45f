"""Replay: send the folder of a run to MLflow after the run."""

from __future__ import annotations

from pathlib import Path

from dist_condense.evaluation.rows import RowsError, read_csv
from dist_condense.result.card import SyntheticSetError, read_card
from dist_condense.result.tracking import server, trust
from dist_condense.result.tracking.server import TrackingError
from dist_condense.result.tracking.server_run import RunAddress, ServerRun
from dist_condense.result.tracking.tags import stored_config, tags_of
from dist_condense.settings import run_folder
from dist_condense.settings.run_folder import RunFolder
from dist_condense.settings.tracking_address import problems, resolve_uri
from dist_condense.settings.values import ConfigError
from dist_condense.system import terminal
from dist_condense.system.credentials import address


def replay(folder: str | Path, uri: str | None = None, experiment: str | None = None) -> str:
    """Send a run's config, metrics, evaluations, synthetic set and report to MLflow; return the run's id on the server.

    Data that the server already has is not sent again.

    :param uri: address of the server; None: the address in the run's config, else ``MLFLOW_TRACKING_URI``.
    :param experiment: name of the experiment; None: the name in the run's config.
    :raises ConfigError: nothing was sent, because the folder is not the folder of a run, a file in it is unreadable, or
        the address is impossible or not trusted.
    :raises TrackingError: the server refuses or fails.
    """
    folder = Path(folder).expanduser().absolute()
    run_folder.check(folder)
    files = RunFolder(folder)
    if not files.config.exists():
        raise ConfigError([f"{folder} is not the folder of a run: {files.config.name} is missing"])
    try:
        config, tags = stored_config(folder), tags_of(folder)
    except ValueError as error:
        raise ConfigError(terminal.lines_of(error)) from error
    tracking = config.get("tracking") or {}
    if not isinstance(tracking, dict) or not isinstance(tracking.get("uri"), str | None):
        raise ConfigError([f"{files.config}: tracking.uri is no address; give one, --uri"])
    if not isinstance(tracking.get("experiment"), str | None):
        raise ConfigError([f"{files.config}: tracking.experiment is no name; give one, --experiment"])
    if uri is None and (problem := next(trust.distrusted(tracking.get("uri"), folder, "--uri "), None)):
        raise ConfigError([problem])
    configured = address(uri, bare=True) if uri else tracking.get("uri")
    trusted = bool(uri) or trust.is_own(tracking.get("uri"))
    uri = resolve_uri(configured, folder)
    experiment = experiment or tracking.get("experiment") or "dist_condense"
    if problem := next(problems(configured, folder, experiment), None):
        raise ConfigError([problem])
    try:
        read_csv(files.evaluation)
    except RowsError as error:
        raise ConfigError([str(error)]) from error
    run_address = RunAddress.of(folder, uri=uri, experiment=experiment)
    run = ServerRun(uri, run_address, folder, trusted)
    try:
        run.start(config, {**tags, "dist_condense.replayed": "true"})
        run.log_everything()
        run.finish("FINISHED" if _is_complete(folder) else "FAILED")
    except Exception as error:  # the server, the network or the artifact store may raise any error
        raise TrackingError(f"replay of {folder} to {uri} was not complete: {server.reason(error)}") from error
    return run.id


def _is_complete(folder: Path) -> bool:
    try:
        return read_card(RunFolder(folder).synthetic_set).complete
    except SyntheticSetError:
        return False
