"""A run that was stopped and started again ends with the bits of one that was never stopped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dist_condense.engine import checkpoint
from dist_condense.engine.coordinator import ProcessGroupCoordinator
from dist_condense.engine.journal import METRICS, Journal
from tests.engine import cases

CASES = ("dcc", "idc")
OFTEN = "tracking.checkpoint_minutes=0"
STEPS = [2, 4, 6]
"""The logged ones of K = 2, T = 3: 2 and 4 lie within a network."""


class Stopped(RuntimeError):
    """In place of a power cut."""


class Stopping(ProcessGroupCoordinator):
    """Stops both workers when they compare networks at step 6: seven messages make a log step with checkpoint."""

    left = 2 * 7

    def gather(self, value: object) -> list[object]:
        if self.left == 0:
            raise Stopped("stopped")
        self.left -= 1
        return super().gather(value)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("uninterrupted")
    return {name: cases.alone(name, folder / name) for name in CASES}


@pytest.fixture(scope="module")
def stopped_pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of two processes that were stopped after the checkpoint of step 4."""
    folder = tmp_path_factory.mktemp("pair")
    found = cases.together(2, {name: (name, Stopping) for name in CASES}, folder, OFTEN)
    assert found == dict.fromkeys(CASES, "stopped")
    return folder


def stop(name: str, folder: Path, after: int, *more: str) -> None:
    """Run to the end of a step, then fall over."""
    whole = Journal.after_step

    def until(self: Journal, done: int) -> None:
        whole(self, done)
        if done == after:
            raise Stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "after_step", until)
        with pytest.raises(Stopped):
            cases.alone(name, folder, OFTEN, *more)


def steps_in(metrics: Path) -> list[int]:
    return [json.loads(line)["step"] for line in metrics.read_text().splitlines()]


def committed(folder: Path) -> int:
    found = checkpoint.newest(folder / "checkpoints")
    return found.steps if found else 0


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("after", "resumed_at"), [(1, 0), (2, 2), (3, 2), (5, 4)])
def test_stopped_once(name: str, after: int, resumed_at: int, uninterrupted: dict[str, Tensor], tmp_path: Path) -> None:
    stop(name, tmp_path, after)
    assert committed(tmp_path) == resumed_at
    assert torch.equal(cases.alone(name, tmp_path), uninterrupted[name])
    assert steps_in(tmp_path / METRICS) == STEPS


@pytest.mark.parametrize("name", CASES)
def test_stopped_between_networks_and_again_within_one(
    name: str, uninterrupted: dict[str, Tensor], tmp_path: Path
) -> None:
    each = "tracking.log_every=1"
    for after in (3, 4):
        stop(name, tmp_path, after, each)
        assert committed(tmp_path) == after
    assert torch.equal(cases.alone(name, tmp_path, each), uninterrupted[name])
    assert steps_in(tmp_path / METRICS) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("name", CASES)
def test_two_workers_then_one(name: str, uninterrupted: dict[str, Tensor], stopped_pair: Path) -> None:
    folder = stopped_pair / name
    assert committed(folder) == 4
    assert torch.equal(cases.alone(name, folder), uninterrupted[name])
    assert steps_in(folder / METRICS) == STEPS


def test_a_checkpoint_without_its_manifest_is_none(
    uninterrupted: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def torn(folder: Path, manifest: dict[str, int], *state: object) -> None:
        if manifest["steps"] == 4:
            whole = folder / "step_00000002"
            (folder / "step_00000004").mkdir()
            (folder / "step_00000004" / checkpoint.SHARED).write_bytes((whole / checkpoint.SHARED).read_bytes()[:100])
            raise Stopped
        save(folder, manifest, *state)

    save = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", torn)
    with pytest.raises(Stopped):
        cases.alone("dcc", tmp_path, OFTEN)
    monkeypatch.undo()
    assert steps_in(tmp_path / METRICS) == [2, 4]  # step 4 is logged and will be done again
    assert committed(tmp_path) == 2
    assert torch.equal(cases.alone("dcc", tmp_path), uninterrupted["dcc"])
    assert steps_in(tmp_path / METRICS) == STEPS


def test_a_half_written_line_of_metrics_is_dropped(uninterrupted: dict[str, Tensor], tmp_path: Path) -> None:
    stop("dcc", tmp_path, 4)
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"step": 6, "netw')
    assert torch.equal(cases.alone("dcc", tmp_path), uninterrupted["dcc"])
    assert steps_in(tmp_path / METRICS) == STEPS


def test_zero_minutes_mean_every_log_step(tmp_path: Path) -> None:
    cases.alone("dcc", tmp_path, OFTEN)
    assert sorted(path.name for path in (tmp_path / "checkpoints").glob("step_*")) == ["step_00000004", "step_00000006"]
    cases.alone("dcc", tmp_path / "rarely")
    assert [path.name for path in (tmp_path / "rarely" / "checkpoints").glob("step_*")] == ["step_00000006"]


def test_a_complete_run_does_nothing(uninterrupted: dict[str, Tensor], tmp_path: Path) -> None:
    cases.alone("dcc", tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints").rglob("*")}
    assert torch.equal(cases.alone("dcc", tmp_path), uninterrupted["dcc"])
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints").rglob("*")}
