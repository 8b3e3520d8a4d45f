"""A run's folder as it is read by a later command: somebody else can have made it, so it leads nowhere else.

What a run writes is plain files and folders. Everything in such a folder is read, replaced, appended to or sent to a
server under its name, so a link would be followed by all of that, and a named pipe would never end.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from dist_condense.settings.tracking_address import CLOUD, DATABASE_SERVERS, SERVERS, VARIABLE, sqlite_file
from dist_condense.settings.values import ConfigError
from dist_condense.system.credentials import address, revealed
from dist_condense.system.errors import SHOWN

MAY_LEAD = ("checkpoints", "pool")
"""Entries that may be links to folders, as to a disk for large files."""
KINDS = {stat.S_ISFIFO: "a named pipe", stat.S_ISSOCK: "a socket", stat.S_ISCHR: "a device", stat.S_ISBLK: "a device"}
CREDENTIALS = (
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_AUTH",
)
"""Variables that MLflow sends to whatever server an address names."""
LOGIN = "~/.mlflow/credentials"
"""The file that it sends likewise."""


def check(folder: Path) -> None:
    """Refuse a run's folder in which something is no plain file and no folder. The folder itself may be a link, and
    those of :data:`MAY_LEAD`. Raises ConfigError, with a line for each."""
    if found := list(problems(folder)):
        rest = [f"... and {len(found) - SHOWN} more in {folder}"] if len(found) > SHOWN else []
        raise ConfigError(found[:SHOWN] + rest)


def problems(folder: Path) -> Iterator[str]:
    """A line for each entry that :func:`check` refuses; none where there is no folder."""
    if folder.is_dir():
        for path in _listed(folder):
            if path.name in MAY_LEAD and path.is_symlink() and path.is_dir():
                yield from problems_below(path)
            else:
                yield from strange(path)


def strange(path: Path) -> Iterator[str]:
    """The same for one entry and, where that is a folder, all that lies in it. Nothing is followed."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISLNK(mode):
        yield (
            f"{path} is a link, to {os.readlink(path)}, and not followed: of a run's folder only "
            f"{' and '.join(MAY_LEAD)} may be links, to folders; put there what it leads to, or remove it"
        )
    elif stat.S_ISDIR(mode):
        yield from problems_below(path)
    elif not stat.S_ISREG(mode):
        kind = next((name for is_kind, name in KINDS.items() if is_kind(mode)), "neither file nor folder")
        yield f"{path} is {kind}, and not opened: a run's folder has files and folders alone; remove it"


def problems_below(folder: Path) -> Iterator[str]:
    """Of all that lies in a folder."""
    for path in _listed(folder):
        yield from strange(path)


def _listed(folder: Path) -> list[Path]:
    """What lies in a folder; nothing in one that this user may not enter, and could open nothing in, or that an earlier
    start, which still goes on, has just removed."""
    try:
        return sorted(folder.iterdir()) if os.access(folder, os.X_OK) else []
    except FileNotFoundError:
        return []
    except PermissionError as error:
        raise ConfigError([f"{folder} cannot be looked through for links; allow yourself to read it"]) from error


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
        f"tracking.uri: {uri} is named by {folder / 'config.yaml'} alone, and {reason}; if it is yours, give "
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
