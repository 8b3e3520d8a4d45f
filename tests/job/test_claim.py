"""A start that takes over a folder waits for writes in progress, and no earlier start writes afterwards."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from dist_condense.engine.errors import RunFailed
from dist_condense.job import claim as module
from dist_condense.job.claim import Claim
from dist_condense.settings.run_folder import RunFolder


def test_the_earlier_start_writes_nothing_more(tmp_path: Path) -> None:
    first, second = Claim.new(tmp_path), Claim.new(tmp_path)
    first.take()
    with first.writing(), first.writing():  # also on two threads: the lines of metrics and a checkpoint
        (tmp_path / "record").write_text("first")
    second.take()
    assert first.lost and not second.lost and Claim.present(tmp_path) == second
    with pytest.raises(RunFailed, match=rf"taken over {tmp_path} \({second.owner}\)"), first.writing():
        (tmp_path / "record").write_text("first again")
    with second.writing():
        assert (tmp_path / "record").read_text() == "first"


def test_a_folder_that_no_command_began_is_anybodys(tmp_path: Path) -> None:
    with Claim.present(tmp_path).writing():
        pass


def test_any_bytes_may_name_the_owner(tmp_path: Path) -> None:
    first = Claim.new(tmp_path)
    first.take()
    RunFolder(tmp_path).owner.write_bytes(b"\xff\xfe" * 2**20)
    assert first.lost and len(Claim.present(tmp_path).owner) < 2000
    with pytest.raises(RunFailed, match="has taken over"), first.writing():
        pass


def test_a_link_in_place_of_the_lock_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / RunFolder.lock.name).symlink_to(tmp_path / "made")
    with pytest.raises(RunFailed, match=r"owner\.lock is a link"):
        Claim.new(tmp_path / "run").take()
    assert not (tmp_path / "made").exists()


def test_a_write_that_is_under_way_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Claim.new(tmp_path), Claim.new(tmp_path)
    first.take()
    looked, order, quiet = threading.Event(), [], Claim._is_quiet

    def look(self: Claim) -> bool:
        found = quiet(self)
        looked.set()
        return found

    def take() -> None:
        second.take()
        order.append("taken")

    monkeypatch.setattr(Claim, "_is_quiet", look)
    taking = threading.Thread(target=take)
    with first.writing():
        taking.start()
        assert looked.wait(60)  # named itself the owner, and found the folder in use
        assert first.lost
        order.append("written")
    taking.join(60)
    assert order == ["written", "taken"]


def test_one_that_hangs_while_it_writes_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    first, second = Claim.new(tmp_path), Claim.new(tmp_path)
    first.take()
    with first.writing():
        second.take()
    assert "this one continues without waiting for it" in capfd.readouterr().err and first.lost


def test_where_there_are_no_locks_the_owner_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*given: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(module.fcntl, "flock", none)
    first, second = Claim.new(tmp_path), Claim.new(tmp_path)
    first.take()
    with first.writing():
        second.take()
    with pytest.raises(RunFailed, match="writes nothing more"), first.writing():
        pass
