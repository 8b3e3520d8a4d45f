"""The scripts of the rendered ConfigMap on a real PostgreSQL: rights and password of MLflow's role."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import absent
from tests.deploy.k8s.manifests import config_map, only, rendered

pytestmark = pytest.mark.daemon("PostgreSQL")

ROLE = (
    "SELECT rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls FROM pg_roles WHERE rolname = 'mlflow'"
)
OWNER = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'mlflow'"


class Database:
    """The container `postgres` with folders of this machine as its volumes, run by the user `postgres`, not by root."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder = folder
        self.container = only(rendered("gpu"), "StatefulSet")["spec"]["template"]["spec"]["containers"][0]
        root = os.getuid() == 0
        self.user = {"user": "postgres", "group": "postgres", "extra_groups": []} if root else {}
        self.path = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "LANG": "C.UTF-8"}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        places = {mount["name"]: folder / mount["name"] for mount in self.container["volumeMounts"]}
        for place in places.values():
            place.mkdir()
            if root:
                shutil.chown(place, "postgres")
        self.mounts = {mount["mountPath"]: str(places[mount["name"]]) for mount in self.container["volumeMounts"]}
        for name, text in config_map(rendered("gpu"), "postgres")["data"].items():
            (places["scripts"] / name).write_text(text)
            (places["scripts"] / name).chmod(0o644)

    def here(self, text: str) -> str:
        return next((text.replace(a, b) for a, b in self.mounts.items() if text.startswith(a)), text)

    def start(self, password: str) -> None:
        """Start the manifest's command on a free port of 127.0.0.1 and wait until it answers."""
        given = {entry["name"]: self.here(entry["value"]) for entry in self.container["env"] if "value" in entry}
        (secret,) = (entry["name"] for entry in self.container["env"] if "valueFrom" in entry)
        own = ["listen_addresses=127.0.0.1", f"port={self.port}", f"unix_socket_directories={self.folder / 'socket'}"]
        words = [self.here(word) for word in self.container["command"]] + [f"--{setting}" for setting in own]
        self.process = subprocess.Popen(
            words,
            env=self.path | given | {secret: password},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd="/",
            **self.user,
        )
        log = []
        # the first message is of the server that sets roles
        while sum("ready to accept connections" in line for line in log) < 2:
            log.append(self.process.stdout.readline())
            assert log[-1], "".join(log)

    def stop(self) -> str:
        """Stop the server and return its log."""
        self.process.send_signal(signal.SIGINT)
        return self.process.communicate()[0]

    def query(self, sql: str, password: str, user: str = "mlflow", database: str = "mlflow") -> str:
        """Return the answer to `sql` through the network, or the error."""
        where = f"host=127.0.0.1 port={self.port} user={user} dbname={database}"
        return self._psql(where, sql, PGPASSWORD=password)

    def inside(self, sql: str) -> str:
        """Return the answer to `sql` through the socket in the pod."""
        return self._psql(f"host={self.folder / 'socket'} port={self.port} dbname=postgres", sql)

    def _psql(self, where: str, sql: str, **given: str) -> str:
        done = subprocess.run(
            ["psql", "--no-psqlrc", "--tuples-only", "--no-align", "--no-password", where, "--command", sql],
            env=self.path | given,
            capture_output=True,
            text=True,
            cwd="/",
            **self.user,
        )
        return (done.stdout + done.stderr).strip()


@pytest.fixture
def database() -> Iterator[Database]:
    initdb = shutil.which("initdb") or max(Path("/usr/lib/postgresql").glob("*/bin/initdb"), default=None)
    if not initdb:
        absent("no PostgreSQL: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))  # short enough for a socket
    folder.chmod(0o755)
    made = Database(folder, Path(os.path.realpath(initdb)).parent)
    yield made
    if made.process.poll() is None:
        made.stop()
    shutil.rmtree(folder)


def test_a_volume_that_is_empty_or_of_the_group_starts(database: Database) -> None:
    """fsGroup leaves an empty folder at first, and later one with write access for the group."""
    data = Path(database.here("/var/lib/postgresql/data/pgdata"))
    data.mkdir()
    if os.getuid() == 0:
        shutil.chown(data, "postgres", "postgres")
    database.start("first")
    database.stop()
    data.chmod(0o2770)
    database.start("first")
    assert database.query("SELECT 1", "first") == "1"


def test_the_probes_ask_by_the_network_and_log_nothing(database: Database) -> None:
    database.start("first")
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        words = database.container[probe]["exec"]["command"]
        given = database.path | {"PGPORT": str(database.port)}
        assert subprocess.run(words, env=given, capture_output=True, cwd="/", **database.user).returncode == 0
    assert "authentication failed" not in database.stop()


def test_another_user_of_the_machine_does_not_get_in_by_the_socket(database: Database) -> None:
    if os.getuid() != 0:
        pytest.skip("needs root to be another user")
    database.start("first")
    (database.folder / "socket").chmod(0o755)
    assert database.inside("SELECT 1") == "1"
    database.user = {"user": "nobody", "extra_groups": []}
    where = f"host={database.folder / 'socket'} port={database.port} user=postgres dbname=postgres"
    assert "Peer authentication failed" in database._psql(where, "SELECT 1")


def test_a_database_whose_superuser_is_mlflow_is_refused_with_what_to_do(database: Database) -> None:
    """An earlier version of the manifests made such a database."""
    data = database.here("/var/lib/postgresql/data/pgdata")
    words = ["initdb", "--pgdata", data, "--username=mlflow", "--no-sync"]
    subprocess.run(words, env=database.path, capture_output=True, cwd="/", check=True, **database.user)
    with pytest.raises(AssertionError, match="An older database"):
        database.start("first")
    database.process.communicate(timeout=60)
    assert database.process.returncode == 1 and not (Path(data) / "postmaster.pid").exists()


def test_mlflow_owns_its_database_and_nothing_else_and_its_password_changes_with_the_secret(database: Database) -> None:
    first = "it's \\ first"
    database.start(first)
    assert database.inside(ROLE) == "f|f|f|f|f" and database.inside(OWNER) == "mlflow"
    assert database.query("CREATE TABLE kept (x int); INSERT INTO kept VALUES (7)", first).endswith("INSERT 0 1")
    assert "pg_execute_server_program" in database.query("COPY kept FROM PROGRAM 'echo 1'", first)
    assert "permission denied for table pg_authid" in database.query("SELECT rolpassword FROM pg_authid", first)
    assert "ERROR" in database.query("CREATE ROLE more SUPERUSER", first)
    assert "no pg_hba.conf entry" in database.query("SELECT 1", first, database="postgres")
    assert "no pg_hba.conf entry" in database.query("SELECT 1", first, user="postgres")
    stored = "SELECT rolpassword LIKE 'SCRAM-SHA-256$%' FROM pg_authid WHERE rolname = 'mlflow'"
    assert database.inside(stored) == "t"
    database.inside("ALTER ROLE mlflow SUPERUSER CREATEDB")  # additional rights do not survive a start
    assert first not in database.stop()

    database.start("second")
    assert database.inside(ROLE) == "f|f|f|f|f"
    assert database.query("SELECT x FROM kept", "second") == "7"
    assert "password authentication failed" in database.query("SELECT x FROM kept", first)
