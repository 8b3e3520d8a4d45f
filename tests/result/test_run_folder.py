"""Untrusted run folders: they lead nowhere else, and do not decide where data of this machine is sent."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import chdir, closing
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from dist_condense.commands import cli, run_command
from dist_condense.job import checkpoint
from dist_condense.job.job import Job
from dist_condense.result import metrics_file, synthetic_set
from dist_condense.result.tracking import server as mlflow_server
from dist_condense.result.tracking import trust
from dist_condense.result.tracking.replay import replay as send
from dist_condense.result.tracking.server import Refused
from dist_condense.result.tracking.server_run import RunAddress, ServerRun
from dist_condense.settings import config, run_folder, yaml_files
from dist_condense.settings.config import ConfigError
from dist_condense.settings.values import Unusable
from dist_condense.system.errors import SHOWN
from tests.job.test_failures import command

SHORT = ("trajectory.networks=1", "trajectory.matching_steps=2", "tracking.log_every=1", "tracking.checkpoint_steps=1")
ONE = ("evaluation.epochs=1", "evaluation.seeds=1", "evaluation.sets=[condensed]", "evaluation.architectures=[mlp]")
SECRET = "a-secret-of-this-machine"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, without the database beside it."""
    folder = tmp_path_factory.mktemp("made") / "run"
    assert command("dc", folder, *SHORT) == 0
    return folder


@pytest.fixture
def theirs(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it from an untrusted source, on a machine with a secret and without a login for any server."""
    for name in ("MLFLOW_TRACKING_URI", "NETRC", *trust.CREDENTIALS):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SECRET", SECRET)
    return Path(shutil.copytree(made, tmp_path / "theirs"))


def changed(folder: Path, old: str, new: str) -> None:
    """Replace a text in its config.yaml."""
    file = folder / "config.yaml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))


def evaluate(folder: Path, *more: str) -> int:
    return cli.main(["evaluate", str(folder), *ONE, *more])


def replay(folder: Path, *more: str) -> int:
    return cli.main(["replay", str(folder), *more])


def rerun(folder: Path) -> int:
    return command("dc", folder, *SHORT)


def all_bytes(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


# --- config.yaml --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [evaluate, replay, rerun])
@pytest.mark.parametrize("text", ["${oc.env:SECRET}", "a ${oc.env:SECRET}", "\\\\${oc.env:SECRET}", "${output}"])
def test_a_variable_of_this_machine_is_not_put_into_a_config(
    given: Callable[[Path], int], text: str, theirs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The attack: the name of the experiment is a secret of the user, and is sent to a server."""
    changed(theirs, "experiment: dist_condense", f"experiment: {text}")
    answer = given(theirs)
    assert SECRET.encode() not in all_bytes(theirs)
    message = capfd.readouterr().err
    assert f"{theirs / 'config.yaml'}: tracking.experiment: the config of a run is resolved" in message
    assert answer in (cli.REFUSED, cli.FAILED) and SECRET not in message and not (theirs / "mlflow.db").exists()


@pytest.mark.parametrize("given", [evaluate, replay, rerun])
def test_defaults_are_not_composed(
    given: Callable[[Path], int], theirs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (theirs / "more.yaml").write_text("tracking: {experiment: composed}\n")
    changed(theirs, "seed: 0", "defaults: [more, _self_]\nseed: 0")
    assert given(theirs) in (cli.REFUSED, cli.FAILED)
    assert f"{theirs / 'config.yaml'}: defaults: the config of a run is resolved" in capfd.readouterr().err


@pytest.mark.parametrize("place", ["https://x/y", "ftp://x"])
def test_a_place_of_checkpoints_that_is_not_opened_is_refused(
    place: str, theirs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    changed(theirs, "checkpoints: null", f"checkpoints: {place}")
    assert evaluate(theirs) == cli.REFUSED
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"refused: tracking.checkpoints: '{place}")


def test_anchors_are_refused_before_they_fill_the_memory(theirs: Path, capfd: pytest.CaptureFixture[str]) -> None:
    lines = ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30))]
    with (theirs / "config.yaml").open("a") as file:
        file.write("\n".join(lines))
    assert replay(theirs) == cli.REFUSED
    assert "an anchor; the config of a run is resolved" in capfd.readouterr().err


@pytest.mark.parametrize(
    "text", ["${a}", "a${b", "\\${a}", "\\\\${a}", "x\\\\\\${a} ${b}", "$", "\\", "${oc.env:SECRET}", "\\$"]
)
def test_what_a_run_wrote_is_read_as_it_was(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", SECRET)
    made = config.from_dict({"output": text, "tracking": {"experiment": text}})
    (tmp_path / "config.yaml").write_text(config.to_yaml(made))
    assert config.read(tmp_path / "config.yaml").tracking.experiment == text
    assert yaml_files.stored_values(tmp_path / "config.yaml") == config.to_dict(made)


def test_overrides_of_the_user_may_have_interpolations(theirs: Path) -> None:
    changed(theirs, "experiment: dist_condense", "experiment: \\${oc.env:SECRET}")
    assert run_command.finished(theirs, ONE).tracking.experiment == "${oc.env:SECRET}"
    given = (*ONE, "tracking.experiment=${oc.env:SECRET}")
    assert run_command.finished(theirs, given).tracking.experiment == SECRET


def test_a_key_is_no_interpolation_either(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("${oc.env:SECRET}: 1\n")
    with pytest.raises(Unusable, match=r"the key '\$\{oc\.env:SECRET\}': .* is resolved"):
        yaml_files.stored(tmp_path / "config.yaml")


@pytest.mark.parametrize("text", ["2026-11-26", "[a, 2026-11-26]"])
def test_what_json_cannot_hold_is_named(text: str, theirs: Path, capfd: pytest.CaptureFixture[str]) -> None:
    changed(theirs, "experiment: dist_condense", f"experiment: {text}")
    assert replay(theirs) == cli.REFUSED
    assert f"{theirs / 'config.yaml'}: tracking.experiment: " in (message := capfd.readouterr().err)
    assert "is no text, number or list" in message and message.count("\n") == 1


def test_nor_can_a_key_be_such_a_value(tmp_path: Path) -> None:
    for key, line in (
        ("!!binary YWJj", "line 1: the tag '!!binary' is not read"),
        ("2026-11-26", "the key datetime.date(2026, 11, 26) is no text"),
    ):
        (tmp_path / "config.yaml").write_text(f"tracking: {{{key}: 1}}\n")
        with pytest.raises(Unusable) as refused:
            yaml_files.stored_values(tmp_path / "config.yaml")
        assert line in str(refused.value)


# --- links --------------------------------------------------------------------------------------------------------


ENTRIES = [
    "config.yaml",
    "report.html",
    "environment.json",
    "evaluation.csv",
    "evaluation_classes.csv",
    "metrics.jsonl",
    "tracking.json",
    "mlflow.db",
    "owner",
    ".owner.lock",
    "sweep",
    "logs/driver.jsonl",
    "synthetic_set",
    "synthetic_set/card.json",
    "synthetic_set/preview.png",
    "synthetic_set/more",
    "stages",
    "stages/00000000_000.png",
    "checkpoints/step_00000001_00000000",
    "checkpoints/step_00000002_00000000/shared.safetensors",
]


def put(path: Path, make: Callable[[Path], object]) -> None:
    """Replace an entry by something else."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    make(path)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A file of the victim."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "key").write_text(SECRET)
    return tmp_path / "mine" / "key"


@pytest.mark.parametrize("given", [evaluate, replay, rerun])
@pytest.mark.parametrize("entry", ENTRIES)
def test_a_link_is_not_followed(
    given: Callable[[Path], int], entry: str, theirs: Path, outside: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The attacks: `replay` sends the target of the link, `evaluate` and `run` write to it or read it."""
    path = theirs / entry
    kept = Path(shutil.copytree(path, outside.parent / "folder")) if path.is_dir() else outside
    if entry == "config.yaml":  # with what it needs to be taken
        shutil.copy(path, outside)
    before = outside.stat().st_ctime_ns
    put(path, lambda path: path.symlink_to(kept))
    answer = given(theirs)
    assert outside.stat().st_ctime_ns == before and SECRET.encode() not in all_bytes(theirs / "mlartifacts")
    message = capfd.readouterr().err
    assert f"{path} is a link, to {kept}, and not followed" in message and message.count("is a link") == 1
    assert answer == cli.REFUSED and not (theirs / "mlartifacts").exists() and SECRET not in message


@pytest.mark.parametrize("given", [evaluate, replay, rerun])
@pytest.mark.parametrize("kind", ["a named pipe", "a socket"])
def test_what_never_ends_is_not_opened(
    given: Callable[[Path], int], kind: str, theirs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def make(path: Path) -> None:
        if kind == "a named pipe":
            os.mkfifo(path)
        else:
            with closing(socket.socket(socket.AF_UNIX)) as bound, chdir(path.parent):  # a socket's path is short
                bound.bind(path.name)

    put(theirs / "metrics.jsonl", make)
    assert given(theirs) == cli.REFUSED
    assert f"{theirs / 'metrics.jsonl'} is {kind}, and not opened" in capfd.readouterr().err


@pytest.mark.parametrize("given", [evaluate, replay, rerun])
@pytest.mark.parametrize("entry", ["environment.json", "report.html", "logs/driver.jsonl", "logs/worker_0.jsonl"])
def test_a_folder_in_place_of_a_file_is_one_line(
    given: Callable[[Path], int], entry: str, theirs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    put(theirs / entry, Path.mkdir)
    assert given(theirs) == cli.REFUSED
    expected = f"refused: {theirs / entry} is a folder, and a run's folder has a file of this name; remove it\n"
    assert capfd.readouterr().err == expected


def test_what_an_earlier_start_removes_meanwhile_is_not_missed(theirs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = run_folder._listed

    def gone(folder: Path) -> list[Path]:
        paths = listed(folder)
        if folder == theirs:
            shutil.rmtree(theirs / "logs")
            (theirs / "metrics.jsonl").unlink()
        return paths

    monkeypatch.setattr(run_folder, "_listed", gone)
    run_folder.check(theirs)


def test_many_links_are_some_lines(theirs: Path, outside: Path) -> None:
    for number in range(30):
        (theirs / "logs" / str(number)).symlink_to(outside)
    with pytest.raises(ConfigError, match=rf"\.\.\. and {30 - SHOWN} more in") as refused:
        run_folder.check(theirs)
    assert len(refused.value.problems) == SHOWN + 1


def test_a_folder_of_links_that_is_no_run_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Such as / and /etc."""
    (other := tmp_path / "other").mkdir()
    for number in range(30):
        (other / f"link{number}").symlink_to("bin")
    os.mkfifo(other / "pipe")
    assert command("dc", other, *SHORT) == cli.REFUSED
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"refused: output: {other} is not the folder of a run, and contains 31 links")
    assert command("dc", tmp_path / "new", *SHORT, f"--resume={other}") == cli.REFUSED
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"refused: --resume={other}: there is no checkpoint; give a run's folder")


UNRELATED = ("README", "notes", "logs", "network_a.safetensors")


def test_unrelated_links_beside_checkpoints_are_not_refused(
    theirs: Path, outside: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (theirs / "pool").mkdir()
    for folder, name in itertools.product((theirs, theirs / "checkpoints", theirs / "pool"), UNRELATED):
        put(folder / name, lambda path: path.symlink_to(outside))
    again = replace(config.read(theirs / "config.yaml"), output=str(tmp_path / "new"))
    for place in PLACES:
        assert Job.prepare(again, str(theirs / place)).start is not None
    assert Job.prepare(replace(again, tracking=replace(again.tracking, checkpoints=str(theirs)))).start is not None
    capfd.readouterr()
    for entry in (
        "pool/network_0.safetensors",
        "pool/network_0.safetensors.sha256",
        "checkpoints/step_00000009_00000000",
    ):
        (theirs / entry).symlink_to(outside)
        assert command("dc", tmp_path / "fourth", *SHORT, f"tracking.checkpoints={theirs}") == cli.REFUSED
        (line,) = capfd.readouterr().err.splitlines()
        assert line.startswith(f"refused: tracking.checkpoints: {theirs / entry} is a link, to {outside}")
        (theirs / entry).unlink()


def test_the_folder_itself_and_what_lies_on_another_disk_may_be_links(theirs: Path, tmp_path: Path) -> None:
    for name in run_folder.MAY_LEAD:
        (theirs / name).mkdir(exist_ok=True)
        shutil.move(theirs / name, tmp_path / f"scratch_{name}")
        (theirs / name).symlink_to(tmp_path / f"scratch_{name}")
    (tmp_path / "link").symlink_to(theirs)
    assert evaluate(tmp_path / "link") == 0
    assert replay(tmp_path / "link") == 0
    (tmp_path / "scratch_pool" / "network_0.safetensors").symlink_to(tmp_path / "x")
    with pytest.raises(ConfigError, match=r"pool/network_0\.safetensors is a link"):
        run_folder.check(theirs)
    (theirs / "pool").unlink()
    (theirs / "pool").symlink_to(tmp_path / "scratch_checkpoints" / "nothing")
    with pytest.raises(ConfigError, match="pool is a link"):
        run_folder.check(theirs)


def test_a_link_that_was_put_there_meanwhile_is_not_sent(theirs: Path, outside: Path) -> None:
    server = ServerRun("http://localhost:1", RunAddress(uri="", experiment="", run_name="", run_id="r1"), theirs)
    server._client = type("NoServer", (), {})()  # any call of it fails
    for entry in ("report.html", "synthetic_set/card.json"):
        put(theirs / entry, lambda path: path.symlink_to(outside))
        with pytest.raises(Refused, match="is a link"):
            server.log_artifacts(theirs / entry.split("/")[0])


PLACES = ("", "checkpoints", "checkpoints/step_00000001_00000000")
"""Folders of a run that --resume may name."""


@pytest.mark.parametrize("entry", ["checkpoints/step_00000001_00000000/class_0.safetensors", "metrics.jsonl"])
def test_a_resumed_folder_leads_nowhere_either(
    entry: str, theirs: Path, outside: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(theirs / entry, outside)
    put(theirs / entry, lambda path: path.symlink_to(outside))
    for place in (place for place in PLACES if (theirs / entry).is_relative_to(theirs / place)):
        assert command("dc", tmp_path / "new", *SHORT, f"--resume={theirs / place}") == cli.REFUSED
        assert f"{theirs / entry} is a link" in capfd.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "name", ["manifest.json", "shared.safetensors", "class_3.safetensors", "classes_0.safetensors"]
)
def test_no_file_of_a_resumed_checkpoint_is_a_link(name: str, tmp_path: Path, outside: Path) -> None:
    (tmp_path / name).symlink_to(outside)
    with pytest.raises(ConfigError, match=f"{name} is a link"):
        run_folder.check(tmp_path, checkpoint.is_opened)


@pytest.mark.parametrize(("place", "expected"), list(zip(PLACES, ([1, 2], [], [2]), strict=True)))
def test_nothing_outside_of_a_resumed_path_is_read(
    place: str, expected: list[int], theirs: Path, tmp_path: Path
) -> None:
    """Step 2 is the newest, and the third place is step 1."""
    assert command("dc", tmp_path / "new", *SHORT, f"--resume={theirs / place}") == 0
    steps = [entry["step"] for entry in metrics_file.read(tmp_path / "new" / "metrics.jsonl")]
    assert steps == expected


# --- the set ------------------------------------------------------------------------------------------------------


def test_the_set_is_verified_once_in_each_start(
    theirs: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Both its hash and its pixels; ImageNet-1K's has 6 GB. A damaged one is refused before anything is trained."""
    read: list[str] = []
    for name in ("sha256_of", "_pixel_problems"):
        whole = getattr(synthetic_set, name)
        counting = lambda *given, name=name, whole=whole: [read.append(name), whole(*given)][1]  # noqa: E731
        monkeypatch.setattr(synthetic_set, name, counting)
    once = ["_pixel_problems", "sha256_of"]
    assert evaluate(theirs) == 0 and read == once
    read.clear()
    assert command("dc", theirs, *SHORT, *ONE) == 0 and read == once
    file = theirs / "synthetic_set" / synthetic_set.TENSORS
    data = bytearray(file.read_bytes())
    data[-9] ^= 1
    file.write_bytes(data)
    before = (theirs / "evaluation.csv").read_bytes()
    capfd.readouterr()
    assert evaluate(theirs, "evaluation.seeds=2") == cli.REFUSED
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"refused: {file} ") and (theirs / "evaluation.csv").read_bytes() == before
    assert command("dc", theirs, *SHORT) == 0
    assert "note: the set is written again from the checkpoint" in capfd.readouterr().err


# --- where things are sent ----------------------------------------------------------------------------------------


class Heard(HTTPServer):
    """Server of the attacker, which records the logins that it gets."""

    def __init__(self) -> None:
        self.logins: list[str | None] = []
        super().__init__(("127.0.0.1", 0), _Answer)


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Heard)
        self.server.logins.append(self.headers["Authorization"])
        self.send_error(404)

    do_POST = do_GET

    def log_message(self, *given: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Heard]:
    heard = Heard()
    thread = threading.Thread(target=heard.serve_forever)
    thread.start()
    yield heard
    heard.shutdown()
    heard.server_close()
    thread.join()


@pytest.mark.parametrize("given", [evaluate, replay])
@pytest.mark.parametrize("login", ["MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "file", "~/.netrc"])
def test_a_login_is_not_sent_to_the_server_of_a_stranger(
    given: Callable[..., int],
    login: str,
    theirs: Path,
    server: Heard,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    uri = f"http://127.0.0.1:{server.server_port}"
    changed(theirs, "uri: null", f"uri: {uri}")
    if login == "file":
        (tmp_path / "home" / ".mlflow").mkdir()
        (tmp_path / "home" / ".mlflow" / "credentials").write_text("[mlflow]\nmlflow_tracking_username = me\n")
        login = "~/.mlflow/credentials"
    elif login == "~/.netrc":
        (tmp_path / "home" / ".netrc").write_text(f"machine 127.0.0.1 login me password {SECRET}\n")
        (tmp_path / "home" / ".netrc").chmod(0o600)
    else:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
        monkeypatch.setenv(login, SECRET)
    answer = given(theirs)
    assert server.logins == []
    message, how = capfd.readouterr().err, "--uri " if given is replay else "tracking.uri="
    assert (
        f"{uri} is named by {theirs / 'config.yaml'} alone, and " in message
        and f"{login} would be sent there" in message
    )
    assert f"if it is yours, give {how}{uri}" in message and answer in (cli.REFUSED, cli.FAILED)


def test_an_address_that_the_user_names_is_trusted(
    theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed(theirs, "uri: null", "uri: http://me:pw@127.0.0.1:1")
    assert run_command.finished(theirs, ONE)  # no login would be sent there
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", SECRET)
    with pytest.raises(ConfigError, match="would be sent there") as refused:
        run_command.finished(theirs, ONE)
    assert "pw" not in str(refused.value)
    assert run_command.finished(theirs, (*ONE, "tracking.uri=http://127.0.0.1:1"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:pw@127.0.0.1:1")
    assert run_command.finished(theirs, ONE)


@pytest.mark.parametrize(
    ("uri", "variable", "message"),
    [
        ("postgresql+psycopg://host/mlflow", "NO_LOGIN", "a database gets logins of this machine"),
        ("postgresql://host/mlflow?passfile=/home/me/.pgpass", "NO_LOGIN", "a database gets logins of this machine"),
        ("mysql://host/mlflow", "NO_LOGIN", "a database gets logins of this machine"),
        ("mssql+pyodbc://host/mlflow", "NO_LOGIN", "a database gets logins of this machine"),
        ("https://host", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_USERNAME would be sent there"),
        ("HTTPS://host", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_TOKEN would be sent there"),
        ("http://host", "PGPASSWORD", None),
        ("databricks", "MLFLOW_TRACKING_TOKEN", None),
        ("sqlite:////elsewhere/mlflow.db", "PGPASSWORD", "is outside of the folder"),
        ("sqlite:///file:/elsewhere/mlflow.db?uri=true", "PGPASSWORD", "is outside of the folder"),
        ("file:///elsewhere", "PGPASSWORD", "is outside of the folder"),
        (None, "MLFLOW_TRACKING_TOKEN", None),
    ],
)
def test_which_addresses_are_distrusted(
    uri: str | None, variable: str, message: str | None, theirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, SECRET)
    reasons = list(trust.distrusted(uri, theirs, "--uri "))
    assert message in reasons[0] if message else reasons == []


@pytest.mark.parametrize("given", [evaluate, replay])
def test_no_file_is_made_where_a_folder_says(
    given: Callable[..., int], theirs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The attack: a database called as a file that a shell reads."""
    changed(theirs, "uri: null", f"uri: sqlite:///{tmp_path / 'home' / '.zshenv'}")
    assert given(theirs) in (cli.REFUSED, cli.FAILED)
    assert "is outside of the folder" in capfd.readouterr().err and list((tmp_path / "home").iterdir()) == []


def test_a_database_in_the_folder_keeps_nothing_outside(
    theirs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The attack: it stores files of the run in another folder of the victim."""
    (theirs / "mlflow.db").touch()
    assert replay(theirs) == 0
    with closing(sqlite3.connect(theirs / "mlflow.db")) as database, database:
        database.execute("UPDATE runs SET artifact_uri = ?", ((tmp_path / "home").as_uri(),))
    assert replay(theirs) == cli.FAILED
    assert f"stores files at {(tmp_path / 'home').as_uri()}, which is not in {theirs}" in capfd.readouterr().err
    assert list((tmp_path / "home").iterdir()) == []


def sharing(theirs: Path) -> Path:
    """Send a run to the database beside its folder, and return the folder of its files."""
    assert replay(theirs) == 0
    run = json.loads((theirs / "tracking.json").read_text())["run_id"]
    return theirs.parent / "mlartifacts" / run / "artifacts"


@pytest.mark.parametrize("place", ["home", "other_run"])
def test_a_database_beside_the_folder_keeps_nothing_elsewhere(
    place: str, theirs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The attack: an archive of a folder and a database, which stores files elsewhere, also in another run."""
    sharing(theirs)
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database, database:
        database.execute("UPDATE runs SET artifact_uri = ?", ((tmp_path / place).as_uri(),))
    assert replay(theirs) == cli.FAILED
    said = f"stores files at {(tmp_path / place).as_uri()}, which is not in {tmp_path}/mlartifacts"
    assert said in capfd.readouterr().err
    assert not (tmp_path / "other_run").exists() and list((tmp_path / "home").iterdir()) == []


@pytest.mark.parametrize("linked", ["config.yaml", "synthetic_set/card.json", "..", "../.."])
def test_a_link_among_the_files_of_a_shared_database_is_not_followed(
    linked: str, theirs: Path, outside: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The attack: an archive of a folder and a database, in whose files is a link to a file of the victim."""
    path = Path(os.path.normpath(sharing(theirs) / linked))
    kept = Path(shutil.copytree(path, outside.parent / "folder")) if path.is_dir() else outside
    before = [(file, file.stat().st_ctime_ns) for file in sorted(outside.parent.rglob("*"))]
    put(path, lambda path: path.symlink_to(kept))
    assert replay(theirs) == cli.FAILED
    assert "is a link" in (said := capfd.readouterr().err) or "is not in" in said
    assert [(file, file.stat().st_ctime_ns) for file in sorted(outside.parent.rglob("*"))] == before


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Database of a server."""
    from mlflow import MlflowClient

    file = tmp_path_factory.mktemp("server") / "server.db"
    MlflowClient(f"sqlite:///{file}").create_experiment("dist_condense")
    return file


@pytest.fixture
def server_uri(database: Path, theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Address, in the folder's config.yaml, of a server that lets its client write files to the user's home."""
    from mlflow import MlflowClient

    uri = "http://127.0.0.1:1"
    changed(theirs, "uri: null", f"uri: {uri}")
    file = shutil.copy(database, tmp_path)
    with closing(sqlite3.connect(file)) as opened, opened:
        opened.execute("UPDATE experiments SET artifact_location = ?", ((tmp_path / "home").as_uri(),))
    client = MlflowClient(f"sqlite:///{file}")
    monkeypatch.setattr(mlflow_server, "connect", lambda uri: client)
    return uri


@pytest.mark.parametrize("given", [evaluate, replay])
def test_the_server_of_a_stranger_writes_no_files_here(
    given: Callable[..., int], server_uri: str, theirs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The attack: the client of MLflow writes wherever the server says, also in a folder of this machine."""
    answer = given(theirs)
    assert list((tmp_path / "home").iterdir()) == []
    message = capfd.readouterr().err
    assert (
        f"{theirs / 'config.yaml'} alone names it, and it would have files written to file://{tmp_path}/home" in message
    )
    assert f"replay --uri {server_uri}, evaluate tracking.uri={server_uri}, or MLFLOW_TRACKING_URI" in message
    assert answer == (cli.FAILED if given is replay else 0)  # an evaluation continues without its server


def test_it_is_not_asked_twice_where_files_go(server_uri: str, theirs: Path, tmp_path: Path) -> None:
    """The attack: the first answer is that the server stores files itself."""
    client = mlflow_server.connect(server_uri)
    get_run = client.get_run

    def lying(run: str) -> object:
        answer = get_run(run)
        answer.info._artifact_uri = "mlflow-artifacts:/1/a"
        return answer

    client.get_run = lying
    assert replay(theirs) == cli.FAILED
    assert list((tmp_path / "home").iterdir()) == []


@pytest.mark.parametrize("how", ["--uri", "variable", "override"])
def test_a_server_that_the_user_names_may_share_a_folder_with_him(
    how: str, server_uri: str, theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "variable":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server_uri)
    if how == "override":
        assert evaluate(theirs, f"tracking.uri={server_uri}") == 0
    else:
        assert replay(theirs, *(("--uri", server_uri) if how == "--uri" else ())) == 0
    assert list((tmp_path / "home").rglob("report.html"))


@pytest.mark.parametrize(
    ("place", "taken"),
    [
        ("mlflow-artifacts:/1/a", True),
        ("mlflow-artifacts:///1/a", True),
        ("mlflow-artifacts://elsewhere:80/1/a", False),
        ("/home/me", False),
        ("relative", False),
        ("file:///home/me", False),
        ("FILE:///home/me", False),
        ("s3://of-the-user/a", False),
        ("https://elsewhere/a", False),
        ("", False),
    ],
)
def test_which_places_of_a_stranger_are_taken(place: str, taken: bool, theirs: Path) -> None:
    run_address = RunAddress(uri="", experiment="", run_name="", run_id="r1")
    ServerRun("http://localhost:1", run_address, theirs)._check_artifact_uri(place)
    server = ServerRun("http://localhost:1", run_address, theirs, trusted=False)
    if taken:
        server._check_artifact_uri(place)
    else:
        with pytest.raises(Refused, match="alone names it"):
            server._check_artifact_uri(place)


def test_ids_that_no_server_gives_are_not_asked_for(theirs: Path) -> None:
    stored = json.loads((theirs / "tracking.json").read_text())
    assert RunAddress.read(theirs) is not None
    for forged in ({"run_id": "../x"}, {"folder": "x' OR '1' = '1"}, {"folder": 7}, {"uri": None}, {"run_id": "a\n"}):
        (theirs / "tracking.json").write_text(json.dumps({**stored, **forged}))
        assert RunAddress.read(theirs) is None


def test_checkpoints_elsewhere_are_read_and_kept(theirs: Path, tmp_path: Path) -> None:
    """`evaluate` opens those that config.yaml names; it writes and removes none."""
    other = tmp_path / "other"
    shutil.copytree(theirs / "checkpoints", other / "checkpoints")
    changed(theirs, "checkpoints: null", f"checkpoints: {other}")
    changed(theirs, "checkpoints_kept: 2", "checkpoints_kept: 1")
    shutil.rmtree(theirs / "checkpoints")
    before = {path: path.stat().st_ctime_ns for path in other.rglob("*")}
    assert evaluate(theirs) == 0
    assert before == {path: path.stat().st_ctime_ns for path in other.rglob("*")} and len(before) > 9


@pytest.mark.parametrize("given", ["5", "{uri: 5}", "{uri: [a]}"])
def test_an_address_that_is_none_is_one_line(given: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(f"ipc: 1\ntracking: {given}\n")
    with pytest.raises(ConfigError, match=r"config\.yaml: tracking\.uri is no address"):
        send(tmp_path)
