"""A closed procedure leaves no thread behind, and does not end well with images that cannot be read."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from dist_condense.data import DataError
from dist_condense.engine.coordinator import LocalCoordinator, Placement
from dist_condense.engine.procedure import Procedure
from dist_condense.job import worker
from dist_condense.procedures import matching, selecting
from tests.data.shards.shard_cases import write_folder
from tests.engine import cases


class Stop(Exception):
    """Raised after the first update."""


def procedure(case: str, folder: Path, *more: str) -> Procedure:
    run = cases.load(case, f"output={folder}", "data.tier=ram", *more)
    return worker.assemble(run, LocalCoordinator(), Placement()).procedure


def stop() -> None:
    raise Stop


@pytest.mark.parametrize("case", ["dsa", "idc"])
def test_no_thread_is_left_after_an_update_that_fails(case: str, tmp_path: Path) -> None:
    made = procedure(case, tmp_path, "training.epochs=1000000", "trajectory.pretrain_epochs=1000000")
    made.after_updates(stop)
    before = threading.enumerate()
    with pytest.raises(Stop) as failed, closing(made):
        made.run(SimpleNamespace(resume=lambda: 0, after_step=lambda done: None))
    assert failed.tb is not None, "its frames keep the generators, as while an error is reported"
    assert threading.enumerate() == before


def test_closing_ends_what_was_announced_and_the_reading_in_the_background(tmp_path: Path) -> None:
    made, closed = procedure("idc", tmp_path, "training.images=1000000000"), []
    made.shard.source.source = SimpleNamespace(complete=lambda: None, close=lambda: closed.append(True))
    before = threading.enumerate()
    made.trajectory.batches.announce(0, 0, made.trajectory.trainer.draws(0, 0))
    made.close()
    assert closed and threading.enumerate() == before


@pytest.mark.parametrize("case", ["dsa", "random"])
def test_a_damaged_file_that_no_unit_uses_is_refused(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last unit is not recorded, so that the run is not complete when it is started again."""
    damaged = write_folder(tmp_path / "images") / "train" / "zebra" / "c.png"
    damaged.write_bytes(damaged.read_bytes()[:200])
    folder = ("dataset.name=image_folder", f"dataset.root={tmp_path / 'images'}", "dataset.size=16")
    recorded: list[int] = []
    record = SimpleNamespace(resume=lambda: 0, after_step=recorded.append, finish=lambda: None)

    def nothing_is_read(*given: object, **named: object) -> None:
        *_, checked = *given, *named.values()
        checked.after_step(1)
        checked.after_step(made.outline.units.total)

    monkeypatch.setattr(matching, "match", nothing_is_read)
    monkeypatch.setattr(selecting, "select", nothing_is_read)
    made = procedure(case, tmp_path, *folder, "ipc=1", "method.start=noise" if case == "dsa" else "seed=1")
    with closing(made), pytest.raises(DataError, match=r"c\.png: the image cannot be read"):
        made.run(record)
    assert recorded == [1]


def test_updates_of_training_and_of_pretraining_are_captured_together(tmp_path: Path) -> None:
    theta = procedure("idc", tmp_path).trajectory
    assert theta.start.real is not theta.batches and theta.start.real.normalised == theta.batches.normalised
