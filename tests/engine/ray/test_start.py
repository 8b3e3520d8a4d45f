"""The folder and the token with which Ray starts, without starting it."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest

from dist_condense.engine.ray import start
from dist_condense.job.journal import RunFailed

LONG = "x" * 60
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder whose own path counts as empty; our folders are made in it."""
    made = tmp_path_factory.mktemp("p")
    monkeypatch.setattr(start, "LONGEST", 107 + len(str(made)) - len("/tmp"))
    monkeypatch.setattr(start, "FALLBACKS", (str(made / "missing"), str(made)))
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


def mode(path: Path | str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def test_a_folder_of_this_user_alone_in_the_one_that_ray_would_take(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.chmod(0o1777)  # as /tmp
    own = place / f"dc_{os.geteuid()}"
    for name in ("TMPDIR", "RAY_TMPDIR"):
        monkeypatch.setenv(name, str(place))
        assert start.folder() == str(own / "ray")
        assert mode(own) == 0o700


def planted(own: Path, how: str) -> None:
    """Create what another user could have put there first."""
    if how == "open":
        own.mkdir()
        own.chmod(0o777)
    else:
        (own.parent / "his").mkdir(mode=0o700)
        own.symlink_to("his")


@pytest.mark.parametrize("how", ["open", "link"])
def test_a_planted_folder_is_not_taken(how: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = place / f"dc_{os.geteuid()}"
    planted(own, how)
    monkeypatch.setenv("TMPDIR", str(place))
    assert (taken := start.folder()) and not taken.startswith(f"{own}/") and mode(Path(taken).parent) == 0o700
    monkeypatch.setenv("RAY_TMPDIR", str(place))
    with pytest.raises(RunFailed, match=f"contains {own.name}, which is not a folder of yours alone"):
        start.folder()


def test_nor_is_another_users(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = place / "dc_4711"
    own.mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    monkeypatch.setenv("RAY_TMPDIR", str(place))
    with pytest.raises(RunFailed, match="contains dc_4711, which is not a folder of yours alone"):
        start.folder()


def test_a_place_where_it_could_be_exchanged_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shared := place / "s").mkdir()
    shared.chmod(0o777)
    monkeypatch.setenv("RAY_TMPDIR", str(shared))
    with pytest.raises(RunFailed, match=r"lets other users replace its contents \(mode 777\)"):
        start.folder()


def test_a_folder_that_was_asked_for_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path, why in unusable(place).items():
        monkeypatch.setenv("RAY_TMPDIR", path)
        with pytest.raises(RunFailed) as refused:
            start.folder()
        assert str(refused.value).startswith(f"Ray cannot start: RAY_TMPDIR={path} {why}")
        assert str(refused.value).endswith("such as /tmp")


def test_a_full_one_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(place))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**30, 2**30 - 2**20, 2**20))
    with pytest.raises(RunFailed, match="has 1 MiB free, at least 64 are needed"):
        start.folder()


def test_a_folder_of_our_own_where_none_was_asked_for(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in unusable(place):
        monkeypatch.setenv("TMPDIR", path)
        own = start.folder()
        assert own is not None and Path(own).name == "ray" and Path(own).parents[1] == place
        assert mode(Path(own).parent) == 0o700


def test_no_folder_at_all(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(place / LONG))
    monkeypatch.setattr(start, "FALLBACKS", (str(place / "missing"),))
    with pytest.raises(RunFailed, match=r"is too long.*, and none of .*missing is suitable; set RAY_TMPDIR to a short"):
        start.folder()


# --- the token ----------------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "")  # so that it is put back
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def test_the_token_in_a_home_is_its_owners_alone(home: Path, no_umask: None) -> None:
    start.token()
    file = home / ".ray" / "auth_token"
    assert (mode(file), mode(file.parent), len(kept := file.read_text())) == (0o600, 0o700, 64)
    start.token()
    assert file.read_text() == kept and os.listdir(file.parent) == [file.name]
    assert os.environ["RAY_AUTH_TOKEN"] == ""


def token_file(home: Path, asked: bool, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create a token file as Ray itself would, readable for every user, in a folder that every user may write."""
    file = home / ".ray" / "auth_token"
    file.parent.mkdir()
    file.write_text("known")
    file.chmod(0o644)
    file.parent.chmod(0o777)
    if asked:
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    return file


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("join", [False, True])
def test_one_that_others_may_read_is_closed_to_them(
    join: bool, asked: bool, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = token_file(home, asked, monkeypatch)
    (start.tighten_token if join else start.token)()
    assert mode(file) == 0o600 and file.read_text() == "known"
    assert f"{file} was open to other users (mode 644) and is yours alone now" in capsys.readouterr().err
    assert asked or join or mode(file.parent) == 0o700


def test_another_users_is_not_used(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = token_file(home, False, monkeypatch)
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    start.token()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64 and mode(file) == 0o644
    assert capsys.readouterr().err == f"{file} is in another user's folder: Ray has a token for this run alone\n"


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_nor_what_is_no_file(kind: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secret, file = home / "secret", home / ".ray" / "auth_token"
    secret.write_text("his to read")
    secret.chmod(0o644)
    file.parent.mkdir(mode=0o700)
    file.symlink_to(secret) if kind == "link" else os.mkfifo(file)
    start.token()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64 and mode(secret) == 0o644
    reason = "a link" if kind == "link" else "not a regular file"
    assert capsys.readouterr().err == f"{file} is {reason}: Ray has a token for this run alone\n"


def test_another_users_that_was_asked_for_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = token_file(home, True, monkeypatch)
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    with pytest.raises(RunFailed, match=f"RAY_AUTH_TOKEN_PATH={file} is another user's; set it to a file of your own"):
        start.token()
    start.tighten_token()
    assert mode(file) == 0o644


def test_one_that_cannot_be_closed_is_not_used(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fchmod(descriptor: int, mode: int) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "fchmod", fchmod)
    token_file(home, False, monkeypatch)
    start.token()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    monkeypatch.setenv("RAY_AUTH_TOKEN", "")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(home / ".ray" / "auth_token"))
    with pytest.raises(RunFailed, match=r"is open to other users and stays so \(Read-only file system\)"):
        start.token()


def test_ray_without_a_token_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert start.unguarded() == ""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert start.unguarded() == ", open to every user who reaches its ports (RAY_AUTH_MODE=disabled)"


def test_a_home_that_cannot_be_written_needs_none(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "file").touch()
    monkeypatch.setenv("HOME", str(home / "file"))
    start.token()
    assert len(given := os.environ["RAY_AUTH_TOKEN"]) == 64
    start.token()
    assert os.environ["RAY_AUTH_TOKEN"] == given


@pytest.mark.parametrize("given", [("RAY_AUTH_MODE", "disabled"), ("RAY_AUTH_TOKEN_PATH", "/token")])
def test_what_a_person_chose_stays(given: tuple[str, str], home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/dev/null")
    monkeypatch.setenv(*given)
    start.token()
    assert os.environ["RAY_AUTH_TOKEN"] == ""
