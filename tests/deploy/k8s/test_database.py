"""The scripts of the rendered ConfigMap on a real PostgreSQL: what MLflow's role may, how its password changes."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import absent
from tests.deploy.k8s.manifests import K8S, config_map, only, rendered

pytestmark = pytest.mark.daemon("PostgreSQL")

ROLE = (
    "SELECT rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls FROM pg_roles WHERE rolname = 'mlflow'"
)
OWNER = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'mlflow'"


class Database:
    """The container `postgres` with folders of this machine for its volumes; PostgreSQL refuses root."""

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
        """Until it answers; with the words of the manifest, on this machine's own address and a port of its own."""
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
        told = []
        while sum("ready to accept connections" in line for line in told) < 2:  # the one for the roles, then this one
            told.append(self.process.stdout.readline())
            assert told[-1], "".join(told)

    def stop(self) -> str:
        """What it logged."""
        self.process.send_signal(signal.SIGINT)
        return self.process.communicate()[0]

    def says(self, sql: str, password: str, user: str = "mlflow", database: str = "mlflow") -> str:
        """To MLflow, by the network; what it answers, or why it does not."""
        where = f"host=127.0.0.1 port={self.port} user={user} dbname={database}"
        return self._psql(where, sql, PGPASSWORD=password)

    def inside(self, sql: str) -> str:
        """To whoever is in the pod."""
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
    found = shutil.which("initdb") or max(Path("/usr/lib/postgresql").glob("*/bin/initdb"), default=None)
    if not found:
        absent("no PostgreSQL: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))  # of a name that fits a socket
    folder.chmod(0o755)
    made = Database(folder, Path(os.path.realpath(found)).parent)
    yield made
    if made.process.poll() is None:
        made.stop()
    shutil.rmtree(folder)


def test_a_volume_that_is_empty_or_of_the_group_starts(database: Database) -> None:
    """What fsGroup leaves: a folder that was made and nothing in it, later one that the group may write."""
    data = Path(database.here("/var/lib/postgresql/data/pgdata"))
    data.mkdir()
    if os.getuid() == 0:
        shutil.chown(data, "postgres", "postgres")
    database.start("first")
    database.stop()
    data.chmod(0o2770)
    database.start("first")
    assert database.says("SELECT 1", "first") == "1"


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
    """That of an earlier version."""
    data = database.here("/var/lib/postgresql/data/pgdata")
    words = ["initdb", "--pgdata", data, "--username=mlflow", "--no-sync"]
    subprocess.run(words, env=database.path, capture_output=True, cwd="/", check=True, **database.user)
    with pytest.raises(AssertionError, match="An older database"):
        database.start("first")
    database.process.communicate(timeout=60)
    assert database.process.returncode == 1 and not (Path(data) / "postmaster.pid").exists()


def test_shellcheck_has_nothing_to_say() -> None:
    script = K8S / "base" / "postgres" / "start.sh"
    done = subprocess.run([Path(sys.executable).with_name("shellcheck"), script], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("", 0)


def test_mlflow_owns_its_database_and_nothing_else_and_its_password_changes_with_the_secret(database: Database) -> None:
    first = "it's \\ first"
    database.start(first)
    assert database.inside(ROLE) == "f|f|f|f|f" and database.inside(OWNER) == "mlflow"
    assert database.says("CREATE TABLE kept (x int); INSERT INTO kept VALUES (7)", first).endswith("INSERT 0 1")
    assert "pg_execute_server_program" in database.says("COPY kept FROM PROGRAM 'echo 1'", first)
    assert "permission denied for table pg_authid" in database.says("SELECT rolpassword FROM pg_authid", first)
    assert "ERROR" in database.says("CREATE ROLE more SUPERUSER", first)
    assert "no pg_hba.conf entry" in database.says("SELECT 1", first, database="postgres")
    assert "no pg_hba.conf entry" in database.says("SELECT 1", first, user="postgres")
    stored = "SELECT rolpassword LIKE 'SCRAM-SHA-256$%' FROM pg_authid WHERE rolname = 'mlflow'"
    assert database.inside(stored) == "t"
    database.inside("ALTER ROLE mlflow SUPERUSER CREATEDB")  # what somebody gave it does not outlive a start
    assert first not in database.stop()

    database.start("second")
    assert database.inside(ROLE) == "f|f|f|f|f"
    assert database.says("SELECT x FROM kept", "second") == "7"
    assert "password authentication failed" in database.says("SELECT x FROM kept", first)
