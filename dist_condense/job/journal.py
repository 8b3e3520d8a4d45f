"""What a run writes while it goes: metrics.jsonl (the truth) and checkpoints. Beside the procedure, never in it."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dist_condense.engine.coordinator import Coordinator
from dist_condense.engine.errors import RunFailed
from dist_condense.engine.observer import Measured, Observer, unobserved
from dist_condense.engine.procedure import Procedure, Units
from dist_condense.job import checkpoint, contents
from dist_condense.job.checkpoint import Damaged, State
from dist_condense.job.checkpoint_writer import CheckpointWriter
from dist_condense.job.claim import Claim
from dist_condense.result import metrics_file
from dist_condense.result.tracking.server_run import RunAddress
from dist_condense.settings.config import differences
from dist_condense.settings.run_folder import RunFolder
from dist_condense.system import terminal
from dist_condense.system.files import flush

PACE = 1.0
"""Seconds between two agreements of the workers: so late a request to stop is seen."""
LINE = "%(steps_per_second).3g steps/s, waited %(waited).3g s, reduced %(reduced)d bytes"
log = logging.getLogger(__name__)


class Stopped(Exception):
    """The run was asked to stop, and has saved its state."""


@dataclass(frozen=True)
class Schedule:
    """How often something is written.

    :param log_every: units between two lines of metrics.jsonl.
    :param steps: units between two checkpoints; None: by time alone.
    :param minutes: at most so long between two checkpoints.
    """

    log_every: int = 10
    steps: int | None = None
    minutes: float = 5.0


@dataclass(frozen=True)
class Note:
    """A worker's report to the others when they meet; rank 0's clock and view of the folder decide."""

    due: bool
    """Whether a checkpoint is due."""
    stop: bool
    pause: int
    """Units and updates until the next meeting."""
    warned: bool
    """Whether a machine is to be taken away."""
    problem: str | None
    """Why nothing more may be written."""


@dataclass(frozen=True)
class Stored:
    """A worker's part of a checkpoint."""

    at: State
    by_class: dict[str, Tensor]
    """Of its classes, by ``NAME.LABEL``."""
    shared: dict[str, Tensor]


@dataclass(frozen=True)
class Mark:
    """A worker's counters when the last line of metrics.jsonl was written."""

    seconds: float = 0.0
    """Of a monotonic clock."""
    step: int = 0
    waited: float = 0.0
    """Seconds spent waiting for images."""
    reduced: int = 0
    """Bytes reduced between workers."""


@dataclass
class Journal:
    """Called by every worker after each unit of the procedure and after each update inside one.

    Every ``log_every`` units the workers compare notes; about once a second they agree whether to save and whether to
    stop, so that all do it at the same place.

    :param claim: of this start to ``folder``; every write there is made under it.
    :param identity: all that changes the result, see :class:`State`.
    :param coordinator: the procedure's; it is given the number of units done, and asked for warnings.
    :param group: a coordinator of the journal's own between the same workers.
    :param device: type of the device that computes.
    :param observe: called with each line of metrics.jsonl, on every worker.
    """

    _: KW_ONLY
    claim: Claim
    procedure: Procedure
    identity: Mapping[str, Any]
    coordinator: Coordinator
    group: Coordinator
    writer: CheckpointWriter
    device: str
    schedule: Schedule = field(default_factory=Schedule)
    observe: Observer = unobserved
    _steps: int = 0
    _logged: Mark = Mark()
    """At the last line."""
    _saved: float = 0.0
    _agreed: float = 0.0
    _events: int = 0
    """Units and updates since the workers met last."""
    _pause: int = 1
    """Events until they meet again."""
    _warned: bool = False
    """Whether a machine is to be taken away; the first warning makes the workers save."""

    @property
    def files(self) -> RunFolder:
        """The run's folder."""
        return RunFolder(self.claim.folder)

    @property
    def units(self) -> Units:
        """The units of the procedure."""
        return self.procedure.outline.units

    def resume(self) -> int:
        """Load the newest whole checkpoint if there is one; the number of units already done."""
        stored = self._stored()
        if self.group.rank == 0:
            with self.claim.writing():
                metrics_file.cut(self.files.metrics, stored.at.steps if stored else 0)
        if stored is not None:
            self.procedure.load_state_dict(stored.by_class, stored.shared, stored.at.updates)
            self._steps = stored.at.steps
        self.coordinator.reached(self._steps)
        self.procedure.after_updates(self._after_event)
        log.info("begins after %s %d", self.units.name, self._steps)
        now = time.monotonic()
        self._logged, self._saved, self._agreed, self._pause = self._mark(self._steps), now, now, self._pause_of(0)
        return self._steps

    def after_step(self, done: int) -> None:
        """Note that ``done`` units are complete."""
        self._steps = done
        self.coordinator.reached(done)
        if done % self._strides(self.schedule.log_every) == 0 or done == self.units.total:
            self._log(done)
        self._after_event()

    def finish(self) -> None:
        """Wait for the last checkpoint. Raises RunFailed if it could not be written."""
        self.writer.wait()
        if self.writer.problem:
            raise RunFailed(self.writer.problem)

    # --- the parts ------------------------------------------------------------------------------------------------

    def _stored(self) -> Stored | None:
        """This worker's part of the newest checkpoint that every worker finds whole; of those that rank 0 sees."""
        store, is_first = self.writer.store, self.group.rank == 0
        listed = self.group.gather(checkpoint.names(store) if is_first else [])[0]
        try:
            return checkpoint.furthest(store, self._together, _tell if is_first else log.warning, listed)
        except Damaged as error:
            raise RunFailed(str(error)) from error

    def _together(self, name: str) -> Stored:
        """This worker's part of a checkpoint. Raises FileNotFoundError and Damaged on all workers alike."""
        stored, problem = None, None
        try:
            stored = self._loaded(name)
        except FileNotFoundError:
            problem = ""  # this worker sees no manifest
        except Damaged as error:
            problem = str(error)
        problems = self.group.gather(problem)
        if stored is not None and problems == [None] * len(problems):
            return stored
        if problems == [""] * len(problems):
            raise FileNotFoundError(name)
        unseen = f"{self.writer.store}/{name}/{checkpoint.MANIFEST} is not seen by all workers"
        raise Damaged(next(filter(None, problems), unseen))

    def _loaded(self, name: str) -> Stored:
        found = checkpoint.opened(self.writer.store, name)
        if changed := differences(found.state.identity, dict(self.identity)):
            raise RunFailed(f"{self.writer.store}/{name} is of another run: {'; '.join(changed)}; remove it")
        by_class, shared = contents.loaded(found, self.procedure.outline, self.procedure.labels)
        return Stored(found.state, by_class, shared)

    def _strides(self, units: int) -> int:
        """So many units, rounded up to whole strides, after which all workers have computed equally many."""
        return -(-units // self.procedure.stride) * self.procedure.stride

    def _after_event(self) -> None:
        """Count a unit, or an update inside one; meet the other workers where it is time to."""
        self._events += 1
        stepped, every = self.procedure.updates == 0, self.schedule.steps
        scheduled = stepped and (self._steps == self.units.total or (every is not None and self._steps % every == 0))
        if self._events < self._pause and not scheduled:
            return
        notes = [Note(**note) for note in self.group.gather(asdict(self._note(scheduled)))]
        if problems := [note.problem for note in notes if note.problem]:
            raise RunFailed(problems[0])
        first, warned = notes[0], any(note.warned for note in notes)
        if warned and not self._warned:
            log.warning("a machine is to be taken away: saving")
        save, self._warned = first.due or first.stop or (warned and not self._warned), warned
        self._agreed, self._events, self._pause = time.monotonic(), 0, first.pause
        if save:
            self._save()
        if first.stop:
            log.info("asked to stop")
            self.finish()
            raise Stopped

    def _note(self, scheduled: bool) -> Note:
        now, minutes = time.monotonic(), self.schedule.minutes
        return Note(
            due=scheduled or now - self._saved >= minutes * 60,
            stop=self.files.stop.exists(),
            pause=self._pause_of(PACE * self._events / max(now - self._agreed, 1e-9)),
            warned=self.coordinator.warned(),
            problem=self._problem(),
        )

    def _pause_of(self, events: float) -> int:
        """Events until the next meeting, at the present pace of so many a second."""
        return self._strides(1 + int(events)) if self.schedule.minutes else 1

    def _problem(self) -> str | None:
        """A reason to stop on all workers before anything more is written."""
        try:
            self.claim.check()
        except RunFailed as error:
            return str(error)
        return self.writer.problem

    def _save(self) -> None:
        self._refuse_problem()
        metrics, updates = self.files.metrics, self.procedure.updates
        if self.group.rank == 0 and metrics.exists():
            flush(metrics)  # a checkpoint that outlives a power cut has its lines
        state = State(
            steps=self._steps,
            updates=updates,
            identity=dict(self.identity),
            tracking_run=_tracking_run(self.claim.folder),
            torch=torch.__version__,
            device=self.device,
        )
        log.info("saves after %s %d and update %d", self.units.name, self._steps, updates)
        shared = self.procedure.shared_state_dict() if self.group.rank == 0 else {}
        self.writer.begin(state, self.procedure.state_dict(), shared)
        self._saved = time.monotonic()

    def _log(self, done: int) -> None:
        self._compare_shared(done)
        self._refuse_problem()
        own = self._measured(done)
        everyone = [Measured(**measured) for measured in self.group.gather(asdict(own))]
        measured = replace(own, measures=_added([each.measures for each in everyone]))
        if self.group.rank == 0:
            entry = {
                "step": done,
                "time": time.time(),  # shown, by MLflow; nothing is measured by it
                **self.units.counters(done),
                **measured.measures,
                "steps_per_second": measured.steps_per_second,
                "waiting": max(each.waited for each in everyone) / measured.seconds,
                "reduced_bytes": sum(each.reduced for each in everyone),
            }
            with self.claim.writing():
                metrics_file.append(self.files.metrics, entry)
        values = asdict(measured)
        values |= values.pop("measures")
        log.info(", ".join([*(f"{name} %({name}).4g" for name in measured.measures), LINE]), values)
        self.observe(measured)

    def _measured(self, done: int) -> Measured:
        """The measurements of this worker since the last line."""
        before, self._logged = self._logged, self._mark(done)
        seconds = self._logged.seconds - before.seconds
        return Measured(
            step=done,
            planned=self.units.total,
            measures=self.procedure.measures(),
            seconds=seconds,
            steps_per_second=(done - before.step) / seconds,
            waited=self._logged.waited - before.waited,
            reduced=self._logged.reduced - before.reduced,
        )

    def _mark(self, done: int) -> Mark:
        return Mark(time.monotonic(), done, self.procedure.waited, self.group.reduced())

    def _compare_shared(self, done: int) -> None:
        sums = self.group.gather(self.procedure.checksum())
        if len(set(sums)) > 1:
            ranks = [r for r, x in enumerate(sums) if x != sums[0]]
            raise RunFailed(
                f"the shared state differs between workers after step {done}: ranks {ranks} disagree with rank 0. "
                "The workers' hardware or library versions differ; use equal nodes and compute.reproducible=true"
            )

    def _refuse_problem(self) -> None:
        problems = self.group.gather(self.procedure.problem(self._steps))
        if problems := [each for each in problems if each is not None]:
            raise RunFailed(min(problems)[1])


def _added(measures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Sums over workers, by name."""
    return {name: sum(each[name] for each in measures if name in each) for name in chain.from_iterable(measures)}


def _tracking_run(folder: Path) -> str | None:
    """None until the server has answered."""
    address = RunAddress.read(folder)
    return address.run_id if address else None


def _tell(text: str) -> None:
    log.warning(text)
    terminal.say(f"note: {text}")
