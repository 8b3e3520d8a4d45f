"""Trust in MLflow addresses that an untrusted run folder names: some are used only after the user confirms them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from dist_condense.settings.run_folder import RunFolder
from dist_condense.settings.tracking_address import (
    CLOUD,
    DATABASE_SERVERS,
    SERVERS,
    VARIABLE,
    shared_database,
    sqlite_file,
)
from dist_condense.system.credentials import address, revealed

CREDENTIALS = (
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_AUTH",
)
"""Environment variables that MLflow sends to any server."""
ARTIFACTS = "mlartifacts"
"""Folder beside an sqlite file in which the files of its runs are."""
LOGIN = "~/.mlflow/credentials"
"""File whose login MLflow sends to any server."""


def distrusted(uri: str | None, folder: Path, remedy: str) -> Iterator[str]:
    """Yield a message if an address that only the folder's config.yaml names must not be used without confirmation.

    There are three reasons: a server would receive a login of this machine; a database would receive a login and decide
    where files are written; any other address is a file outside the folder.

    :param uri: the address in config.yaml; None if it has none.
    :param remedy: option or key that confirms the address, such as ``tracking.uri=``; the message appends the address.
    """
    if uri is None or is_own(uri) or is_inside(sqlite_file(uri), folder):
        return
    uri, kind = address(uri), _kind(uri)
    if kind in SERVERS:
        if not (logins := list(_logins(revealed(uri)))):
            return
        reason = f"{', '.join(logins)} would be sent there"
    elif kind in DATABASE_SERVERS:
        reason = "a database gets logins of this machine, and decides where on it files are written"
    else:
        reason = "it is outside of the folder"
    yield (
        f"tracking.uri: {uri} is named by {RunFolder(folder).config} alone, and {reason}; if it is yours, give "
        f"{remedy}{uri}, or {VARIABLE}"
    )


def is_own(uri: str | None) -> bool:
    """Return whether the user's own settings, and not only the folder's config.yaml, give the address.

    True if ``uri`` is None, equals the environment variable :data:`VARIABLE`, or is Databricks, whose location is in
    the user's own settings.
    """
    return uri is None or _kind(uri) == CLOUD or address(uri) == address(os.environ.get(VARIABLE, ""))


def place_of_files(uri: str, folder: Path) -> Path | None:
    """Return the folder in which a database must keep the files of a run, because nobody has named another.

    It is the run's folder for a database in it, and ``mlartifacts`` beside the database for the one that runs share;
    None for all other servers.
    """
    file = sqlite_file(uri)
    if is_inside(file, folder):
        return folder
    return file.parent / ARTIFACTS if file is not None and file == shared_database(folder) else None


def is_inside(path: Path | None, folder: Path) -> bool:
    """Return whether a path is in a folder after links are resolved; False for None."""
    return path is not None and path.resolve().is_relative_to(folder.resolve())


def _kind(uri: str) -> str:
    """Return the scheme of an address in lower case, without the driver: ``mysql`` of ``mysql+pymysql://...``."""
    return uri.partition(":")[0].partition("+")[0].lower()


def _logins(uri: str) -> Iterator[str]:
    """Yield the name of each login that MLflow, or the package requests that it uses, would send to a server."""
    from requests.utils import get_netrc_auth

    yield from (name for name in CREDENTIALS if os.environ.get(name))
    if Path(LOGIN).expanduser().is_file():
        yield LOGIN
    if get_netrc_auth(uri) is not None:
        yield os.environ.get("NETRC", "~/.netrc")
