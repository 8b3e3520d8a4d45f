"""Files are written atomically in folders where other users may write as well."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

import pytest

from dist_condense.data.shards.writer import ClassShardWriter
from dist_condense.system.files import UnsuitableFile, open_regular, read_regular, write_atomically


def by_writer(path: Path) -> None:
    with ClassShardWriter(path.parent.parent, path.parent.name, 7) as writer:
        writer.add("a", "png", b"image")


WRITE = {"card.json": lambda path: write_atomically(path, b"new"), "0007-000.tar": by_writer}


@pytest.fixture(params=WRITE)
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    (tmp_path / "precious").write_bytes(b"mine")
    (tmp_path / "shared").mkdir()
    return tmp_path / "shared" / request.param


def test_a_link_where_a_file_is_begun_is_not_followed(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for known in (str(os.getpid()), "abcd"):
        (target.parent / f".{target.name}.{known}.tmp").symlink_to(target.parents[1] / "precious")
    WRITE[target.name](target)
    assert target.read_bytes() != b"mine" and not target.is_symlink()
    monkeypatch.setattr(secrets, "token_hex", lambda size: "abcd")  # somebody guessed it
    with pytest.raises(FileExistsError) as refused:
        WRITE[target.name](target)
    assert refused.value.filename == str(target)
    assert (target.parents[1] / "precious").read_bytes() == b"mine"


@pytest.mark.parametrize("mask", [0o022, 0o007, 0o077])
def test_the_mode_is_that_of_the_umask(target: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        WRITE[target.name](target)
    finally:
        os.umask(before)
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~mask
    assert os.listdir(target.parent) == [target.name]


def test_only_regular_files_of_limited_size_are_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "zero").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe")
    for name in ("file", "link"):
        assert read_regular(tmp_path / name, 5) == b"12345" and read_regular(tmp_path / name, first=2) == b"12"
        with pytest.raises(UnsuitableFile, match="5 bytes, expected at most 4"):
            open_regular(tmp_path / name, 4)
    for name in ("zero", "pipe"):  # opening the pipe would wait for ever, and reading the device, too
        with pytest.raises(UnsuitableFile, match="not a regular file"):
            open_regular(tmp_path / name)
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "gone")
