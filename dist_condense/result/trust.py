"""Addresses of MLflow in a run's folder that somebody else can have made: which are used before their user says so."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from dist_condense.settings.run_folder import RunFolder
from dist_condense.settings.tracking_address import CLOUD, DATABASE_SERVERS, SERVERS, VARIABLE, sqlite_file
from dist_condense.system.credentials import address, revealed

CREDENTIALS = (
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_AUTH",
)
"""Variables that MLflow sends to whatever server an address names."""
LOGIN = "~/.mlflow/credentials"
"""The file that it sends likewise."""


def distrusted(uri: str | None, folder: Path, remedy: str) -> Iterator[str]:
    """Why an address of MLflow that only the folder's config.yaml names is not used before its user says so: a login of
    this machine would be sent there, a database would say where files go, or a file outside of the folder be written.

    :param uri: of config.yaml; None: it names none.
    :param remedy: how to say so, to which the address is appended.
    """
    if uri is None or is_own(uri) or is_inside(sqlite_file(uri), folder):
        return
    uri, kind = address(uri), _kind(uri)
    if kind in SERVERS:
        if not (logins := list(_logins(revealed(uri)))):
            return
        reason = f"{', '.join(logins)} would be sent there"
    elif kind in DATABASE_SERVERS:
        reason = "a database is sent logins of this machine, and says where on it files are written"
    else:
        reason = "it lies outside of the folder"
    yield (
        f"tracking.uri: {uri} is named by {RunFolder(folder).config} alone, and {reason}; if it is yours, give "
        f"{remedy}{uri}, or {VARIABLE}"
    )


def is_own(uri: str | None) -> bool:
    """Whether an address of a folder's config.yaml leads where this machine's user says, too: none is named,
    :data:`VARIABLE` names the same, or it means the Databricks of the user's own settings."""
    return uri is None or _kind(uri) == CLOUD or address(uri) == address(os.environ.get(VARIABLE, ""))


def _kind(uri: str) -> str:
    """The scheme, without a driver."""
    return uri.partition(":")[0].partition("+")[0].lower()


def _logins(uri: str) -> Iterator[str]:
    """The names of those that MLflow, and requests below it, would send to a server by themselves."""
    from requests.utils import get_netrc_auth

    yield from (name for name in CREDENTIALS if os.environ.get(name))
    if Path(LOGIN).expanduser().is_file():
        yield LOGIN
    if get_netrc_auth(uri) is not None:
        yield os.environ.get("NETRC", "~/.netrc")


def is_inside(path: Path | None, folder: Path) -> bool:
    """Whether a path, links followed, lies in a folder."""
    return path is not None and path.resolve().is_relative_to(folder.resolve())
