"""Records of a running procedure (metrics.jsonl and checkpoints), written after its units and updates."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from dist_condense.engine.coordinator import Coordinator
from dist_condense.engine.errors import RunFailed
from dist_condense.engine.observer import Measured, Observer, unobserved
from dist_condense.engine.procedure import Procedure, Units
from dist_condense.job.checkpoint import State
from dist_condense.job.checkpoint_writer import CheckpointWriter
from dist_condense.job.claim import Claim
from dist_condense.job.restoring import Loader
from dist_condense.result import metrics_file
from dist_condense.result.stages import Stages
from dist_condense.result.tracking.server_run import RunAddress
from dist_condense.settings.run_folder import RunFolder
from dist_condense.system.files import flush

PACE = 1.0
"""Approximate seconds between two meetings of the workers, and thus the maximum delay of a request to stop."""
LINE = "%(steps_per_second).3g steps/s, waited %(waited).3g s, reduced %(reduced)d bytes"
log = logging.getLogger(__name__)


class Stopped(Exception):
    """Exception that ends the procedure after a request to stop, once the state is saved."""


@dataclass(frozen=True)
class Intervals:
    """Intervals at which metrics and checkpoints are written.

    :param log_every: number of units between two entries of metrics.jsonl. There is an entry after the first unit as
        well, whose rate includes compiling, and one after the last.
    :param steps: number of units between two checkpoints; None for checkpoints by time only.
    :param minutes: maximum number of minutes between two checkpoints; 0 for one after every unit and update.
    """

    log_every: int = 10
    steps: int | None = None
    minutes: float = 5.0


@dataclass(frozen=True)
class Note:
    """Report of one worker at a meeting, in which all workers agree whether to save and whether to stop.

    For ``due``, ``stop`` and ``pause``, rank 0 decides by its own clock and its view of the folder.
    """

    _: KW_ONLY
    due: bool
    """Whether a checkpoint is due."""
    stop: bool
    """Whether a stop of the run is requested."""
    pause: int
    """Number of units and updates until the next meeting."""
    warned: bool
    """Whether a machine is about to be withdrawn."""
    problem: str | None
    """Reason why nothing more may be written; None if there is none."""


@dataclass(frozen=True)
class Mark:
    """Counters of a worker at the latest entry of metrics.jsonl."""

    seconds: float = 0.0
    """Time on a monotonic clock, in seconds."""
    step: int = 0
    """Number of completed units."""
    waited: float = 0.0
    """Seconds spent waiting for images so far."""
    reduced: int = 0
    """Number of bytes that the worker has contributed to reductions so far."""


@dataclass
class Journal:
    """Record of a run, called by every worker after each unit of the procedure and each update inside a unit.

    After the first unit and every ``log_every`` units the workers sum their measurements. About once a second they meet
    and agree whether to save and whether to stop, so that all workers do so at the same point.

    :param claim: this start's claim to the run's folder, under which everything is written.
    :param identity: everything that determines the result, see :class:`State`.
    :param coordinator: coordinator of the procedure, which receives the number of completed units and warns before a
        machine is withdrawn.
    :param group: separate coordinator of the same workers, used by the journal only.
    :param device: type of the compute device.
    :param stages: writer of pictures for the report; None for none.
    :param observe: called on every worker with the measurements of each entry of metrics.jsonl.
    """

    _: KW_ONLY
    claim: Claim
    procedure: Procedure
    identity: Mapping[str, Any]
    coordinator: Coordinator
    group: Coordinator
    writer: CheckpointWriter
    device: str
    intervals: Intervals = field(default_factory=Intervals)
    stages: Stages | None = None
    observe: Observer = unobserved
    _steps: int = 0
    _logged: Mark = Mark()
    """Counters at the latest entry of metrics.jsonl."""
    _saved: float = 0.0
    """Time of the latest checkpoint, on a monotonic clock."""
    _met: float = 0.0
    """Time of the latest meeting, on a monotonic clock."""
    _events: int = 0
    """Number of units and updates since the latest meeting."""
    _pause: int = 1
    """Number of units and updates between the latest meeting and the next one."""
    _warned: bool = False
    """Whether a machine is about to be withdrawn; the first warning makes the workers save."""

    @property
    def files(self) -> RunFolder:
        return RunFolder(self.claim.folder)

    @property
    def units(self) -> Units:
        return self.procedure.outline.units

    def resume(self) -> int:
        """Load the newest intact checkpoint, if there is one, and return the number of completed units."""
        stored = Loader(self.writer.store, self.group, self.procedure, self.identity).newest()
        if self.group.rank == 0:
            with self.claim.writing():
                metrics_file.cut(self.files.metrics, stored.metadata.steps if stored else 0)
        if stored is not None:
            self.procedure.load_state_dict(stored.by_class, stored.shared, stored.metadata.updates)
            self._steps = stored.metadata.steps
        self.coordinator.reached(self._steps)
        self.procedure.after_updates(self._after_event)
        self._picture()
        log.info("starts after %s %d", self.units.name, self._steps)
        now = time.monotonic()
        self._logged, self._saved, self._met, self._pause = self._mark(self._steps), now, now, self._pause_of(0)
        return self._steps

    def after_step(self, done: int) -> None:
        """Record that ``done`` units are complete; log them, meet the other workers and save if that is due."""
        self._steps = done
        self.coordinator.reached(done)
        self._picture()
        is_first = done == self.procedure.stride == 1
        if is_first or done % self._strides(self.intervals.log_every) == 0 or done == self.units.total:
            self._log(done)
        self._after_event()

    def finish(self) -> None:
        """Wait until the latest checkpoint is written. Raises RunFailed if it could not be written."""
        self.writer.wait()
        if self.writer.problem:
            raise RunFailed(self.writer.problem)

    def _picture(self) -> None:
        if self.stages is not None:
            self.stages.write(self._steps, self.procedure.labels, self.procedure.state_dict)

    # --- meetings, metrics and checkpoints ------------------------------------------------------------------------

    def _strides(self, units: int) -> int:
        """Round ``units`` up to a multiple of the procedure's stride.

        At such a multiple, all workers have completed the same number of units.
        """
        return -(-units // self.procedure.stride) * self.procedure.stride

    def _after_event(self) -> None:
        """Count a completed unit, or update inside a unit, and meet the other workers if a meeting is due.

        Saves if the workers agree to. Raises Stopped after a request to stop, and RunFailed if a worker has a problem.
        """
        self._events += 1
        stepped, every = self.procedure.updates == 0, self.intervals.steps
        scheduled = stepped and (self._steps == self.units.total or (every is not None and self._steps % every == 0))
        if self._events < self._pause and not scheduled:
            return
        notes = [Note(**note) for note in self.group.gather(asdict(self._note(scheduled)))]
        if problems := [note.problem for note in notes if note.problem]:
            raise RunFailed(problems[0])
        first, warned = notes[0], any(note.warned for note in notes)
        if warned and not self._warned:
            log.warning("a machine is about to be withdrawn: saving")
        save, self._warned = first.due or first.stop or (warned and not self._warned), warned
        self._met, self._events, self._pause = time.monotonic(), 0, first.pause
        if save:
            self._save()
        if first.stop:
            log.info("asked to stop")
            self.finish()
            raise Stopped

    def _note(self, scheduled: bool) -> Note:
        now, minutes = time.monotonic(), self.intervals.minutes
        return Note(
            due=scheduled or now - self._saved >= minutes * 60,
            stop=self.files.stop.exists(),
            pause=self._pause_of(PACE * self._events / max(now - self._met, 1e-9)),
            warned=self.coordinator.warned(),
            problem=self._problem(),
        )

    def _pause_of(self, events: float) -> int:
        """Return the number of units and updates until the next meeting.

        :param events: expected number of units and updates within :data:`PACE` seconds.
        """
        return self._strides(1 + int(events)) if self.intervals.minutes else 1

    def _problem(self) -> str | None:
        """Return a reason why all workers must stop before they write anything more; None if there is none."""
        try:
            self.claim.check()
        except RunFailed as error:
            return str(error)
        return self.writer.problem

    def _save(self) -> None:
        self._refuse_problem()
        metrics, updates = self.files.metrics, self.procedure.updates
        if self.group.rank == 0 and metrics.exists():
            flush(metrics)  # entries before a checkpoint must survive a power cut, like the checkpoint itself
        state = State(
            steps=self._steps,
            updates=updates,
            identity=dict(self.identity),
            tracking_run=_tracking_run(self.claim.folder),
            torch=torch.__version__,
            device=self.device,
        )
        log.info("saving after %s %d and update %d", self.units.name, self._steps, updates)
        shared = self.procedure.shared_state_dict() if self.group.rank == 0 else {}
        self.writer.begin(state, self.procedure.state_dict(), shared)
        self._saved = time.monotonic()

    def _log(self, done: int) -> None:
        self._compare_shared(done)
        self._refuse_problem()
        own = self._measured(done)
        all_measured = [Measured(**measured) for measured in self.group.gather(asdict(own))]
        sums = _added([each.measures for each in all_measured])
        measured = replace(own, measures=self.procedure.measured(sums))
        if self.group.rank == 0:
            entry = {
                "step": done,
                "time": time.time(),  # shown by MLflow, not used for measurements
                **self.units.counters(done),
                **measured.measures,
                "steps_per_second": measured.steps_per_second,
                "waiting": max(each.waited for each in all_measured) / measured.seconds,
                "reduced_bytes": sum(each.reduced for each in all_measured),
            }
            with self.claim.writing():
                metrics_file.append(self.files.metrics, entry)
        values = asdict(measured)
        values |= values.pop("measures")
        log.info(", ".join([*(f"{name} %({name}).4g" for name in measured.measures), LINE]), values)
        self.observe(measured)

    def _measured(self, done: int) -> Measured:
        """Return this worker's measurements since the latest entry of metrics.jsonl, and start the next interval."""
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
    """Return the sum of each term over all workers, by name."""
    return {name: sum(each[name] for each in measures if name in each) for name in chain.from_iterable(measures)}


def _tracking_run(folder: Path) -> str | None:
    """Return the identifier of the run on the MLflow server; None before the server has answered."""
    address = RunAddress.read(folder)
    return address.run_id if address else None
