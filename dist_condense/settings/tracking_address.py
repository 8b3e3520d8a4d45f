"""The MLflow address of a run, and checks of this address that need neither a connection nor MLflow."""

from __future__ import annotations

import os
import re
import shlex
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from importlib.metadata import entry_points
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from dist_condense.settings.run_folder import SELECTIONS_FOLDER, RunFolder
from dist_condense.system.credentials import address, is_hidden, masked, revealed

VARIABLE = "MLFLOW_TRACKING_URI"
SQLITE = re.compile(r"sqlite(\+\w+)?:///(?P<path>[^?]*)(\?(?P<query>.*))?", re.DOTALL)
SQLITE_OPTIONS = {"timeout", "isolation_level", "detect_types", "check_same_thread", "cached_statements", "uri"}
"""Options that SQLAlchemy accepts in a sqlite address; after ``uri=true``, SQLite's own options are not checked."""
LOCK = ".lock"
"""Suffix of the file beside an sqlite file that is locked while its tables are made."""
FILES = ("", LOCK, "-journal", "-wal", "-shm")
"""Suffixes of an sqlite file and of the files beside it that are opened with it."""
SERVERS, DATABASE_SERVERS, CLOUD = ("http", "https"), ("postgresql", "mysql", "mssql"), "databricks"
DATABASES = (*DATABASE_SERVERS, "sqlite")
CLOUD_CREDENTIALS = ("DATABRICKS_HOST", "DATABRICKS_CONFIG_PROFILE", "DATABRICKS_CONFIG_FILE", "DATABRICKS_TOKEN")


def resolve_uri(configured: str | None, output: str | Path) -> str:
    """Return the configured URI, else MLFLOW_TRACKING_URI, else that of :func:`default_database`.

    Paths of sqlite files become absolute. A configured URI that was stored without its password is replaced by
    MLFLOW_TRACKING_URI if the two are otherwise equal.
    """
    variable = address(os.environ.get(VARIABLE, ""), bare=True)
    if configured and (not is_hidden(configured) or variable != configured):
        uri = configured
    else:
        uri = variable or _sqlite_uri(default_database(Path(output).expanduser().absolute()))
    file = sqlite_file(uri)
    return address(uri if file is None else "?".join([_sqlite_uri(file), *revealed(uri).split("?")[1:]]))


def default_database(folder: Path) -> Path:
    """Return the sqlite file of a run where no server is named.

    It is the file in the run's folder if there is one, else the file beside the folder, which all runs there share. If
    the parent folder is not this user's alone or is no place for files, the run has a file of its own.

    :param folder: absolute path of the run's folder.
    """
    own = RunFolder(folder).database
    shared = shared_database(folder)
    return own if os.path.lexists(own) or not _may_share(folder, shared.parent) else shared


def shared_database(folder: Path) -> Path:
    """Return the sqlite file beside the folder of a run; that of a selection is beside its folder of selections."""
    beside = folder.parent if folder.parent.name == SELECTIONS_FOLDER else folder
    return beside.parent / RunFolder.database.name


def _may_share(folder: Path, parent: Path) -> bool:
    """Return whether a folder above a run's is owned by this user and on the same file system as the run's.

    Others, also those of its group, must not be able to write to it. The root of the file system is no such folder.
    """
    try:
        if not parent.exists():  # the run makes it
            return True
        status = parent.stat()
        is_apart = folder.exists() and folder.stat().st_dev != status.st_dev
    except OSError:  # a path that no folder can have, or that this user cannot see
        return False
    is_mine = status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWOTH | stat.S_IWGRP)
    return is_mine and not is_apart and parent != parent.parent and os.access(parent, os.W_OK | os.X_OK)


def sqlite_file(uri: str) -> Path | None:
    """Return the absolute path of the file in a sqlite address; None for a ``file:`` URI and for other addresses."""
    match = SQLITE.fullmatch(revealed(uri))
    if match is None or match["path"] in ("", ":memory:") or match["path"].startswith("file:"):
        return None
    return Path(os.path.expanduser(unquote(match["path"]))).absolute()


def problems(configured: str | None, output: str | Path, experiment: str) -> Iterator[str]:
    """Yield an error message that names the key if the address can never work; write nothing and contact no server.

    :param configured: value of ``tracking.uri``.
    :param output: folder of the run.
    :param experiment: name of the experiment; a sqlite file in which it is deleted is refused.
    """
    uri = resolve_uri(configured, output)
    key = "tracking.uri" if configured else VARIABLE if os.environ.get(VARIABLE) else "output"
    if is_hidden(uri):
        yield f"{key}: {uri}: its password is not stored; give it again, as {key}=... or by {VARIABLE}"
    elif (problem := _scheme_problem(revealed(uri)) or _sqlite_problem(revealed(uri), experiment)) is not None:
        yield masked(f"{key}: {uri}: {problem}")
    elif key == "output":
        yield from _links(default_database(Path(output).expanduser().absolute()))


def _links(database: Path) -> Iterator[str]:
    """Yield an error message for each file of a database that is a link, which would be followed."""
    for path in (database.with_name(f"{database.name}{suffix}") for suffix in FILES):
        if path.is_symlink():
            yield f"output: {path} is a link, and not followed; remove it, or name a database by tracking.uri"


def deleted(experiment: str, number: str, uri: str) -> str:
    """Return the message for an experiment that is deleted on the server.

    :param number: id of the experiment.
    """
    restore = f"{VARIABLE}={shlex.quote(uri)} mlflow experiments restore --experiment-id {number}"
    return (
        f"the experiment {experiment!r} is deleted there; restore it (`{restore}`) or give tracking.experiment another"
    )


def _sqlite_uri(file: Path) -> str:
    """Return the sqlite address of a file, with ``?`` and ``%`` quoted, as SQLAlchemy requires.

    A quoted path needs the driver's name, because for the plain scheme MLflow creates a folder of the quoted name.
    """
    quoted = str(file).replace("%", "%25").replace("?", "%3F")
    return f"sqlite{'' if quoted == str(file) else '+pysqlite'}:///{quoted}"


def _scheme_problem(uri: str) -> str | None:
    if any(char.isspace() or not char.isprintable() for char in uri.partition("://")[2].partition("/")[0]):
        return "has white space or a hidden character in the name of its host; remove it"
    scheme, colon, rest = uri.partition(":")
    kind = scheme.partition("+")[0].lower()
    if re.fullmatch(r"[\w.-]+:\d+(/.*)?", uri):
        return f"has no scheme; give http://{uri}"
    if kind == CLOUD:
        return _cloud_problem()
    if not colon or "/" in scheme or kind == "file":
        if os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() in ("true", "1"):
            return None
        return "a folder, which MLflow no longer writes to; give sqlite:////PATH/mlflow.db or a server"
    if kind in SERVERS:
        return _server_problem(uri)
    plugins = {point.name for point in entry_points(group="mlflow.tracking_store")}
    if kind in DATABASES or scheme in plugins:
        return _database_problem(uri) if rest.startswith("//") else f"incomplete; give {scheme}://..."
    known = ", ".join(sorted({*SERVERS, *DATABASES, CLOUD, *plugins}))
    return f"the scheme {scheme} is not one of {known}"


def _server_problem(uri: str) -> str | None:
    try:
        parts = urlsplit(uri)
        if parts.hostname and (parts.port is None or parts.port):
            return None
    except ValueError:  # its text may contain a part of the password
        return "not an address; give http://HOST:PORT, and special characters of a user or a password as %2F"
    return "names no host; give http://HOST:PORT"


def _database_problem(uri: str) -> str | None:
    try:
        urlsplit(uri)
    except ValueError:  # its text may contain a part of the password
        return "not an address; special characters of a user or a password are given as %2F"
    return None


def _cloud_problem() -> str | None:
    if any(os.environ.get(name) for name in CLOUD_CREDENTIALS) or (Path.home() / ".databrickscfg").is_file():
        return None
    return (
        "there are no credentials for Databricks; set DATABRICKS_HOST and DATABRICKS_TOKEN, or write ~/.databrickscfg"
    )


def _sqlite_problem(uri: str, experiment: str) -> str | None:
    match = SQLITE.fullmatch(uri)
    if match is None:
        return "names no file; give sqlite:////PATH/mlflow.db" if uri.startswith("sqlite") else None
    query = match["query"]
    if query is not None and not {part.partition("=")[0] for part in query.split("&")} & SQLITE_OPTIONS:
        quoted = _sqlite_uri(Path("?".join([unquote(match["path"]), query])).absolute())
        return f"the text after ? is options, not a path; for a path with ? give {quoted}"
    file = sqlite_file(uri)
    if file is None:
        return None if match["path"].startswith("file:") else "in memory only; give sqlite:////PATH/mlflow.db"
    return _file_problem(file, experiment)


def _file_problem(file: Path, experiment: str) -> str | None:
    try:
        exists = file.exists()
    except OSError as error:  # a path that no file can have
        return f"{error.strerror}; give another"
    if not exists:
        parent = next(path for path in file.parents if path.exists())
        return None if parent.is_dir() and os.access(parent, os.W_OK) else f"the file cannot be created in {parent}"
    if not file.is_file():
        return "not a file"
    if not os.access(file, os.R_OK | os.W_OK):
        return "the file cannot be written"
    query = "SELECT experiment_id FROM experiments WHERE name = ? AND lifecycle_stage = 'deleted'"
    try:
        with closing(sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True)) as database:
            rows = database.execute(query, (experiment,)).fetchall()
    except sqlite3.OperationalError:  # no tables yet, or locked
        return None
    except sqlite3.DatabaseError as error:
        return f"{error}; move the file away, or give another"
    return deleted(experiment, str(rows[0][0]), _sqlite_uri(file)) if rows else None
