"""A checkpoint of 1,000 classes on one worker continues on 64: each class is read once, by its worker."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Barrier
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from dist_condense.engine.coordinator import LocalCoordinator
from dist_condense.engine.errors import RunFailed
from dist_condense.engine.ownership import assign
from dist_condense.engine.procedure import Units, kind_of
from dist_condense.job import checkpoint, contents
from dist_condense.job.checkpoint import MANIFEST, SHARED, Damaged, State
from dist_condense.job.checkpoint_writer import CheckpointWriter
from dist_condense.job.claim import Claim
from dist_condense.job.journal import Journal
from dist_condense.system.background import side_by_side
from tests.engine import cases

CLASSES = 1000
IDENTITY = {"seed": 3}
THETA = {"network.weight": torch.arange(50.0)}


@dataclass
class Memory:
    """A storage that counts complete reads, by the last part of the name, and the bytes of partial ones."""

    entries: dict[str, bytes] = field(default_factory=dict)
    reads: Counter[str] = field(default_factory=Counter)
    listings: int = 0

    def write(self, name: str, data: bytes) -> None:
        self.entries[name] = data

    def read(self, name: str, limit: int) -> bytes:
        if name not in self.entries:
            raise FileNotFoundError(name)
        self.reads[name.split("/")[1]] += 1
        return self.entries[name]

    def head(self, name: str, count: int) -> bytes:
        return self.entries[name][:count]

    def names(self) -> list[str]:
        return sorted({name.split("/")[0] for name in self.entries})

    def sizes(self, name: str) -> dict[str, int]:
        self.listings += 1
        folder = f"{name}/"
        return {key.removeprefix(folder): len(x) for key, x in self.entries.items() if key.startswith(folder)}

    def remove(self, name: str) -> None:
        for key in [key for key in self.entries if key == name or key.startswith(f"{name}/")]:
            del self.entries[key]

    def __str__(self) -> str:
        return "memory"


class InThreads(LocalCoordinator):
    """The coordinator of one of several workers, each a thread."""

    def __init__(self, rank: int, values: list[Any], barrier: Barrier) -> None:
        super().__init__()
        self.rank, self.size, self.values, self.barrier = rank, len(values), values, barrier

    def gather(self, value: Any) -> list[Any]:
        self.values[self.rank] = value
        self.barrier.wait(60)
        answer = list(self.values)
        self.barrier.wait(60)
        return answer


def state(steps: int) -> State:
    return State(steps=steps, updates=0, identity=IDENTITY, tracking_run=None, torch=torch.__version__, device="cpu")


def state_of(classes: int, steps: int) -> dict[str, Tensor]:
    return {f"{name}.{c}": torch.tensor([c, steps + 0.5]) for name in ("pixels", "buffer") for c in range(classes)}


def outline(classes: int) -> Any:
    kinds = {name: kind_of(torch.zeros(2)) for name in ("pixels", "buffer")}
    theta = {name: kind_of(x) for name, x in THETA.items()}
    return SimpleNamespace(units=Units({"step": 9}), class_tensors=lambda label: kinds, shared_tensors=(theta, {}))


def store_of(classes: int, *steps: int) -> Memory:
    """Write checkpoints of these steps by one worker."""
    store = Memory()
    writer = CheckpointWriter(store, LocalCoordinator(), kept=9)
    for done in steps:
        writer.begin(state(done), state_of(classes, done), THETA)
        writer.wait()
        assert writer.problem is None
    store.reads.clear()
    return store


@dataclass
class Part:
    """The part of a procedure that resuming uses."""

    outline: Any
    labels: list[int]
    stride: int = 1
    updates: int = 0
    waited: float = 0.0
    loaded: tuple[dict[str, Tensor], dict[str, Tensor]] | None = None

    def load_state_dict(self, by_class: Mapping[str, Tensor], shared: Mapping[str, Tensor], updates: int) -> None:
        self.loaded = dict(by_class), dict(shared)

    def after_updates(self, call: Callable[[], None]) -> None:
        pass


def resumed(store: Memory, classes: int, workers: int, folder: Path) -> list[Part]:
    """Resume on several workers at the same time; check that all continue from the same step and return their parts."""
    values, barrier, owned = [None] * workers, Barrier(workers), assign([1.0] * classes, workers)
    parts = [Part(outline(classes), list(labels)) for labels in owned]

    def begin(rank: int) -> int:
        group = InThreads(rank, values, barrier)
        return Journal(
            claim=Claim.present(folder),
            procedure=cast(Any, parts[rank]),
            identity=IDENTITY,
            coordinator=group,
            group=group,
            writer=CheckpointWriter(store, group),
            device="cpu",
        ).resume()

    (steps,) = set(side_by_side(begin, range(workers), workers))
    for part in parts:
        assert part.loaded is not None
        own, shared = part.loaded
        whole = state_of(classes, steps)
        assert set(own) >= {f"{name}.{c}" for name in ("pixels", "buffer") for c in part.labels}  # more in version 1
        assert all(torch.equal(x, whole[name]) for name, x in own.items())
        assert torch.equal(shared["network.weight"], THETA["network.weight"])
    return parts


@pytest.fixture(scope="module")
def large() -> Memory:
    return store_of(CLASSES, 3)


@pytest.fixture
def counted(large: Memory) -> Memory:
    large.reads.clear()
    return large


def test_from_1_to_64_workers_without_64_full_reads(counted: Memory, tmp_path: Path) -> None:
    resumed(counted, CLASSES, 64, tmp_path)
    classes = {name: count for name, count in counted.reads.items() if name.startswith("class")}
    assert classes == {f"class_{c}.safetensors": 1 for c in range(CLASSES)}
    assert counted.reads[SHARED] == 64


def test_the_driver_looks_at_the_manifest_sizes_and_headers_alone(counted: Memory) -> None:
    counted.listings = 0
    found = checkpoint.newest(counted)
    assert found is not None and found.steps == 3
    assert counted.reads == {MANIFEST: 1} and counted.listings == 1
    assert list(contents.problems(found, outline(CLASSES), CLASSES)) == []
    assert counted.reads == {MANIFEST: 1}


def test_an_export_reads_each_class_once(counted: Memory) -> None:
    state = contents.classes(checkpoint.opened(counted, checkpoint.name_of(3, 0)), outline(CLASSES), CLASSES)
    assert len(state) == 2 * CLASSES and set(counted.reads.values()) == {1} and SHARED not in counted.reads


def flipped(store: Memory, steps: int, file: str) -> None:
    name = f"{checkpoint.name_of(steps, 0)}/{file}"
    store.entries[name] = store.entries[name][:-1] + bytes([store.entries[name][-1] ^ 1])


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_files_per_worker_of_version_1_are_read(workers: int, tmp_path: Path) -> None:
    store = store_of(7, 3)
    cases.as_version_1(store, workers)
    found = checkpoint.opened(store, checkpoint.name_of(3, 0))
    assert len(found.entries) == 1 + workers and set(contents.classes(found, outline(7), 7)) == set(state_of(7, 3))
    assert list(contents.problems(found, outline(7), 7)) == []
    for now in (1, 3, 7):
        resumed(store, 7, now, tmp_path)


def test_one_worker_finds_damage_and_all_take_the_checkpoint_before(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store = store_of(7, 1, 2, 3)
    flipped(store, 3, "class_4.safetensors")
    flipped(store, 2, "class_5.safetensors")
    resumed(store, 7, 3, tmp_path)
    notes = capfd.readouterr().err.splitlines()
    names = [note.split(" is damaged")[0].rsplit("/", 1)[1] for note in notes]
    assert names == [f"class_{c}.safetensors" for c in (4, 5)]
    assert all(note.endswith("; step_00000001_00000000 is used instead") for note in notes)


@pytest.mark.parametrize("kept", [1, 2])
def test_later_checkpoints_that_are_damaged_cost_no_earlier_one(kept: int, tmp_path: Path) -> None:
    """They count as committed by their manifests, but the run goes on from before them, perhaps more than once."""
    store = store_of(4, 1, 7, 8)
    for steps in (7, 8):
        flipped(store, steps, "class_2.safetensors")
    for steps in (2, 3):
        writer = CheckpointWriter(store, LocalCoordinator(), kept=kept)
        writer.begin(state(steps), state_of(4, steps), THETA)
        writer.wait()
        assert writer.problem is None
        assert checkpoint.names(store) == [
            checkpoint.name_of(x, 0) for x in (1, 2, 3, 7, 8) if steps - kept < x <= steps or x > 6
        ]
    resumed(store, 4, 2, tmp_path)


def test_names_are_in_the_order_of_progress() -> None:
    store = Memory(
        {f"{checkpoint.name_of(*progress)}/x": b"" for progress in ((10**8, 0), (99_999_999, 7), (9, 10**9))}
    )
    store.write(f"step_{10**30}_00000000/x", b"")
    assert [checkpoint.progress(name) for name in checkpoint.names(store)] == [[9, 10**9], [99_999_999, 7], [10**8, 0]]


def test_only_some_of_many_damaged_checkpoints_are_reported(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    store = store_of(2, 1)
    for steps in range(2, 50):
        store.write(f"{checkpoint.name_of(steps, 0)}/{MANIFEST}", b"{}")
    resumed(store, 2, 1, tmp_path)
    *notes, last = capfd.readouterr().err.splitlines()
    assert len(notes) == 10 and " note: ... and 38 more damaged checkpoints" in last


def test_what_is_beyond_the_run_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """The manifests are sealed; the run has nine steps, and files of a few hundred bytes."""
    store = store_of(2, 1)
    entries = checkpoint.opened(store, checkpoint.name_of(1, 0)).entries
    large = [replace(entry, bytes=10**12) if entry.labels == (1,) else entry for entry in entries]
    reports = {
        (2, 0): (large, "class_1.safetensors: it has 1000000000000 bytes, and its tensors have 16"),
        (10, 0): (entries, f"{MANIFEST}: it is after step 10 and 0 updates, but the run ends after step 9"),
        (9, 1): (entries, f"{MANIFEST}: it is after step 9 and 1 updates, but the run ends after step 9"),
    }
    for (steps, updates), (named, report) in reports.items():
        checkpoint.commit(store, replace(state(steps), updates=updates), named)
        store.reads.clear()
        found = checkpoint.opened(store, checkpoint.name_of(steps, updates))
        assert list(contents.problems(found, outline(2), 2)) == [report] and store.reads == {MANIFEST: 1}
        with pytest.raises(Damaged, match=re.escape(report)):
            contents.loaded(found, outline(2), [0, 1])
        with pytest.raises(Damaged, match=re.escape(report)):
            contents.classes(found, outline(2), 2)
    resumed(store, 2, 2, tmp_path)


def test_a_number_of_a_class_that_is_not_finite_is_damage(tmp_path: Path) -> None:
    store = store_of(2, 1)
    writer = CheckpointWriter(store, LocalCoordinator(), kept=9)
    writer.begin(state(2), {**state_of(2, 2), "buffer.1": torch.tensor([0.0, torch.nan])}, THETA)
    writer.wait()
    found = checkpoint.opened(store, checkpoint.name_of(2, 0))
    with pytest.raises(Damaged, match=r"class_1\.safetensors: buffer\.1 is not finite"):
        contents.classes(found, outline(2), 2)
    resumed(store, 2, 2, tmp_path)


def test_a_manifest_that_not_all_see_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This happens on a delayed file system; a manifest that no worker sees was never committed."""
    store, opened, late = store_of(4, 1, 2), checkpoint.opened, list[str]()

    def seen(*given: Any) -> checkpoint.Checkpoint:
        if given[1] == checkpoint.name_of(2, 0) and not late:
            late.append(given[1])
            raise FileNotFoundError(given[1])
        return opened(*given)

    monkeypatch.setattr(checkpoint, "opened", seen)
    parts = resumed(store, 4, 2, tmp_path)
    assert len(parts) == 2 and late
    store.remove(f"{checkpoint.name_of(1, 0)}")
    late.clear()
    with pytest.raises(RunFailed, match=rf"{MANIFEST} is not visible to all workers"):
        resumed(store, 4, 2, tmp_path)


def test_a_checkpoint_of_another_run_is_not_fallen_back_to(tmp_path: Path) -> None:
    store = store_of(4, 1, 2)
    found = checkpoint.opened(store, checkpoint.name_of(1, 0))
    state = State(steps=1, updates=0, identity={"seed": 7}, tracking_run=None, torch=torch.__version__, device="cpu")
    checkpoint.commit(store, state, found.entries)
    flipped(store, 2, SHARED)
    with pytest.raises(RunFailed, match=r"step_00000001_00000000 belongs to another run: seed: 7 there, 3 now"):
        resumed(store, 4, 2, tmp_path)


def test_a_failed_write_begins_no_other(tmp_path: Path) -> None:
    started = list[int]()

    def action(item: int) -> int:
        started.append(item)
        if item == 1:
            raise OSError("full")
        return item

    with pytest.raises(OSError, match="full"):
        side_by_side(action, range(100), 1)
    assert started == [0, 1]
    assert side_by_side(lambda x: x * x, range(100), 8) == [x * x for x in range(100)]
