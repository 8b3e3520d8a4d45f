"""Pictures during a run: the same whether or not it was interrupted, and without effect on the set."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dist_condense.job import worker
from tests.job.test_failures import command

EIGHT = ("trajectory.networks=4", "trajectory.matching_steps=2", "tracking.checkpoint_steps=1")


def pictures(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((folder / "stages").iterdir())}


def test_a_resumed_run_has_the_pictures_of_an_uninterrupted_one(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert command("dc", folder, *EIGHT) == 0
    whole = pictures(folder)
    assert list(whole) == [f"{step:08d}_{label:03d}.png" for step in (0, 2) for label in range(10)]
    shutil.rmtree(folder / "checkpoints" / "step_00000008_00000000")
    (folder / "stages" / "00000100_000.png").touch()  # of an earlier start that was longer
    assert command("dc", folder, *EIGHT) == 0
    assert pictures(folder) == whole
    shutil.rmtree(folder / "checkpoints")
    (folder / "stages" / "00000002_000.png").write_bytes(b"")
    assert command("dc", folder, *EIGHT) == 0
    assert pictures(folder) == whole


def test_the_set_does_not_depend_on_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(folder: Path) -> bytes:
        assert command("dc", folder, *EIGHT) == 0
        return (folder / "synthetic_set" / "synthetic_set.safetensors").read_bytes()

    with_pictures = made(tmp_path / "with")
    monkeypatch.setattr(worker, "_stages", lambda *given: None)
    assert made(tmp_path / "without") == with_pictures
    assert not (tmp_path / "without" / "stages").exists()
