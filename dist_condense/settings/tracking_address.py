"""Addresses of MLflow: the one of a run, and what can be said of it without a network and without MLflow."""

from __future__ import annotations

import os
import re
import shlex
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from importlib.metadata import entry_points
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from dist_condense.settings.run_folder import RunFolder
from dist_condense.system.credentials import address, is_hidden, masked, revealed

VARIABLE = "MLFLOW_TRACKING_URI"
SQLITE = re.compile(r"sqlite(\+\w+)?:///(?P<path>[^?]*)(\?(?P<query>.*))?", re.DOTALL)
SQLITE_OPTIONS = {"timeout", "isolation_level", "detect_types", "check_same_thread", "cached_statements", "uri"}
"""Of SQLAlchemy's address; after ``uri=true`` also SQLite's own: those are left alone."""
SERVERS, DATABASE_SERVERS, CLOUD = ("http", "https"), ("postgresql", "mysql", "mssql"), "databricks"
DATABASES = (*DATABASE_SERVERS, "sqlite")
CLOUD_CREDENTIALS = ("DATABRICKS_HOST", "DATABRICKS_CONFIG_PROFILE", "DATABRICKS_CONFIG_FILE", "DATABRICKS_TOKEN")


def resolve_uri(configured: str | None, output: str | Path) -> str:
    """The configured URI, else MLFLOW_TRACKING_URI, else sqlite under the output folder; of a sqlite file the path
    is absolute. One that was stored without its password is that of the variable, where they differ by it alone."""
    variable = address(os.environ.get(VARIABLE, ""), bare=True)
    if configured and (not is_hidden(configured) or variable != configured):
        uri = configured
    else:
        uri = variable or _sqlite_uri(RunFolder(Path(output).expanduser().absolute()).database)
    file = sqlite_file(uri)
    return address(uri if file is None else "?".join([_sqlite_uri(file), *revealed(uri).split("?")[1:]]))


def sqlite_file(uri: str) -> Path | None:
    """The file of a sqlite address, absolute; None for every other address and for SQLite's own ``file:`` ones."""
    found = SQLITE.fullmatch(revealed(uri))
    if found is None or found["path"] in ("", ":memory:") or found["path"].startswith("file:"):
        return None
    return Path(os.path.expanduser(unquote(found["path"]))).absolute()


def problems(configured: str | None, output: str | Path, experiment: str) -> Iterator[str]:
    """Why an address can never work: a line that names the key. Nothing is written and no server is asked.

    :param experiment: its name; one that is deleted in a sqlite file takes no runs.
    """
    uri = resolve_uri(configured, output)
    key = "tracking.uri" if configured else VARIABLE if os.environ.get(VARIABLE) else "output"
    if is_hidden(uri):
        yield f"{key}: {uri}: its password is not stored; give it again, as {key}=... or by {VARIABLE}"
    elif (told := _of_scheme(revealed(uri)) or _of_sqlite(revealed(uri), experiment)) is not None:
        yield masked(f"{key}: {uri}: {told}")


def deleted(experiment: str, number: str, uri: str) -> str:
    """What to do about an experiment that is deleted on a server."""
    restore = f"{VARIABLE}={shlex.quote(uri)} mlflow experiments restore --experiment-id {number}"
    return (
        f"the experiment {experiment!r} is deleted there; restore it (`{restore}`) or give tracking.experiment another"
    )


def _sqlite_uri(file: Path) -> str:
    """SQLAlchemy ends the path at ``?`` and decodes ``%``; all else it takes as it stands. A quoted path comes with
    the driver's name, since for the plain scheme MLflow makes a folder of the quoted name."""
    quoted = str(file).replace("%", "%25").replace("?", "%3F")
    return f"sqlite{'' if quoted == str(file) else '+pysqlite'}:///{quoted}"


def _of_scheme(uri: str) -> str | None:
    scheme, colon, rest = uri.partition(":")
    kind = scheme.partition("+")[0].lower()
    if re.fullmatch(r"[\w.-]+:\d+(/.*)?", uri):
        return f"has no scheme; give http://{uri}"
    if kind == CLOUD:
        return _of_cloud()
    if not colon or "/" in scheme or kind == "file":
        if os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() in ("true", "1"):
            return None
        return "a folder, which MLflow does not write to any more; give sqlite:////PATH/mlflow.db or a server"
    if kind in SERVERS:
        return _of_server(uri)
    plugins = {point.name for point in entry_points(group="mlflow.tracking_store")}
    if kind in DATABASES or scheme in plugins:
        return None if rest.startswith("//") else f"incomplete; give {scheme}://..."
    known = ", ".join(sorted({*SERVERS, *DATABASES, CLOUD, *plugins}))
    return f"the scheme {scheme} is not one of {known}"


def _of_server(uri: str) -> str | None:
    try:
        parts = urlsplit(uri)
        if parts.hostname and (parts.port is None or parts.port):
            return None
    except ValueError:  # whose text has a part of the password
        return "not an address; give http://HOST:PORT, and signs of a user or a password as %2F"
    return "names no host; give http://HOST:PORT"


def _of_cloud() -> str | None:
    if any(os.environ.get(name) for name in CLOUD_CREDENTIALS) or (Path.home() / ".databrickscfg").is_file():
        return None
    return (
        "there are no credentials for Databricks; set DATABRICKS_HOST and DATABRICKS_TOKEN, or write ~/.databrickscfg"
    )


def _of_sqlite(uri: str, experiment: str) -> str | None:
    found = SQLITE.fullmatch(uri)
    if found is None:
        return "names no file; give sqlite:////PATH/mlflow.db" if uri.startswith("sqlite") else None
    query = found["query"]
    if query is not None and not {part.partition("=")[0] for part in query.split("&")} & SQLITE_OPTIONS:
        meant = _sqlite_uri(Path("?".join([unquote(found["path"]), query])).absolute())
        return f"what follows ? are options, not a path; for a path with ? give {meant}"
    file = sqlite_file(uri)
    if file is None:
        return None if found["path"].startswith("file:") else "kept in memory alone; give sqlite:////PATH/mlflow.db"
    return _of_file(file, experiment)


def _of_file(file: Path, experiment: str) -> str | None:
    if not file.exists():
        parent = next(path for path in file.parents if path.exists())
        return None if parent.is_dir() and os.access(parent, os.W_OK) else f"the file cannot be made in {parent}"
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
