"""The folder and the token that Ray starts with, without starting it."""

from __future__ import annotations

import os
import shutil
import stat
from collections import namedtuple
from pathlib import Path

import pytest

from dist_condense.engine import ray_start
from dist_condense.engine.journal import RunFailed

LONG = "x" * 60
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose own path counts for nothing; ours are made in it."""
    made = tmp_path_factory.mktemp("p")
    monkeypatch.setattr(ray_start, "LONGEST", 107 + len(str(made)) - len("/tmp"))
    monkeypatch.setattr(ray_start, "OURS", (str(made / "missing"), str(made)))
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.delenv("TMPDIR", raising=False)
    return made


def unusable(place: Path) -> dict[str, str]:
    (place / "file").touch()
    (place / LONG).mkdir()
    return {
        str(place / LONG): "is too long: the path of a socket below it has ",
        str(place / "file" / "x"): "cannot be written (Not a directory)",
        "relative": "is not an absolute path",
        "": "is not an absolute path",
    }


def test_rays_own_choice_where_it_will_do(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TMPDIR", "RAY_TMPDIR"):
        monkeypatch.setenv(name, str(place))
        assert ray_start.folder() is None


def test_a_folder_that_was_asked_for_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path, why in unusable(place).items():
        monkeypatch.setenv("RAY_TMPDIR", path)
        with pytest.raises(RunFailed) as refused:
            ray_start.folder()
        assert str(refused.value).startswith(f"Ray cannot start: RAY_TMPDIR={path} {why}")
        assert str(refused.value).endswith("such as /tmp")


def test_a_full_one_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(place))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**30, 2**30 - 2**20, 2**20))
    with pytest.raises(RunFailed, match="has 1 MiB free, 64 are the least"):
        ray_start.folder()


def test_a_folder_of_our_own_where_none_was_asked_for(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in unusable(place):
        monkeypatch.setenv("TMPDIR", path)
        own = ray_start.folder()
        assert own is not None and Path(own).name == "ray" and Path(own).parents[1] == place
        assert stat.S_IMODE(Path(own).parent.stat().st_mode) == 0o700


def test_no_folder_at_all(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(place / LONG))
    monkeypatch.setattr(ray_start, "OURS", (str(place / "missing"),))
    with pytest.raises(RunFailed, match=r"is too long.*, and none of .*missing will do; set RAY_TMPDIR to a short"):
        ray_start.folder()


# --- the token ----------------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "")  # so that it is put back
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_ray_keeps_its_token_in_a_home(home: Path) -> None:
    ray_start.token()
    assert os.environ["RAY_AUTH_TOKEN"] == ""


def test_a_home_that_cannot_be_written_needs_none(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "file").touch()
    monkeypatch.setenv("HOME", str(home / "file"))
    ray_start.token()
    assert len(given := os.environ["RAY_AUTH_TOKEN"]) == 64
    ray_start.token()
    assert os.environ["RAY_AUTH_TOKEN"] == given


@pytest.mark.parametrize("given", [("RAY_AUTH_MODE", "disabled"), ("RAY_AUTH_TOKEN_PATH", "/token")])
def test_what_a_person_chose_stays(given: tuple[str, str], home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/dev/null")
    monkeypatch.setenv(*given)
    ray_start.token()
    assert os.environ["RAY_AUTH_TOKEN"] == ""
