"""Passwords and tokens in addresses reach no file, no terminal and no server except their own."""

from __future__ import annotations

import base64
import copy
import http.server
import io
import json
import logging
import pickle
import random
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from dist_condense import run
from dist_condense.commands import cli
from dist_condense.data import DataError
from dist_condense.data.shards.manifest import FILE
from dist_condense.data.shards.manifest_reader import read_manifest
from dist_condense.job import logs
from dist_condense.result.tracking import replay, server
from dist_condense.settings.config import ConfigError, from_dict, read, to_yaml
from dist_condense.system import credentials, remote, terminal
from dist_condense.system.credentials import HIDDEN, KNOWN_AT_MOST, Address, address, is_hidden, masked, revealed
from dist_condense.system.remote import join
from dist_condense.system.storage import Bucket, storage
from tests.data.https import https
from tests.data.shards.shard_cases import CLASSES, photograph, prepared, tree
from tests.deploy.test_s3 import command

PLANTED = "pl4nted"
FORMS = {
    "http://user:pl4nted@host:5000/x": "http://***@host:5000/x",
    "http://pl4nted@host": "http://***@host",
    "https://:pl4nted@host": "https://***@host",
    "https://pl4nted:@host": "https://***@host",
    "https://pl4nted:x-oauth-basic@host/x": "https://***@host/x",
    "http://user:a/pl4nted@host/x": "http://***@host/x",
    "http://user:a@pl4nted@host/x": "http://***@host/x",
    "http://user:a:pl4nted@host/x": "http://***@host/x",
    "http://user:a?b#pl4nted@host/x": "http://***@host/x",
    "http://user:%40pl4nted%2F@host/x": "http://***@host/x",
    "postgresql://mlflow:pl4nted@host/db": "postgresql://mlflow:***@host/db",
    "postgresql://mlflow:a pl4nted@host/db": "postgresql://mlflow:***@host/db",
    "postgresql://mlflow:p@s/w:r#d?xpl4nted@host/db": "postgresql://mlflow:***@host/db",
    "postgresql+psycopg://mlflow:a/pl4nted@/db?host=/srv": "postgresql+psycopg://mlflow:***@/db?host=/srv",
    "postgresql://host/db?user=me&password=pl4nted&sslmode=require": (
        "postgresql://host/db?user=me&password=***&sslmode=require"
    ),
    "mssql+pyodbc:///?odbc_connect=DRIVER=x;PWD=pl4nted;UID=me": "mssql+pyodbc:///?odbc_connect=***;PWD=***;UID=me",
    "mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BPWD%3Dpl4nted": "mssql+pyodbc:///?odbc_connect=***",
    "mssql+pyodbc://host/db?driver=x%3BPWD%3Dpl4nted": "mssql+pyodbc://host/db?driver=***",
    "mysql://me@host/db?ssl_key=pl4nted": "mysql://me@host/db?ssl_key=***",
    "sqlite:////data/x.db?timeout=3&password=pl4nted": "sqlite:////data/x.db?timeout=3&password=***",
    "s3://KEY:pl4nted/x+y@bucket/run": "s3://***@bucket/run",
    "https://host/a.tar?X-Amz-Credential=pl4nted&X-Amz-Signature=pl4nted": (
        "https://host/a.tar?X-Amz-Credential=***&X-Amz-Signature=***"
    ),
    "https://host/set?sv=pl4nted&sig=pl4nted%3D": "https://host/set?sv=***&sig=***",
    "https://host/a.tar?pl4nted": "https://host/a.tar?***",
    "https://host/#access_token=pl4nted": "https://host/#access_token=***",
    "https://pl4nted/x+y=@host/x": "https://***@host/x",
    "http:///user:pl4nted@host": "http://***@host",
    "postgresql:///user:pl4nted@host/db": "postgresql://***@host/db",
    "postgresql://mlflow:pl4nted": "postgresql://mlflow:***",
}
"""Of an address that holds PLANTED: what is shown of it. The last one was cut off, or is unfinished."""
BARE = {
    "user:pl4nted@host:5000": "***@host:5000",
    "http:/user:pl4nted@host": "***@host",
    "pl4nted@host:5000": "***@host:5000",
}
"""Without a scheme, or with half of it."""
HARMLESS = (
    *("http://host:5000", "http://[::1]:5000/x", "http://HOST:PORT", "http://host:5000/#/experiments/1/runs/a0"),
    *("s3://bucket/imagenet@64", "https://host.org/data@v2/x", "sqlite:////data/a@b/mlflow.db", "databricks://profile"),
    *("https://host/a.tar?versionId=3", "postgresql://mlflow@/mlflow?host=/srv/postgres&port=5432", "databricks"),
    *("sqlite:////a/b?c/mlflow.db", "sqlite:////tmp/x.db?timeout=30", "sqlite:///file:/tmp/x.db?mode=rwc&uri=true"),
    *("a@b.org", "/data/imagenet", "/data/a:b@c", "a:b@c/d", "C:\\data\\a@b", "~/a:b@c", "outputs/run:1"),
)


@pytest.mark.parametrize("whole", [*FORMS, *BARE])
def test_an_address_shows_no_secret_and_keeps_it(whole: str) -> None:
    kept, shown = address(whole, bare=whole in BARE), (FORMS | BARE)[whole]
    assert (str(kept), revealed(kept)) == (shown, whole)
    assert f"{kept} {kept!r} {json.dumps(kept)} {kept[:200]} {kept.encode()!r}".count(PLANTED) == 0
    for copied in (copy.copy(kept), copy.deepcopy(kept), pickle.loads(pickle.dumps(kept)), address(kept)):
        assert (copied, revealed(copied), type(copied)) == (kept, whole, Address)
    assert address(shown, bare=True) == kept and is_hidden(str(kept)) and not is_hidden(kept)


@pytest.mark.parametrize("text", HARMLESS)
def test_other_texts_stay(text: str) -> None:
    assert masked(text) == address(text) == text and type(address(text)) is str and not is_hidden(text)
    assert masked(f"give {text}, or '{text}'.") == f"give {text}, or '{text}'."


AROUND = (
    *("{}", "cannot open {}.", "({!r})", "a {} b {}", "url: '{}', status 401", "from {} to http://other:80/x"),
    *('["http://a","{}"]', "a ftp://x,{}: gone"),
)


@pytest.mark.parametrize("whole", FORMS)
@pytest.mark.parametrize("around", AROUND)
def test_a_text_of_another_library_is_masked(around: str, whole: str) -> None:
    shown = masked(around.format(whole, whole))
    assert PLANTED not in shown and masked(shown) == shown
    assert shown.startswith(around.partition("{")[0]) and shown.endswith(around.rpartition("}")[2])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "with url: /api?user=me&password=x&page=2 (Caused by",
            "with url: /api?user=me&password=***&page=*** (Caused by",
        ),
        ("Authorization: Bearer abc.def-0", "Authorization: Bearer ***"),
        ("{'Authorization': 'Basic YWJj', 'a': 1}", "{'Authorization': 'Basic ***', 'a': 1}"),
        ("AWS_SECRET_ACCESS_KEY=abc/d next", "AWS_SECRET_ACCESS_KEY=*** next"),
        ("to https%3A%2F%2Fu%3Apw%40host%2Fx", "to https%3A%2F%2F***%40host%2Fx"),
        ("http://u:p@a and http://v:q@b, https://c", "http://***@a and http://***@b, https://c"),
        ("http://u:pa ss@host then", "http://***@host then"),
        ("give http://HOST:PORT; see a@b.org", "give http://HOST:PORT; see a@b.org"),
    ],
)
def test_what_is_shown_of_a_text(text: str, shown: str) -> None:
    assert masked(text) == masked(shown) == shown


def test_a_known_secret_is_masked_however_it_is_spelled() -> None:
    address("http://user:pa/ss w0rd&1@host")
    basic = base64.b64encode(b"user:pa/ss w0rd&1").decode()
    for text in ("pa/ss w0rd&1", "pa%2Fss%20w0rd%261", "pa/ss+w0rd%261", "port 'w0rd&1' is none", f"x {basic} y"):
        assert "w0rd" not in masked(text) and basic not in masked(text) and HIDDEN in masked(text)
    travelled = pickle.dumps(address("http://user:anoth3r@host"))
    credentials._known.clear()
    pickle.loads(travelled)  # in a worker
    assert masked("of anoth3r") == f"of {HIDDEN}"


def test_secrets_of_the_environment_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "pl4nted/key")
    assert masked("the key pl4nted/key is wrong") == f"the key {HIDDEN} is wrong"


def test_many_signed_addresses_do_not_make_every_text_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(2 * KNOWN_AT_MOST):
        address(f"https://host/{index}?X-Amz-Signature={index:064x}")
    assert len(credentials._known) == KNOWN_AT_MOST
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "pl4nted/key")
    assert masked("the key pl4nted/key is wrong") == f"the key {HIDDEN} is wrong"
    assert masked(f"https://host/1?X-Amz-Signature={999:064x}") == f"https://host/1?X-Amz-Signature={HIDDEN}"


def test_random_passwords_are_in_no_sink() -> None:
    draws = random.Random(0)
    shapes = ["http://me:{}@host/x", "http://me:{}@host?a=b", "postgresql://me:{}@host/d", "mysql://h/d?password={}"]
    for _ in range(150):
        password = "".join(draws.choices("aZ09/@:?#%&=+ ;'\"<>[]{}\\é", k=draws.randint(8, 20)))
        shape = draws.choice(shapes)
        for spelled in (password, quote(password, safe=""))[shape == shapes[3] :]:
            credentials._known.clear()
            whole = shape.format(spelled)
            foreign = masked(f"cannot open {whole} there") if " " not in whole else ""  # of an address nobody read
            kept = address(whole)
            assert revealed(kept) == whole
            config = from_dict({"tracking.uri": whole})
            for sink in (foreign, str(kept), to_yaml(config), masked(f"cannot open {whole} there"), repr(config)):
                assert password not in sink and spelled not in sink


HOSTILE = (
    *("a", "a://", "?a=", "://", "a:", "@", "a@", "?", "&aaaa", "http://a:a@", "http://u:p ", "http://u:p@h,", "["),
    *("%", ",a", "%3A%2F%2F", "password=", "authorization:", "bearer ", "?;", "'\"", " ", "\"password'   ", "#", "=;"),
    "-a+",
)


@pytest.mark.parametrize("part", HOSTILE)
def test_masking_takes_linear_time(part: str) -> None:
    hostile = part * (2**20 // len(part))
    began = time.process_time()
    masked(hostile), address(hostile), address(f"http://{hostile}")
    assert time.process_time() - began < 20  # a quadratic one takes hours


@pytest.mark.parametrize(
    "half", ["http:/me:pl4nted@host/x", "https//pl4nted@host", "postgresql+psycopg:/me:pl4nted@h/d"]
)
def test_an_address_that_lost_a_slash_is_masked_and_no_path(half: str, tmp_path: Path) -> None:
    """Code that treats it as a path prints it masked."""
    assert PLANTED not in masked(f"refused: {tmp_path}/{half} is not there, {half!r} neither")
    for key in ("dataset.root", "data.cache", "tracking.checkpoints", "output"):
        with pytest.raises(ConfigError, match=f"{key}: .* lacks a slash") as refused:
            from_dict({key: half})
        assert PLANTED not in str(refused.value)
    assert masked("outputs//a:b@c s3-data/x@y") == "outputs//a:b@c s3-data/x@y"


# --- sinks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["tracking.uri", "dataset.root", "tracking.checkpoints"])
@pytest.mark.parametrize("whole", FORMS)
def test_a_config_is_stored_without_secrets(whole: str, key: str, tmp_path: Path) -> None:
    config = from_dict({key: whole})
    section, name = key.split(".")
    assert revealed(getattr(getattr(config, section), name)) == whole
    travelled = pickle.loads(pickle.dumps(replace(config, ipc=2)))
    assert revealed(getattr(getattr(travelled, section), name)) == whole
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert PLANTED not in (tmp_path / "config.yaml").read_text() + repr(config) + json.dumps(asdict(config))
    assert asdict(read(tmp_path / "config.yaml")) == asdict(config)


@pytest.mark.parametrize(
    "given", ["prepare SOURCE {}", "run configs/digits.yaml data.cache={}", "run configs/digits.yaml output={}"]
)
def test_no_folder_is_named_like_an_address(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with suppress(SystemExit):
        assert cli.main(given.format(*["s3://KEY:pl4nted@bucket/x"] * 2).split()) == cli.REFUSED
    captured = capsys.readouterr()
    assert "s3://***@bucket/x" in captured.err and PLANTED not in captured.out + captured.err
    assert list(tmp_path.iterdir()) == []


def test_addresses_below_an_address_keep_its_secret() -> None:
    root = address("https://me:pl4nted@host/set?sig=pl4nted")
    assert join(root, "a/b.tar") == "https://***@host/set/a/b.tar?sig=***"
    assert revealed(join(root, "a/b.tar")) == "https://me:pl4nted@host/set/a/b.tar?sig=pl4nted"
    assert join(root, "s3://other/b.tar") == "s3://other/b.tar"
    kept = storage(join(address("s3://KEY:pl4nted@bucket/run"), "checkpoints"))
    assert isinstance(kept, Bucket) and str(kept) == "s3://***@bucket/run/checkpoints"
    assert revealed(kept.url) == "s3://KEY:pl4nted@bucket/run/checkpoints"


def test_logs_and_the_terminal_are_masked(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    kept = address("http://me:pl4nted/1@host")
    with suppress(ValueError), logs.kept(tmp_path, "1", logger="test_credentials"):
        logging.getLogger("test_credentials").info("at %(uri)s", {"uri": revealed(kept)})
        raise ValueError(f"{revealed(kept)} is away, pl4nted is no port")
    terminal.say(revealed(kept), "pl4nted is no port")
    terminal.out(revealed(kept))
    captured = capsys.readouterr()
    assert PLANTED not in (tmp_path / "logs" / "driver.jsonl").read_text() + captured.out + captured.err
    assert all(json.loads(line) for line in (tmp_path / "logs" / "driver.jsonl").read_text().splitlines())


@pytest.mark.parametrize("reading", [remote.persistent, remote._retried])
def test_a_traceback_shows_no_url_of_a_store(reading: Callable[..., object]) -> None:
    """Ray writes the tracebacks of workers to its own logs."""
    kept = address(f"https://host/a.tar?X-Amz-Signature={PLANTED}")

    def refused() -> None:
        raise PermissionError(f"403, url={revealed(kept)}")

    with pytest.raises((OSError, DataError)) as caught:
        reading(kept, refused, lambda delay: None)
    assert PLANTED not in "".join(traceback.format_exception(caught.value)) and "403" in str(caught.value)
    assert PLANTED not in str(DataError([f"{revealed(kept)} is away"]))


@pytest.mark.parametrize("length", range(150, 230, 7))
def test_a_reason_is_masked_before_it_is_cut(length: int) -> None:
    reason = server.reason(ValueError(f"{'x' * length} http://me:unknown-{PLANTED * 9}@host is away"))
    assert PLANTED[:3] not in reason and "unkn" not in reason


# --- a run --------------------------------------------------------------------------------------------------------


class Private(http.server.SimpleHTTPRequestHandler):
    """A server of files behind a password."""

    def send_head(self) -> io.BytesIO | Any:
        wanted = base64.b64encode(f"user:{PLANTED}".encode()).decode()
        if self.headers["Authorization"] == f"Basic {wanted}":
            return super().send_head()
        self.send_error(401)
        return None

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def private_shards(folder: Path) -> Iterator[str]:
    """Serve prepared shards of three classes; yield host:port."""
    for position, name in enumerate(CLASSES):
        for split, count in (("train", 6), ("val", 2)):
            (folder / "source" / split / name).mkdir(parents=True)
            for i in range(count):
                photograph(100 * position + i).save(folder / "source" / split / name / f"{split}{i}.png")
    prepared(folder / "source", folder / "shards", size=16)
    with https(partial(Private, directory=str(folder / "shards")), folder) as place:
        yield place


def test_a_run_leaves_no_secret_anywhere(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shards behind a password and an unreachable tracking server; the set is then evaluated and replayed."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    output, cache = tmp_path / "output", f"data.cache={tmp_path / 'cache'}"
    with private_shards(tmp_path) as place:
        root = f"https://user:{PLANTED}@{place}"
        tracked = f"tracking.uri=http://user:{PLANTED}@127.0.0.1:9"
        assert run.main([*command(root, output), tracked, cache]) == 0
        assert cli.main(["evaluate", str(output), "evaluation.seeds=2"]) == 2
        reported = capfd.readouterr()
        assert "tracking.uri: http://***@127.0.0.1:9: its password is not stored" in reported.err
        assert f"dataset.root: https://***@{place}: its password is not stored" in reported.err
        again = ["evaluate", str(output), "evaluation.seeds=2", "tracking.uri=null", cache]
        stored = "tracking.checkpoints=s3://***@bucket/x"
        assert cli.main([*again, f"dataset.root={root}", stored]) == 2
        assert "refused: tracking.checkpoints: s3://***@bucket/x: its password is not" in capfd.readouterr().err
        assert cli.main([*again, f"dataset.root={root}"]) == 0
        assert cli.main([*again, f"dataset.root=https://user:an0ther-{PLANTED}@{place}"]) == 2
        assert cli.main(["replay", str(output), "--uri", f"http://user:{PLANTED}@127.0.0.1:9"]) == 1
        assert cli.main(["replay", str(output), "--uri", f"user:{PLANTED}@127.0.0.1:9"]) == 2
    said = capfd.readouterr()
    assert "Unauthorized" in said.err and "refused" in said.err
    everything = {**tree(output), **tree(tmp_path / "cache"), "said": f"{reported}{said}".encode()}
    names = "".join(everything).encode()
    assert {"config.yaml", "report.html", "tracking.json", "logs/driver.jsonl"} < set(everything)
    assert [name for name, content in everything.items() if PLANTED.encode() in content + names] == []


def test_a_manifest_that_names_signed_addresses_is_shown_without_them(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    with private_shards(tmp_path):
        content = json.loads((tmp_path / "shards" / FILE).read_text())
    content["splits"]["train"][0][0]["url"] = f"https://host/a.tar?X-Amz-Signature={PLANTED}"
    (tmp_path / "shards" / FILE).write_text(json.dumps(content))
    manifest = read_manifest(str(tmp_path / "shards"))
    shard = manifest.splits["train"][0][0]
    assert shard.url == "https://host/a.tar?X-Amz-Signature=***" and revealed(shard.url).endswith(PLANTED)
    content["splits"]["train"][0][0]["url"] = f"https://host/a.tar?X-Amz-Signature=another-{PLANTED}"
    (tmp_path / "shards" / FILE).write_text(json.dumps(content))
    assert read_manifest(str(tmp_path / "shards")).digest == manifest.digest  # signatures expire


def test_what_an_earlier_version_stored_is_sent_without_secrets(tmp_path: Path) -> None:
    store = tmp_path / "server"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(f"ipc: 1\ndataset:\n  root: https://user:{PLANTED}@host/set\n")
    replay.replay(tmp_path / "run", f"sqlite:///{store}/mlflow.db")
    (sent,) = store.rglob("config.yaml")
    assert "https://***@host/set" in sent.read_text()
    assert [path for path, content in tree(store).items() if PLANTED.encode() in content] == []
