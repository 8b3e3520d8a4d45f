"""Stores that fail: transient errors are retried, permanent ones reported at once, incomplete downloads never kept."""

import functools
import hashlib
import http.server
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from io import BytesIO, FileIO
from pathlib import Path
from typing import ClassVar

import pytest
from fsspec.registry import _registry
from fsspec.spec import AbstractFileSystem

from dist_condense.data import DataError
from dist_condense.system import remote
from dist_condense.system.records import BYTES
from dist_condense.system.remote import TRIES, entry_problem, fetch, join, own_cache, read_bytes, scheme
from tests.data.https import https

URL, CONTENT = "s3://bucket/a.tar", b"shard" * 1000
HASH = hashlib.sha256(CONTENT).hexdigest()


class Store(AbstractFileSystem):
    """A bucket of one file, which first raises the errors in ``failures``."""

    protocol = "s3"
    cachable = False
    failures: ClassVar[list[Exception]] = []
    content: ClassVar[bytes] = CONTENT
    opened: ClassVar[int] = 0

    def _open(self, path: str, mode: str = "rb", **options: object) -> BytesIO:
        Store.opened += 1
        if Store.failures:
            raise Store.failures.pop(0)
        if path != "bucket/a.tar":
            raise FileNotFoundError(path)
        return BytesIO(Store.content)


class Answer(Exception):
    """An error of a client library that is not an OSError."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Serve a working store under s3://; return the list of delays that it requests."""
    monkeypatch.setitem(_registry, "s3", Store)
    for name, value in {"failures": [], "content": CONTENT, "opened": 0}.items():
        monkeypatch.setattr(Store, name, value)
    return []


def test_transient_errors_are_waited_out(waited: list[float], tmp_path: Path) -> None:
    Store.failures += [OSError("reset"), Answer(503)]
    path = fetch(URL, tmp_path, len(CONTENT), HASH, waited.append)
    assert path.read_bytes() == CONTENT
    assert (Store.opened, waited) == (3, [1.0, 2.0])
    Store.failures += [TimeoutError("slow"), Answer(429)]
    assert read_bytes(URL, waited.append) == CONTENT


def test_a_store_that_stays_away_is_given_up(waited: list[float]) -> None:
    Store.failures += [OSError("reset")] * TRIES
    with pytest.raises(DataError, match=r"s3://bucket/a\.tar: reading failed 5 times, .* OSError: reset"):
        read_bytes(URL, waited.append)
    assert (Store.opened, waited) == (5, [1.0, 2.0, 4.0, 8.0])


@pytest.mark.parametrize("size", [BYTES, BYTES + 1])
def test_a_file_above_the_limit_is_refused_wherever_it_is(waited: list[float], tmp_path: Path, size: int) -> None:
    Store.content = bytes(size)
    (tmp_path / "a").touch()
    os.truncate(tmp_path / "a", size)
    for url in (URL, str(tmp_path / "a")):
        if size == BYTES:
            assert len(read_bytes(url, waited.append)) == size
            continue
        with pytest.raises(DataError, match=rf"{url} cannot be read: .*expected at most {BYTES}"):
            read_bytes(url, waited.append)
    assert waited == []


def test_a_file_for_which_there_is_no_room_is_not_fetched(waited: list[float], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.tar has 10{18} bytes, \d+ are free.* Make room, or set data\.cache"):
        fetch(URL, tmp_path, 10**18, HASH, waited.append)
    assert (Store.opened, waited) == (0, [])


@pytest.mark.parametrize("error", [PermissionError("no"), FileNotFoundError("no"), Answer(403)])
def test_permanent_errors_are_told_at_once(waited: list[float], tmp_path: Path, error: Exception) -> None:
    for read in (lambda: read_bytes(URL, waited.append), lambda: fetch(URL, tmp_path, 1, HASH, waited.append)):
        Store.failures.append(error)
        with pytest.raises(DataError, match=r"s3://bucket/a\.tar: it cannot be read"):
            read()
    assert (Store.opened, waited) == (2, [])
    with pytest.raises(DataError, match="nowhere"):
        read_bytes(str(tmp_path / "nowhere"), waited.append)


@pytest.mark.parametrize(
    ("content", "reported"),
    [(CONTENT[:-1], "incomplete download: 4999 of 5000"), (CONTENT + b"!", "longer"), (b"S" + CONTENT[1:], "sha256")],
)
def test_what_is_not_the_manifests_file_is_not_kept(
    waited: list[float], tmp_path: Path, content: bytes, reported: str
) -> None:
    Store.content = content
    with pytest.raises(DataError, match=rf"s3://bucket/a\.tar: .*{reported}"):
        fetch(URL, tmp_path, len(CONTENT), HASH, waited.append)
    assert [path for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


@pytest.mark.parametrize("planted", [Path.symlink_to, Path.hardlink_to])
def test_a_link_where_the_download_goes_is_not_followed(
    waited: list[float], tmp_path: Path, planted: Callable[[Path, Path], None]
) -> None:
    path = fetch(URL, tmp_path / "cache", len(CONTENT), HASH)
    path.unlink()
    (tmp_path / "precious").write_bytes(b"mine")
    planted(path.with_name(f"{path.name}.part"), tmp_path / "precious")
    assert fetch(URL, tmp_path / "cache", len(CONTENT), HASH) == path
    assert (path.read_bytes(), (tmp_path / "precious").read_bytes()) == (CONTENT, b"mine")
    assert not path.is_symlink()


def test_a_full_disk_is_told_at_once_with_the_cache(
    waited: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_created", lambda part: FileIO("/dev/full", "w"))
    with pytest.raises(DataError, match=rf"{tmp_path}: .*No space left on device.* set data\.cache"):
        fetch(URL, tmp_path, len(CONTENT), HASH, waited.append)
    assert (Store.opened, waited) == (1, [])
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=rf"{tmp_path}/file: .* set data\.cache"):
        fetch(URL, tmp_path / "file", len(CONTENT), HASH, waited.append)


def test_a_cache_that_anybody_else_made_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = own_cache()
    assert (folder, own_cache()) == (tmp_path / f"dist_condense-{os.getuid()}", folder)
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(DataError, match=rf"{folder}: it is no folder of yours. Set data\.cache"):
        own_cache()
    folder.unlink()
    own_cache().chmod(0o777)
    with pytest.raises(DataError, match=rf"{folder}: other users may write to it \(mode 777\)\. Remove it"):
        own_cache()
    uid = os.getuid() + 1
    (tmp_path / f"dist_condense-{uid}").mkdir()
    monkeypatch.setattr(os, "getuid", lambda: uid)
    with pytest.raises(DataError, match="no folder of yours"):
        own_cache()


def test_two_workers_of_a_node_download_once(waited: list[float], tmp_path: Path) -> None:
    barrier, found = threading.Barrier(4), []

    def worker() -> None:
        barrier.wait()
        found.append(fetch(URL, tmp_path, len(CONTENT), HASH))

    threads = [threading.Thread(target=worker) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(set(found)), len(found), Store.opened) == (1, 4, 1)


def test_a_cached_file_of_another_size_is_fetched_again(waited: list[float], tmp_path: Path) -> None:
    path = fetch(URL, tmp_path, len(CONTENT), HASH)
    path.write_bytes(b"cut")
    assert fetch(URL, tmp_path, len(CONTENT), HASH).read_bytes() == CONTENT


def test_a_missing_backend_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, url in {"s3fs": "s3://a/b", "gcsfs": "gs://a/b"}.items():
        extra = scheme(url)
        monkeypatch.delitem(_registry, scheme(url), raising=False)  # of another test
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(DataError, match=rf"package {name}: pip install -c constraints.txt '.\[{extra}\]'"):
            read_bytes(url)


class NoCredentialsError(Exception):
    """botocore's, by its name."""


@pytest.mark.parametrize("error", [NoCredentialsError("Unable to locate credentials"), Answer(401)])
def test_where_a_login_is_given_is_named_where_there_is_none(waited: list[float], error: Exception) -> None:
    login = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
    Store.failures.append(error)
    with pytest.raises(DataError, match=login):
        read_bytes(URL, waited.append)
    with pytest.raises(OSError, match=login):
        remote.persistent(URL, functools.partial(_fail, error), waited.append)
    with pytest.raises(OSError, match=r"HTTP 403$"):
        remote.persistent(URL, functools.partial(_fail, Answer(403)), waited.append)
    assert waited == []


def _fail(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    "url",
    [
        *(
            "pipe:cat /etc/hostname",
            "file:///etc/hostname",
            "http://host/a",
            "simplecache::s3://a/b",
            "s3:a",
            "s3://a::b",
        ),
        *("github://a:b@c/d", "reference://x", "zip://a::file:///b", "https://h/a::file:///etc/hostname", "S3://a/b"),
        *("memory://a", "local:///etc/hostname", "ftp://h/a", "hf://a/b", "data:,a", "ssh://h/a", "PIPE:id", "gs:/a"),
    ],
)
def test_other_schemes_are_never_opened(url: str, tmp_path: Path) -> None:
    for read in (scheme, read_bytes, lambda given: fetch(given, tmp_path / "cache", 1, HASH)):
        with pytest.raises(DataError, match="is not opened"):
            read(url)
    assert not (tmp_path / "cache").exists()
    assert "is not opened" in (entry_problem(url) or "")


@pytest.fixture
def redirecting(tmp_path: Path) -> Iterator[str]:
    """Serve CONTENT over https at /a.tar; /away redirects there over http, /here over https."""
    with https(Redirects, tmp_path) as place:
        yield place


class Redirects(http.server.BaseHTTPRequestHandler):
    """The handler of ``redirecting``; a client that follows http receives TLS, an error of another kind."""

    def do_GET(self) -> None:
        place = self.headers["Host"]
        targets = {"/away": f"http://{place}/a.tar", "/here": f"https://{place}/a.tar"}
        self.send_response(302 if self.path in targets else 200)
        if self.path in targets:
            self.send_header("Location", targets[self.path])
        self.send_header("Content-Length", str(0 if self.path in targets else len(CONTENT)))
        self.end_headers()
        if self.command == "GET" and self.path not in targets:
            self.wfile.write(CONTENT)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_redirect_away_from_https_is_refused(redirecting: str, tmp_path: Path) -> None:
    assert read_bytes(f"https://{redirecting}/here") == CONTENT
    away, waited = f"https://{redirecting}/away", []
    for read in (lambda: read_bytes(away, waited.append), lambda: fetch(away, tmp_path, 5000, HASH, waited.append)):
        with pytest.raises(DataError, match=rf"{away}: .* redirects to http://{redirecting}/a.tar, which is not https"):
            read()
    assert waited == []


def test_entries_of_a_manifest_stay_below_it() -> None:
    for url in ("/etc/hostname", "../a.tar", "train/../../a.tar", "a\\b.tar", "train//a.tar", "", "."):
        assert "leaves the manifest's folder" in (entry_problem(url) or "")
    assert [entry_problem(url) for url in ("train/a.tar", "s3://b/a.tar", "https://h/a.tar")] == [None] * 3
    assert join("s3://b/x/", "train/a.tar") == "s3://b/x/train/a.tar"
    assert join("/data", "gs://b/a.tar") == "gs://b/a.tar"
