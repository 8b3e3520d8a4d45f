"""FFCV files beside the shards: their progress is reported, and a finished one is never written again."""

import importlib.util
import json
from pathlib import Path

import pytest

from dist_condense.data.ffcv.writer import write_beton
from dist_condense.data.preparing import betons
from dist_condense.data.shards.manifest import Manifest
from tests.conftest import absent
from tests.data.shards import shard_cases
from tests.data.shards.shard_cases import tree, write_folder

Reports = list[tuple[int, int, str]]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    if importlib.util.find_spec("ffcv") is None:
        absent("FFCV is not installed: make install-ffcv")
    return write_folder(tmp_path / "source")


def prepared(source: Path, dest: Path, reports: Reports | None = None) -> Manifest:
    received: Reports = [] if reports is None else reports
    return shard_cases.prepared(source, dest, size=16, ffcv=True, report=lambda *what: received.append(what))


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of started files; one with a `.stop` file beside it is interrupted when it is half written."""
    names: list[str] = []

    def write(path: Path, *given: object, **options: object) -> None:
        names.append(path.name)
        if path.with_suffix(".stop").exists():
            path.with_name(f".{path.name}.x.new").mkdir()
            (path.with_name(f".{path.name}.x.new") / path.name).write_bytes(b"half")
            raise KeyboardInterrupt
        write_beton(path, *given, **options)

    monkeypatch.setattr(betons, "write_beton", write)
    return names


def test_images_are_counted_file_by_file(source: Path, tmp_path: Path) -> None:
    reports: Reports = []
    prepared(source, tmp_path / "dest", reports)
    betons = [entry for entry in reports if "beton" in entry[2]]
    assert betons == [(12, 12, "images in train.beton"), (3, 3, "images in val.beton")]


def test_a_file_that_is_finished_is_not_written_again(source: Path, tmp_path: Path, written: list[str]) -> None:
    dest = tmp_path / "dest"
    prepared(source, tmp_path / "whole")
    assert written == ["train.beton", "val.beton"]
    shards = shard_cases.prepared(source, dest, size=16)
    (dest / "val.stop").touch()
    with pytest.raises(KeyboardInterrupt):
        prepared(source, dest)
    (dest / "val.stop").unlink()
    assert shards.ffcv is None and (dest / ".val.beton.x.new").exists()
    manifest = prepared(source, dest)
    assert written[2:] == ["train.beton", "val.beton", "val.beton"]
    assert tree(dest) == tree(tmp_path / "whole") and manifest.ffcv is not None
    assert prepared(source, dest) == manifest and len(written) == 5


def test_a_file_left_half_written_goes_with_the_next_start(source: Path, tmp_path: Path, written: list[str]) -> None:
    dest = tmp_path / "dest"
    shard_cases.prepared(source, dest, size=16)
    (dest / "train.stop").touch()
    with pytest.raises(KeyboardInterrupt):
        prepared(source, dest)
    assert (dest / ".train.beton.x.new").exists()
    shard_cases.prepared(source, dest, size=16)
    assert not (dest / ".train.beton.x.new").exists()


@pytest.mark.parametrize("change", ["size", "shards", "record", "file"])
def test_a_record_that_does_not_hold_is_not_believed(
    source: Path, tmp_path: Path, written: list[str], change: str
) -> None:
    dest = tmp_path / "dest"
    shard_cases.prepared(source, dest, size=16)
    (dest / "val.stop").touch()
    with pytest.raises(KeyboardInterrupt):
        prepared(source, dest)
    (dest / "val.stop").unlink()
    record = dest / ".preparing" / "beton-train.json"
    if change == "size":
        (dest / "train.beton").write_bytes((dest / "train.beton").read_bytes()[:-1])
    elif change == "shards":
        record.write_text(json.dumps({**json.loads(record.read_text()), "digest": "0" * 64}))
    elif change == "file":
        (tmp_path / "outside").write_bytes((dest / "train.beton").read_bytes())
        stored = json.loads(record.read_text())
        record.write_text(json.dumps({**stored, "beton": {**stored["beton"], "file": "../outside"}}))
    else:
        record.unlink()
    prepared(source, dest)
    assert written == ["train.beton", "val.beton", "train.beton", "val.beton"]
