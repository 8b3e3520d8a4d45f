"""An entry of a storage is complete or absent, in a folder and in a bucket."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import fsspec
import pytest
import torch

from dist_condense.job import checkpoint, preflight
from dist_condense.settings.config import ConfigError
from dist_condense.system import storage
from dist_condense.system.storage import Bucket, Folder, Storage
from tests.engine import cases


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path, memory: None) -> Storage:
    return Folder(tmp_path / "store") if request.param == "folder" else Bucket("s3://bucket/run/checkpoints")


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace S3 by fsspec's store in memory."""
    files = fsspec.filesystem("memory")
    files.store.clear()
    files.pseudo_dirs[:] = [""]
    monkeypatch.setattr(storage, "filesystem", lambda url: files)


def test_entries(store: Storage) -> None:
    assert store.names() == []
    store.remove("a")
    store.write("b/one", b"1")
    store.write("b/two", b"22")
    store.write("a", b"0")
    store.write("a", b"00")
    assert store.names() == ["a", "b"]
    assert (store.read("a", 2), store.read("b/two", 99)) == (b"00", b"22")
    assert (store.head("b/two", 1), store.head("b/two", 9)) == (b"2", b"22")
    assert store.sizes("b") == {"one": 1, "two": 2} and store.sizes("c") == {}
    for read in (lambda name: store.read(name, 9), lambda name: store.head(name, 1)):
        with pytest.raises(FileNotFoundError):
            read("b/three")
    store.remove("b")
    assert store.names() == ["a"]
    with pytest.raises(FileNotFoundError):
        store.read("b/one", 9)


def test_an_entry_is_read_up_to_a_limit(store: Storage) -> None:
    store.write("a", b"123")
    assert store.read("a", 3) == b"123"
    with pytest.raises(OSError, match="bytes"):
        store.read("a", 2)


def test_a_folder_in_place_of_an_entry_and_a_file_in_place_of_a_folder_are_replaced(tmp_path: Path) -> None:
    store = Folder(tmp_path / "store")
    store.write("a/b/c", b"1")
    store.write("a/b", b"2")
    store.remove("a/b/c")
    assert store.read("a/b", 9) == b"2" and store.names() == ["a"]
    store.write("a/b/c", b"3")
    assert store.read("a/b/c", 9) == b"3"
    with pytest.raises(NotADirectoryError):
        store.read("a/b/c/d", 9)
    (tmp_path / "file").write_bytes(b"kept")
    with pytest.raises(OSError, match="file"):
        Folder(tmp_path / "file").write("a", b"1")
    assert (tmp_path / "file").read_bytes() == b"kept"


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    store, outside = Folder(tmp_path / "store"), tmp_path / "outside"
    outside.write_bytes(b"kept")
    store.path.mkdir()
    (store.path / "a").symlink_to(outside)
    store.write("a", b"1")
    assert outside.read_bytes() == b"kept" and store.names() == ["a"]
    assert not (store.path / "a").is_symlink() and store.read("a", 1) == b"1"


def test_an_address_says_what_it_is(tmp_path: Path) -> None:
    assert storage.storage("s3://b/x") == Bucket("s3://b/x")
    assert storage.storage(str(tmp_path)) == Folder(tmp_path)


def test_a_run_that_keeps_its_checkpoints_in_a_bucket_continues(memory: None, tmp_path: Path) -> None:
    given = ("tracking.checkpoints=s3://bucket/run", "tracking.checkpoint_steps=2")
    name, place = "idc_pooled_by_kmeans", Bucket("s3://bucket/run/checkpoints")
    cases.execute(cases.load(name, f"output={tmp_path / 'a'}", *given), cases.LocalCoordinator())
    assert [entry[:13] for entry in place.names()] == ["step_00000004", "step_00000006"]
    place.remove("step_00000006_00000000")
    cases.execute(cases.load(name, f"output={tmp_path / 'lost'}", *given), cases.LocalCoordinator())
    found = checkpoint.newest(place)
    assert found is not None and found.steps == 6
    whole = cases.alone(name, tmp_path / "whole")
    assert torch.equal(cases.learnt(cases.classes(found)), whole)
    assert not (tmp_path / "a" / "checkpoints").exists() and not (tmp_path / "a" / "pool").exists()


@pytest.mark.parametrize(("given", "reported"), [("ftp://x", "is not opened"), ("https://x", "cannot be written to")])
def test_other_addresses_are_refused(given: str, reported: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"tracking\.checkpoints: '{given}(/checkpoints)?' {reported}"):
        cases.execute(cases.load("dc", f"output={tmp_path}", f"tracking.checkpoints={given}"), cases.LocalCoordinator())


def test_a_start_tries_the_place_of_its_checkpoints(
    memory: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = cases.load("dc", f"output={tmp_path / 'run'}", "tracking.checkpoints=s3://bucket/run")
    preflight.probe(run, 0)
    assert Bucket("s3://bucket/run/checkpoints").names() == [] and list(tmp_path.iterdir()) == []

    def forbidden(*given: object) -> None:
        raise RuntimeError("An error occurred (AccessDenied)")  # stores have kinds of their own

    monkeypatch.setattr(Bucket, "write", forbidden)
    with pytest.raises(ConfigError, match=r"tracking\.checkpoints: s3://bucket/run/checkpoints cannot .*AccessDenied"):
        preflight.probe(run, 0)
    preflight.probe(run, 6)  # complete: nothing more is written there


def test_a_manifest_that_an_earlier_version_wrote_is_read(tmp_path: Path) -> None:
    """It contained the length of metrics.jsonl as well, and a file for each worker."""
    state = checkpoint.State(steps=3, updates=0, identity={"seed": 0}, tracking_run=None, torch="2.15.0", device="cpu")
    files = [checkpoint.entry_of(checkpoint.SHARED, b""), checkpoint.entry_of("classes_3.safetensors", b"", [3, 7])]
    files = [asdict(file) for file in files]
    content = {"format": "dist_condense checkpoint 1", **asdict(state), "metrics_bytes": 7, "files": files}
    sealed = json.dumps({**content, checkpoint.SEAL: checkpoint._seal(content)}).encode()
    Folder(tmp_path).write(f"{checkpoint.name_of(3, 0)}/{checkpoint.MANIFEST}", sealed)
    assert checkpoint.opened(Folder(tmp_path), checkpoint.name_of(3, 0)).state == state
