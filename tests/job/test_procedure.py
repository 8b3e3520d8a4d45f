"""A third procedure, defined here, runs like any other: job and result know only units, state and measures."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dist_condense.commands import cli
from dist_condense.engine.coordinator import Coordinator, LocalCoordinator
from dist_condense.engine.errors import RunFailed
from dist_condense.engine.procedure import Kind, Problem, Record, Units
from dist_condense.job import checkpoint, journal
from dist_condense.job.journal import Journal, Note
from dist_condense.procedures import NAMES
from dist_condense.result.card import read_card
from dist_condense.result.synthetic_set import load_set
from dist_condense.settings import procedures
from dist_condense.settings.config import RunConfig, differences, identity
from dist_condense.settings.procedures import Maker
from dist_condense.settings.run_folder import RunFolder
from dist_condense.system.storage import Folder
from tests.conftest import ROOT
from tests.engine import cases
from tests.job.test_failures import command

BEADS = 2
"""Updates inside a unit."""
EVERY_EVENT = "tracking.checkpoint_minutes=0"


@dataclass(frozen=True)
class AbacusOutline:
    """The outline of two rounds of three turns."""

    classes: int
    shape: tuple[int, ...]
    units: Units = field(default_factory=lambda: Units({"round": 2, "turn": 3}))

    def class_tensors(self, label: int) -> dict[str, Kind]:
        return {"tally": (torch.int64, (1,))}

    @property
    def shared_tensors(self) -> tuple[dict[str, Kind], dict[str, Kind]]:
        return {"beads": (torch.int64, (1,))}, {}

    def facts(self, done: int) -> dict[str, Any]:
        return {"rounds_done": done // 3}

    def synthetic_set(self, state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        grey = [state[f"tally.{c}"] / 1000.0 for c in range(self.classes)]
        images = torch.stack([x.view(1, 1, 1, 1).expand(self.shape) for x in grey]).flatten(0, 1)
        return images.contiguous(), torch.arange(self.classes).repeat_interleave(self.shape[0])


@dataclass
class Abacus:
    """A procedure that adds beads one by one in each turn, then adds their number, times the turn, to each tally.

    It reports a problem of class 7 once its tally exceeds ``most``.
    """

    outline: AbacusOutline
    labels: list[int]
    most: int = 10**6
    stride: int = 1
    waited: float = 0.0
    updates: int = 0
    beads: int = 0

    def __post_init__(self) -> None:
        self.tally = dict.fromkeys(self.labels, 0)

    def run(self, record: Record) -> None:
        for unit in range(record.resume(), self.outline.units.total):
            for self.updates in range(self.updates + 1, BEADS + 1):  # noqa: B020
                self.beads += 1
                self.call()
            self.updates = 0
            for c in self.labels:
                self.tally[c] += (unit + 1) * self.beads + c
            record.after_step(unit + 1)
        record.finish()

    def after_updates(self, call: Callable[[], None]) -> None:
        self.call = call

    def state_dict(self) -> dict[str, Tensor]:
        return {f"tally.{c}": torch.tensor([x]) for c, x in self.tally.items()}

    def shared_state_dict(self) -> dict[str, Tensor]:
        return {"beads": torch.tensor([self.beads])}

    def load_state_dict(self, by_class: Mapping[str, Tensor], shared: Mapping[str, Tensor], updates: int) -> None:
        self.tally = {c: int(by_class[f"tally.{c}"]) for c in self.labels}
        self.beads, self.updates = int(shared["beads"]), updates

    def measures(self) -> dict[str, float]:
        return {"weight": float(sum(self.tally.values()))}

    def measured(self, sums: Mapping[str, float]) -> dict[str, float]:
        return dict(sums)

    def problem(self, done: int) -> Problem | None:
        return ((done,), f"class 7 is stuck in turn {done}") if self.tally.get(7, 0) > self.most else None

    def checksum(self) -> int | None:
        return self.beads

    def close(self) -> None:
        self.labels = []


def outline(config: RunConfig, dataset: Any) -> AbacusOutline:
    return AbacusOutline(len(dataset.classes), (config.ipc, dataset.channels, dataset.size, dataset.size))


def abacus(config: RunConfig, dataset: Any, labels: list[int], coordinator: Coordinator, placement: Any) -> Abacus:
    return Abacus(outline(config, dataset), labels, most=config.method.real_batch)


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NAMES, "abacus", "count")
    monkeypatch.setitem(procedures.PROCEDURES, "abacus", Maker(outline, abacus))


OVERRIDES = ("method.procedure=abacus", "method.real_batch=1000000", "tracking.log_every=2")


def tallies(folder: Path) -> list[int]:
    found = checkpoint.newest(Folder(folder / "checkpoints"))
    assert found is not None and (found.steps, found.state.updates) == (6, 0)
    return [int(cases.classes(found)[f"tally.{c}"]) for c in range(10)]


BY_HAND = [sum(unit * BEADS * unit + c for unit in range(1, 7)) for c in range(10)]


class Death(BaseException):
    """Stands for a power cut; no code catches it."""


def test_a_death_after_every_unit_and_every_update(tmp_path: Path) -> None:
    whole, places = Journal._after_event, list[tuple[int, int]]()

    def dies(self: Journal) -> None:
        whole(self)
        places.append((self._steps, self.procedure.updates))
        self.writer.wait()
        raise Death

    run = cases.load("dc", f"output={tmp_path}", *OVERRIDES, EVERY_EVENT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "_after_event", dies)
        for _ in range(6 * (BEADS + 1)):
            with pytest.raises(Death):
                cases.execute(run, LocalCoordinator())
        cases.execute(run, LocalCoordinator())  # is complete
    assert places == sorted(set(places)) and len(places) == 6 * (BEADS + 1)
    assert tallies(tmp_path) == BY_HAND
    entries = [json.loads(line) for line in RunFolder(tmp_path).metrics.read_text().splitlines()]
    own = [{key: entry[key] for key in ("step", "round", "turn")} for entry in entries]
    assert own == [
        {"step": 1, "round": 0, "turn": 0},
        {"step": 2, "round": 0, "turn": 1},
        {"step": 4, "round": 1, "turn": 0},
        {"step": 6, "round": 1, "turn": 2},
    ]
    assert entries[-1]["weight"] == sum(BY_HAND) and "loss" not in entries[-1]


def test_the_command_stops_resumes_exports_and_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    given, whole = (*OVERRIDES, "tracking.checkpoint_steps=1"), Journal.after_step

    def fails(self: Journal, done: int) -> None:
        whole(self, done)
        if done == 4:
            raise RunFailed("made to fail")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "after_step", fails)
        assert command("dc", tmp_path, *given) == cli.FAILED
    reported = capfd.readouterr().err
    assert "round 2/2, turn 1/3" in reported and "the set of turn 4 is kept" in reported
    card = read_card(tmp_path / "synthetic_set")
    counts = {"training_images": 1442, "test_images": 355}
    assert (card.steps, card.complete) == (4, False)
    assert card.facts == {**counts, "rounds_done": 1, "protocol": "dc"}
    assert command("dc", tmp_path, *given) == 0
    reported = capfd.readouterr().err
    assert "resuming after turn 4 of 6 in all" in reported and f"done, weight {sum(BY_HAND)}" in reported
    images, labels = load_set(tmp_path).pixels(), load_set(tmp_path).labels
    assert (
        images[labels == 3].unique() == torch.tensor(BY_HAND[3] / 1000)
        and read_card(tmp_path / "synthetic_set").complete
    )
    report = (tmp_path / "report.html").read_text()
    assert (
        "<dt>rounds done</dt><dd>2</dd>" in report and "weight over steps" in report and "etwork" not in report[:3000]
    )
    assert command("dc", tmp_path, *given) == 0
    assert "the set is complete after turn 6" in capfd.readouterr().err


def test_what_must_not_be_stored_stops_it(tmp_path: Path) -> None:
    run = cases.load("dc", f"output={tmp_path}", *OVERRIDES, "method.real_batch=30", EVERY_EVENT)
    with pytest.raises(RunFailed, match="class 7 is stuck in turn 3"):
        cases.execute(run, LocalCoordinator())
    found = checkpoint.newest(Folder(tmp_path / "checkpoints"))
    assert found is not None and found.steps == 2


def test_plan_has_no_estimate_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "configs/digits.yaml", "method.procedure=abacus"]) == cli.REFUSED
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "refused: method.procedure: abacus has no estimate; plan knows matching, selecting"


@pytest.mark.parametrize(("stride", "logged", "meetings"), [(1, [1, 2, 4, 6], 18), (3, [3, 6], 6), (4, [4, 6], 5)])
def test_workers_meet_once_in_a_stride_however_slow_a_unit_is(
    stride: int, logged: list[int], meetings: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker without work in a unit continues with its own units."""
    noted, note = list[int](), Journal._note

    def counted(self: Journal, scheduled: bool) -> Note:
        noted.append(self._steps)
        return note(self, scheduled)

    def slow(*given: Any, **named: Any) -> Abacus:
        return replace(abacus(*given, **named), stride=stride)

    monkeypatch.setitem(procedures.PROCEDURES, "abacus", Maker(outline, slow))
    monkeypatch.setattr(Journal, "_note", counted)
    monkeypatch.setattr(journal, "PACE", 0.0)  # fewer than one unit a second
    cases.execute(cases.load("dc", f"output={tmp_path}", *OVERRIDES), LocalCoordinator())
    assert [json.loads(line)["step"] for line in RunFolder(tmp_path).metrics.read_text().splitlines()] == logged
    assert len(noted) == meetings


def test_a_run_of_a_version_without_procedures_is_one_of_matching() -> None:
    now = identity(cases.load("dc"))
    before = {key: value for key, value in now.items() if key != "method.procedure"}
    assert differences(before, now) == []
    assert differences(before, now | {"method.procedure": "abacus"}) == [
        "method.procedure: 'matching' there, 'abacus' now"
    ]


# --- what surrounds a method names none ---------------------------------------------------------------------------

WORDS = {"K", "T", "networks", "matching_steps", "matching_step", "networks_done", "networks_total", "pixels", "divmod"}


def named(source: str) -> set[str]:
    """Yield names, attributes, keys and complete strings of a module, without docstrings and comments."""
    tree, found = ast.parse(source), set[str]()
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.keyword(arg=str(name)):
                found.add(name)
            case ast.Constant(value=str(text)):
                found.add(text)
    return found & WORDS


SHARED = [*(ROOT / "dist_condense" / "job").glob("*.py")]
RESULT = ROOT / "dist_condense" / "result"
SHARED += [RESULT / f"{name}.py" for name in ("progress", "metrics_file", "report", "curve")]
SHARED += (RESULT / "tracking").glob("*.py")


@pytest.mark.parametrize("file", SHARED, ids=lambda file: file.name)
def test_nothing_counts_in_networks_and_matching_steps(file: Path) -> None:
    assert named(file.read_text()) == set()
    assert named("k, t = divmod(step, run.trajectory.matching_steps)") == {"divmod", "matching_steps"}
