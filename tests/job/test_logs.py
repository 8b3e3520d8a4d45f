"""Logs of a run in JSON lines with run, rank and step, which never make a run fail."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from dist_condense import run
from dist_condense.commands import cli
from dist_condense.engine.coordinator import LocalCoordinator, ProcessGroupCoordinator
from dist_condense.job import logs
from dist_condense.job.journal import Journal, RunFailed
from dist_condense.result.progress import Notes
from dist_condense.settings.run_folder import RunFolder
from dist_condense.system import terminal
from tests.engine import cases

OWNER, METRICS = RunFolder.owner.name, RunFolder.metrics.name

KEYS = {"time", "level", "run", "start", "rank", "host", "step", "logger", "message"}


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "logs" / f"{name}.jsonl").read_text().splitlines()]


def command(folder: Path) -> int:
    """Execute six steps with an entry every two steps, in this process."""
    given = [*cases.TINY, *cases.CASES["dc"], "cluster.workers=0", "evaluation.epochs=0", f"output={folder}"]
    return run.main(["configs/digits.yaml", *given])


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run whose command was repeated after its end."""
    folder = tmp_path_factory.mktemp("runs") / "first_try"
    assert command(folder) == 0
    before = (folder / OWNER).read_text()
    assert command(folder) == 0
    assert (folder / OWNER).read_text() != before
    return folder


def test_a_run_tells_what_it_did(twice: Path) -> None:
    driver, worker = lines(twice, "driver"), lines(twice, "worker_0")
    for line in driver + worker:
        assert line.keys() >= KEYS and datetime.fromisoformat(line["time"]).utcoffset() is not None
        assert (line["run"], line["host"]) == ("first_try", socket.gethostname())
    assert {line["rank"] for line in driver} == {None} and {line["rank"] for line in worker} == {0}
    owned = next(line for line in worker if "owns classes" in line["message"])
    assert owned["step"] is None and "owns classes [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]" in owned["message"]
    assert worker[-1]["step"] == 6 and worker[-1]["message"] == driver[-1]["message"] == "ended"


def test_each_start_is_told_apart(twice: Path) -> None:
    starts = [line["start"] for line in lines(twice, "driver")]
    assert len(set(starts)) == 2 and starts == sorted(starts, key=starts.index)
    assert starts[-1] == (twice / OWNER).read_text().rpartition(", ")[2]


def test_the_lines_of_a_worker_and_of_metrics_agree(twice: Path) -> None:
    entries = [json.loads(line) for line in (twice / METRICS).read_text().splitlines()]
    reported = [line for line in lines(twice, "worker_0") if "loss" in line]
    assert [line["step"] for line in reported] == [1, 2, 4, 6]
    for entry, line in zip(entries, reported, strict=True):
        assert all(line[key] == entry[key] for key in ("step", "loss", "steps_per_second"))
        assert entry["waiting"] == line["waited"] / line["seconds"]
        assert entry["reduced_bytes"] == line["reduced"] == 0 and line["planned"] == 6


def test_an_error_is_kept_with_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: Journal, done: int) -> None:
        self.coordinator.reached(done)
        raise RunFailed("made to fail")

    monkeypatch.setattr(Journal, "after_step", failing)
    assert command(tmp_path) == cli.FAILED
    for name, step in (("worker_0", 1), ("driver", None)):
        last = lines(tmp_path, name)[-1]
        assert (last["level"], last["step"]) == ("ERROR", step) and "RunFailed: made to fail" in last["message"]
        assert last["error"].startswith("Traceback") and "in failing" in last["error"]


def test_a_log_that_cannot_be_written_is_not_worth_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    whole, opened = logs._File, []
    monkeypatch.setattr(logs, "_File", lambda path: opened.append(path.name) or whole("/dev/full"))
    assert command(tmp_path) == 0 and sorted(opened) == ["driver.jsonl", "worker_0.jsonl"]
    reported = capfd.readouterr().err
    assert "No space" not in reported and "Traceback" not in reported


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    before = list(logging.getLogger(logs.PACKAGE).handlers)
    with pytest.raises(KeyboardInterrupt), logs.kept(tmp_path, "", LocalCoordinator()):
        raise KeyboardInterrupt
    assert logging.getLogger(logs.PACKAGE).handlers == before
    assert lines(tmp_path, "worker_0")[-1]["message"].startswith("ended by KeyboardInterrupt")


@pytest.mark.parametrize("notes", [True, False])
def test_what_the_engine_logs_is_printed(
    notes: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the first worker of a machine prints notes; the handlers of other rooms are their own."""
    monkeypatch.setattr(terminal, "clock", lambda: "14:03:59")
    with logs.printed(notes):
        for room in ("core.program", "engine.matching.halving", "job.journal"):
            log = logging.getLogger(f"{logs.PACKAGE}.{room}")
            log.info("in %s", room)
            log.warning("less in %s", room)
    printed = [
        f"{kind} in {room}" for room in ("core.program", "engine.matching.halving") for kind in ("note:", "less")
    ]
    expected = [line.replace("less", "warning: less") for line in printed if notes or not line.startswith("note")]
    assert capsys.readouterr().err.splitlines() == [f"14:03:59 {line}" for line in expected]
    assert all(logging.getLogger(name).handlers == [] for name in logs.SILENT)


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    """Make this process a process group of one."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("group")
def test_the_first_worker_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray Train and torchrun number the workers of a machine in an environment variable."""
    coordinator = ProcessGroupCoordinator()
    assert coordinator.is_first_here and LocalCoordinator().is_first_here
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert not coordinator.is_first_here


@pytest.mark.usefixtures("group")
def test_bytes_are_counted_on_all_lines() -> None:
    first = ProcessGroupCoordinator()
    first.sum([(0, torch.ones(5))], torch.zeros(3, 5), terms=1)
    exact = 3 * 8 + 3 * 5 * 8  # the maximum of each slot, then 64-bit integers
    assert first.reduced() == exact
    second = first.beside()
    second.fill(torch.zeros(7, dtype=torch.uint8))
    assert first.reduced() == second.reduced() == exact + 7


def test_the_driver_repeats_what_the_first_worker_logs_for_people(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "clock", lambda: "14:03:59")
    notes = Notes(tmp_path / "logs" / logs.FIRST, logs.repeat)
    notes.start()
    with logs.kept(tmp_path, "start", LocalCoordinator()):
        for name in ("core.program", "job.agreed", "job.journal", "engines"):
            logging.getLogger(f"dist_condense.{name}").info("from %s", name)
        logging.getLogger("dist_condense.engine.matching.halving").warning("out of memory")
    notes.stop()
    for damaged in ("{", "[]", "3", '{"logger": "dist_condense.core"}'):
        logs.repeat(damaged)
    printed = capsys.readouterr()
    shown = [line for line in (printed.out + printed.err).splitlines() if line]
    expected = ["note: from core.program", "note: from job.agreed", "warning: out of memory"]
    assert shown == [f"14:03:59 {line}" for line in expected]
