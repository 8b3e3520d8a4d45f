"""A run that was stopped and continued ends with the same bits as an uninterrupted one."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load, save
from torch import Tensor

from dist_condense.engine.coordinator import ProcessGroupCoordinator
from dist_condense.engine.errors import RunFailed
from dist_condense.job import checkpoint, journal
from dist_condense.job.checkpoint import MANIFEST, SHARED
from dist_condense.job.checkpoint_writer import CheckpointWriter
from dist_condense.job.journal import Journal
from dist_condense.settings.run_folder import RunFolder
from dist_condense.system.storage import Folder
from tests.engine import cases

METRICS, STOP = RunFolder.metrics.name, RunFolder.stop.name

CASES = ("dcc", "idc", "representative")
OF_VERSION_1 = ("dc", "herding")
"""Three workers go on from checkpoints as an earlier program wrote them."""
ALWAYS = "tracking.checkpoint_minutes=0"
EVERY_STEP = "tracking.checkpoint_steps=1"
STEPS = [1, 2, 4, 6]
"""The logged ones of K = 2, T = 3: 2 and 4 lie within a network."""
LOGGED = {"random": [2, 4, 6, 8, 10], "herding_by_class": [2, 4, 6, 8, 10], "herding": [1, 2, 4, 6, 8, 10]}
"""Where a unit is one of ten classes. Two workers had selected some, except by herding, which trains for longer."""


class Death(BaseException):
    """Stands for a power cut; no code catches it."""


class Fallen(RuntimeError):
    """The failure of a worker whose peers must be notified."""


class Falling(ProcessGroupCoordinator):
    """A coordinator that fails on both workers at their 40th reduction, which may be within the training of theta, and
    at the latest after the fourth unit."""

    left = 40

    def reached(self, step: int) -> None:
        super().reached(step)
        if step == 4:
            raise Fallen("fallen")

    def reduce(self, tensor: Tensor, operation: dist.ReduceOp.RedOpType) -> None:
        self.left -= 1
        if self.left == 0:
            raise Fallen("fallen")
        super().reduce(tensor, operation)


@pytest.fixture(scope="module")
def whole_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the uninterrupted runs of all cases, by name."""
    return tmp_path_factory.mktemp("uninterrupted")


@pytest.fixture(scope="module")
def uninterrupted(whole_runs: Path) -> dict[str, Tensor]:
    return {name: cases.alone(name, whole_runs / name) for name in cases.CASES}


@pytest.fixture(scope="module")
def fallen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of all cases, by name, after both of their two workers failed."""
    folder = tmp_path_factory.mktemp("fallen")
    found = cases.together(2, {name: (name, Falling) for name in cases.CASES}, folder, ALWAYS)
    assert found == dict.fromkeys(cases.CASES, "fallen")
    return folder


@pytest.fixture(scope="module")
def of_three(fallen: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor | str]:
    """Folders of all cases, completed by three workers."""
    folder = tmp_path_factory.mktemp("three")
    shutil.copytree(fallen, folder, dirs_exist_ok=True)
    for name in OF_VERSION_1:
        cases.as_version_1(Folder(folder / name / "checkpoints"), 2)
    return cases.together(3, {name: (name, ProcessGroupCoordinator) for name in cases.CASES}, folder)


def die(name: str, folder: Path, when: Callable[[Journal], bool], *more: str) -> bool:
    """Run until ``when`` is true after a matching step or an update of theta; return whether that happened."""
    whole = Journal._after_event

    def until(self: Journal) -> None:
        whole(self)
        if when(self):
            self.writer.wait()
            raise Death

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "_after_event", until)
        try:
            cases.alone(name, folder, *more)
        except Death:
            return True
    return False


def after(steps: int) -> Callable[[Journal], bool]:
    return lambda run: run._steps == steps and run.procedure.updates == 0


def steps_in(metrics: Path) -> list[int]:
    return [json.loads(line)["step"] for line in metrics.read_text().splitlines()]


def committed(folder: Path) -> tuple[int, int]:
    found = checkpoint.newest(Folder(folder / "checkpoints"))
    return (found.state.steps, found.state.updates) if found else (0, 0)


# --- any death, anywhere ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_a_death_after_every_single_step_and_update(
    name: str, uninterrupted: dict[str, Tensor], tmp_path: Path
) -> None:
    """One set takes more than twenty deaths, within pre-training, training and the pool of networks."""
    deaths, places = 0, set()

    def at_once(run: Journal) -> bool:
        places.add((run._steps, run.procedure.updates))
        return True

    while die(name, tmp_path, at_once, ALWAYS):
        deaths += 1
        assert committed(tmp_path) == max(places)  # nothing is done twice
    assert deaths == len(places) > 20
    assert torch.equal(cases.result(tmp_path), uninterrupted[name])
    assert steps_in(tmp_path / METRICS) == STEPS


@pytest.mark.parametrize("name", ["dcc", "idc"])
@pytest.mark.parametrize(("steps", "kept"), [(1, 0), (3, 2), (5, 4)])
def test_what_came_after_the_checkpoint_is_done_again(
    name: str, steps: int, kept: int, uninterrupted: dict[str, Tensor], tmp_path: Path
) -> None:
    assert die(name, tmp_path, after(steps), "tracking.checkpoint_steps=2")
    assert committed(tmp_path) == (kept, 0)
    assert torch.equal(cases.alone(name, tmp_path), uninterrupted[name])
    assert steps_in(tmp_path / METRICS) == STEPS


@pytest.mark.parametrize("name", cases.CASES)
def test_two_workers_fall_and_one_goes_on(
    name: str, fallen: Path, uninterrupted: dict[str, Tensor], whole_runs: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(fallen / name, tmp_path / name)
    steps, updates = committed(folder)
    assert (steps > 0 or updates > 0) and steps < 6
    assert torch.equal(cases.alone(name, folder), uninterrupted[name])
    assert steps_in(folder / METRICS) == LOGGED.get(name, STEPS)
    if name not in LOGGED:  # selections measure nothing
        assert cases.measures(folder) == cases.measures(whole_runs / name)


def test_a_run_of_a_version_without_gradient_norms_goes_on(
    uninterrupted: dict[str, Tensor], whole_runs: Path, tmp_path: Path
) -> None:
    assert die("dcc", tmp_path, after(4), EVERY_STEP)
    metrics, expected = RunFolder(tmp_path).metrics, cases.measures(whole_runs / "dcc")
    entries = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [entry.pop("gradient_norm") for entry in entries] == [x["gradient norm"] for _, x in expected[:3]]
    metrics.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    assert torch.equal(cases.alone("dcc", tmp_path), uninterrupted["dcc"])
    assert [list(measured) for _, measured in cases.measures(tmp_path)] == [["loss"]] * 3 + [["loss", "gradient norm"]]
    assert cases.measures(tmp_path)[3] == expected[3]


@pytest.mark.parametrize("name", cases.CASES)
def test_two_workers_fall_and_three_go_on(
    name: str, of_three: dict[str, Tensor | str], uninterrupted: dict[str, Tensor]
) -> None:
    found = of_three[name]
    assert isinstance(found, Tensor), found
    assert torch.equal(found, uninterrupted[name])


def test_a_request_to_stop_is_met_at_one_step(uninterrupted: dict[str, Tensor], tmp_path: Path) -> None:
    (tmp_path / STOP).touch()
    cases.execute(cases.load("idc", f"output={tmp_path}"), cases.LocalCoordinator())
    assert committed(tmp_path) == (0, 1)  # the first update of pre-training
    (tmp_path / STOP).unlink()
    assert torch.equal(cases.alone("idc", tmp_path), uninterrupted["idc"])


class Warned(cases.LocalCoordinator):
    """A coordinator that is warned of the end of its machine after a while."""

    asked = 0

    def warned(self) -> bool:
        self.asked += 1
        return self.asked > 3


def test_a_warning_saves_once_and_the_run_goes_on(uninterrupted: dict[str, Tensor], tmp_path: Path) -> None:
    kept = ("tracking.checkpoint_steps=6", "tracking.checkpoints_kept=9", "tracking.checkpoint_minutes=60")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal, "PACE", 0.0)  # notes after every step and update
        cases.execute(cases.load("dcc", f"output={tmp_path}", *kept), Warned())
    (first, last) = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert first < "step_00000004" and last == "step_00000006_00000000"
    assert torch.equal(cases.result(tmp_path), uninterrupted["dcc"])


# --- in the middle of a write -------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", [SHARED, "class_3.safetensors", MANIFEST])
def test_a_death_within_the_write_of_a_checkpoint(
    entry: str, uninterrupted: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Folder.write

    def torn(self: Folder, name: str, data: bytes) -> None:
        if name == f"step_00000004_00000000/{entry}":
            target = self.path / name
            target.parent.mkdir(exist_ok=True)
            target.with_name(f".{target.name}.tmp").write_bytes(data[:100])
            raise Death
        whole(self, name, data)

    monkeypatch.setattr(Folder, "write", torn)
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    assert die("dcc", tmp_path, after(4), EVERY_STEP)
    monkeypatch.undo()
    assert committed(tmp_path) == (3, 0)
    assert torch.equal(cases.alone("dcc", tmp_path, EVERY_STEP), uninterrupted["dcc"])
    assert steps_in(tmp_path / METRICS) == STEPS
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == [
        "step_00000005_00000000",
        "step_00000006_00000000",
    ]


def test_a_checkpoint_that_cannot_be_written_stops_the_run_and_leaves_the_one_before(
    uninterrupted: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Folder.write

    def full(self: Folder, name: str, data: bytes) -> None:
        if name.startswith("step_00000003"):
            raise OSError(28, "No space left on device")
        whole(self, name, data)

    monkeypatch.setattr(Folder, "write", full)
    with pytest.raises(RuntimeError, match=r"rank 0 could not write the checkpoint .*step_00000003.*No space left"):
        cases.alone("dcc", tmp_path, EVERY_STEP)
    monkeypatch.undo()
    assert committed(tmp_path) == (2, 0)
    assert torch.equal(cases.alone("dcc", tmp_path), uninterrupted["dcc"])


def test_stepping_goes_on_while_a_checkpoint_is_written(
    uninterrupted: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write of step 1 ends after step 2: the state of step 1 is written, not the present one."""
    stepped, written = threading.Event(), []
    write, step = CheckpointWriter._together, Journal.after_step

    def slow(self: CheckpointWriter, state: checkpoint.State, *tensors: dict[str, Tensor]) -> None:
        if state.steps == 1:
            assert stepped.wait(60)
            written.append(state.steps)
        write(self, state, *tensors)

    def after_step(self: Journal, done: int) -> None:
        if done == 2:
            stepped.set()
        step(self, done)

    monkeypatch.setattr(CheckpointWriter, "_together", slow)
    monkeypatch.setattr(Journal, "after_step", after_step)
    assert die("dcc", tmp_path, after(2), "tracking.checkpoint_steps=2", EVERY_STEP, "tracking.checkpoints_kept=9")
    monkeypatch.undo()
    assert written == [1]
    for path in (tmp_path / "checkpoints").glob("step_00000002*"):
        for file in path.iterdir():
            file.unlink()
    assert committed(tmp_path) == (1, 0)
    assert torch.equal(cases.alone("dcc", tmp_path), uninterrupted["dcc"])


# --- damage -------------------------------------------------------------------------------------------------------


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def age(file: Path) -> None:
    file.write_text(file.read_text().replace('"updates": 0', '"updates": 1'))


@pytest.mark.parametrize(
    ("entry", "damage"),
    [
        ("class_0.safetensors", flip),
        ("class_9.safetensors", flip),
        (SHARED, flip),
        ("class_9.safetensors", Path.unlink),
        (SHARED, cut),
        (SHARED, Path.unlink),
        (MANIFEST, cut),
        (MANIFEST, age),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    entry: str,
    damage: Callable[[Path], None],
    uninterrupted: dict[str, Tensor],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert die("dcc", tmp_path, after(4), EVERY_STEP)
    damage(tmp_path / "checkpoints" / "step_00000004_00000000" / entry)
    capfd.readouterr()
    assert torch.equal(cases.alone("dcc", tmp_path), uninterrupted["dcc"])
    notes = [line for line in capfd.readouterr().err.splitlines() if "is used instead" in line]
    assert len(notes) == 1 and f"step_00000004_00000000/{entry}" in notes[0] and "; step_00000003_0" in notes[0]
    assert steps_in(tmp_path / METRICS) == STEPS


@pytest.mark.parametrize("workers", [1, 2])
def test_a_checkpoint_of_version_1_goes_on(
    workers: int, fallen: Path, uninterrupted: dict[str, Tensor], tmp_path: Path
) -> None:
    """Three workers continue from some of these as well, see :func:`of_three`."""
    folder = shutil.copytree(fallen / "dcc", tmp_path / "dcc")
    cases.as_version_1(Folder(folder / "checkpoints"), workers)
    assert committed(folder) > (0, 0)
    assert torch.equal(cases.alone("dcc", folder), uninterrupted["dcc"])


def test_when_none_is_whole_nothing_starts_over_by_itself(tmp_path: Path) -> None:
    assert die("dcc", tmp_path, after(4), EVERY_STEP)
    for file in (tmp_path / "checkpoints").glob(f"*/{SHARED}"):
        flip(file)
    before = (tmp_path / METRICS).read_bytes()
    with pytest.raises(RunFailed, match=r"step_00000004.*step_00000003.*No checkpoint .* is intact; remove them"):
        cases.alone("dcc", tmp_path)
    assert (tmp_path / METRICS).read_bytes() == before


def junk(file: Path) -> None:
    """Replace a network by bytes that are no tensors, with their hash."""
    file.write_bytes(b"junk")
    file.with_name(f"{file.name}.sha256").write_text(sha256(b"junk").hexdigest())


def other_network(file: Path) -> None:
    """Change the types of a network, with their hash."""
    data = save({name: x.double() for name, x in load(file.read_bytes()).items()})
    file.write_bytes(data)
    file.with_name(f"{file.name}.sha256").write_text(sha256(data).hexdigest())


def folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize("damage", [flip, junk, other_network, folder])
def test_a_network_of_the_pool_that_is_damaged_is_trained_again(
    damage: Callable[[Path], None], uninterrupted: dict[str, Tensor], tmp_path: Path
) -> None:
    name = "idc_pooled_by_kmeans"
    assert die(name, tmp_path, after(1))  # before the first checkpoint: the pool is all there is
    before = {file: file.read_bytes() for file in (tmp_path / "pool").glob("*.safetensors")}
    for file in before:
        damage(file)
    assert torch.equal(cases.alone(name, tmp_path), uninterrupted[name])
    assert len(before) == 1 and all(file.read_bytes() == data for file, data in before.items())


# --- when -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "kept"),
    [((EVERY_STEP,), [5, 6]), (("tracking.checkpoint_steps=2", "tracking.checkpoints_kept=3"), [2, 4, 6])],
)
def test_the_newest_are_kept(given: tuple[str, ...], kept: list[int], tmp_path: Path) -> None:
    cases.alone("dc", tmp_path, *given)
    assert sorted(int(path.name[5:13]) for path in (tmp_path / "checkpoints").iterdir()) == kept


def test_a_complete_run_does_nothing(uninterrupted: dict[str, Tensor], tmp_path: Path) -> None:
    cases.alone("dcc", tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints").rglob("*")}
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000006_00000000"]
    assert torch.equal(cases.alone("dcc", tmp_path), uninterrupted["dcc"])
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints").rglob("*")}
