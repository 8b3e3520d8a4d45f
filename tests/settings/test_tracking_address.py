"""Addresses of MLflow: special characters are quoted, and addresses that can never work are refused."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from dist_condense.settings.tracking_address import problems, resolve_uri, sqlite_file
from dist_condense.system.credentials import address, revealed


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("MLFLOW_", "DATABRICKS_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


def told(uri: str | None, output: Path | str = "/nowhere", experiment: str = "x") -> list[str]:
    return list(problems(uri, output, experiment))


def test_the_uri_is_the_configured_one_then_the_environment_then_the_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert resolve_uri("http://a", tmp_path) == "http://a"
    assert resolve_uri(None, tmp_path / "run") == f"sqlite:///{tmp_path}/mlflow.db"
    assert resolve_uri(None, tmp_path / "run").startswith("sqlite:////")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://b")
    assert resolve_uri(None, tmp_path) == "http://b"
    assert resolve_uri("http://a", tmp_path) == "http://a"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert resolve_uri(None, tmp_path / "run") == f"sqlite:///{tmp_path}/mlflow.db"


def test_runs_beside_each_other_share_a_database_unless_one_has_its_own(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    assert resolve_uri(None, tmp_path / "a") == resolve_uri(None, tmp_path / "b") == f"sqlite:///{tmp_path}/mlflow.db"
    (tmp_path / "b" / "mlflow.db").touch()
    assert resolve_uri(None, tmp_path / "b") == f"sqlite:///{tmp_path}/b/mlflow.db"
    assert resolve_uri(None, tmp_path / "selections" / "herding-1") == resolve_uri(None, tmp_path / "a")
    assert resolve_uri(None, tmp_path / "new" / "c") == f"sqlite:///{tmp_path}/new/mlflow.db"


def test_a_parent_folder_that_is_not_this_users_alone_has_no_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in /tmp, where another user could put a database."""
    own = f"sqlite:///{tmp_path}/run/mlflow.db"
    tmp_path.chmod(0o777)
    assert resolve_uri(None, tmp_path / "run") == own
    tmp_path.chmod(0o775)
    assert resolve_uri(None, tmp_path / "run") == own
    tmp_path.chmod(0o755)
    assert resolve_uri(None, tmp_path / "run") != own
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert resolve_uri(None, tmp_path / "run") == own
    monkeypatch.undo()
    assert resolve_uri(None, "/run-of-a-container") == "sqlite:////run-of-a-container/mlflow.db"
    assert resolve_uri(None, tmp_path / ("x" * 300)) != ""


@pytest.mark.parametrize("name", ["mlflow.db", "mlflow.db.lock", "mlflow.db-journal", "mlflow.db-wal", "mlflow.db-shm"])
def test_a_link_in_place_of_the_shared_database_is_refused(name: str, tmp_path: Path) -> None:
    """The attack: an archive of runs whose database is a file of the victim, who evaluates one of them."""
    (tmp_path / "mine").touch()
    (tmp_path / name).symlink_to(tmp_path / "mine")
    assert told(None, tmp_path / "run") == [
        f"output: {tmp_path / name} is a link, and not followed; remove it, or name a database by tracking.uri"
    ]
    assert told(f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "run") == []


@pytest.mark.parametrize("name", ["a b", "c%20d", "50%", "q?x", "e#f", "u'\u00fc&;[1]"])
def test_the_path_of_a_database_may_hold_any_letter(name: str, tmp_path: Path) -> None:
    """Checked by SQLAlchemy, which MLflow uses."""
    from sqlalchemy.engine import make_url

    uri = resolve_uri(None, tmp_path / name / "run")
    assert make_url(uri).database == str(tmp_path / name / "mlflow.db")
    assert dict(make_url(uri).query) == {}
    assert sqlite_file(uri) == tmp_path / name / "mlflow.db"
    assert resolve_uri(uri, "/elsewhere") == uri
    assert told(None, tmp_path / name / "run") == []


def test_a_relative_database_is_that_of_this_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_uri("sqlite:///own.db", "/out") == f"sqlite:///{tmp_path}/own.db"
    assert resolve_uri("sqlite:///own.db?timeout=9", "/out") == f"sqlite:///{tmp_path}/own.db?timeout=9"


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("localhost:5000", "has no scheme; give http://localhost:5000"),
        ("mlflow.example.org:443/path", "has no scheme; give http://mlflow.example.org:443/path"),
        ("http://", "names no host"),
        ("http://host:port", "not an address"),
        ("http://a b", "has white space or a hidden character in the name of its host"),
        ("ftp://host/x", "the scheme ftp is not one of databricks, http, https, "),
        ("file:///tmp/mlruns", "a folder, which MLflow no longer writes to"),
        ("./mlruns", "a folder, which MLflow no longer writes to"),
        ("mlruns", "a folder, which MLflow no longer writes to"),
        ("postgresql:mlflow", "incomplete; give postgresql://"),
        ("postgresql://[", "not an address"),
        ("sqlite:", "incomplete; give sqlite://"),
        ("sqlite://", "names no file; give sqlite:////PATH/mlflow.db"),
        ("sqlite:///:memory:", "in memory only"),
        ("sqlite:////a/b?c/mlflow.db", "for a path with ? give sqlite+pysqlite:////a/b%3Fc/mlflow.db"),
        ("databricks", "there are no credentials for Databricks"),
        ("databricks://profile", "there are no credentials for Databricks"),
    ],
)
def test_an_address_that_can_never_work_is_refused(
    uri: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (line,) = told(uri)
    assert line.startswith(f"tracking.uri: {uri}: ") and said in line
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    (line,) = told(None)
    assert line.startswith(f"MLFLOW_TRACKING_URI: {uri}: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "uri",
    [
        "http://host",
        "https://me:pw@host:5000/path",
        "postgresql+psycopg://mlflow@/mlflow?host=/srv",
        "mysql://a/b",
        "sqlite:////tmp/x.db?timeout=30",
        "sqlite:///file:/tmp/x.db?mode=rwc&uri=true",
    ],
)
def test_an_address_that_may_work_is_not(uri: str) -> None:
    assert told(uri) == []


def test_what_the_environment_allows_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("DATABRICKS_HOST", "https://x")
    assert told("./mlruns") == told("file:///tmp/x") == told("databricks") == []


def test_a_password_is_not_shown() -> None:
    (line,) = told("ftp://me:pw@host/x")
    assert "ftp://***@host/x: the scheme ftp is not one of" in line and "pw@" not in line


def test_an_address_whose_password_was_not_stored_is_that_of_the_variable_or_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole, stored = "http://me:pw@host:5000", str(address("http://me:pw@host:5000"))
    assert resolve_uri(stored, tmp_path) == stored
    assert told(stored) == [
        f"tracking.uri: {stored}: its password is not stored; give it again, as tracking.uri=... "
        "or by MLFLOW_TRACKING_URI"
    ]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:pw@another:5000")
    assert revealed(resolve_uri(stored, tmp_path)) == stored
    monkeypatch.setenv("MLFLOW_TRACKING_URI", whole)
    assert revealed(resolve_uri(stored, tmp_path)) == revealed(resolve_uri(None, tmp_path)) == whole
    assert told(stored) == []


def test_a_file_that_is_no_database_or_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database, but long enough to be read as one" * 9)
    (tmp_path / "empty").touch()
    assert "file is not a database; move the file away" in told(f"sqlite:///{tmp_path}/text")[0]
    assert "not a file" in told(f"sqlite:///{tmp_path}")[0]
    assert f"cannot be created in {tmp_path}/text" in told(f"sqlite:///{tmp_path}/text/below/mlflow.db")[0]
    assert told(f"sqlite:///{tmp_path}/empty") == told(f"sqlite:///{tmp_path}/new/mlflow.db") == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "text"]


def test_an_experiment_that_is_deleted_in_a_file_is_named(tmp_path: Path) -> None:
    """The columns are MLflow's; tests/result/tracking/test_tracker.py uses a real database."""
    file = tmp_path / "a%b.db"
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("CREATE TABLE experiments (experiment_id INTEGER, name TEXT, lifecycle_stage TEXT)")
        database.execute("INSERT INTO experiments VALUES (7, 'x', 'deleted'), (8, 'y', 'active')")
    uri = f"sqlite:///{tmp_path}/a%25b.db"
    (line,) = told(uri)
    assert "the experiment 'x' is deleted there" in line and "restore --experiment-id 7" in line
    assert told(uri, experiment="y") == told(uri, experiment="new") == []
