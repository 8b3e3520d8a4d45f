"""What a run writes while it goes: metrics.jsonl (the truth) and checkpoints. Beside Algorithm 1, never in it."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from dist_condense.engine.coordinator import Coordinator
from dist_condense.engine.errors import RunFailed
from dist_condense.engine.finite import Finding, What
from dist_condense.engine.observer import Measured, Observer, unobserved
from dist_condense.engine.shard import ClassShard
from dist_condense.engine.trajectory import Trajectory
from dist_condense.job import checkpoint
from dist_condense.job.checkpoint import Checkpoint, State
from dist_condense.job.checkpoint_writer import CheckpointWriter
from dist_condense.job.claim import Claim
from dist_condense.result import metrics_file
from dist_condense.result.tracking import Address
from dist_condense.settings.run_folder import RunFolder
from dist_condense.system import terminal
from dist_condense.system.files import flush

PACE = 1.0
"""Seconds between two agreements of the workers: so late a request to stop is seen."""
LINE = "matching loss %(loss).4g, %(steps_per_second).3g steps/s, waited %(waited).3g s, reduced %(reduced)d bytes"
log = logging.getLogger(__name__)


class Stopped(Exception):
    """The run was asked to stop, and has saved its state."""


@dataclass(frozen=True)
class Schedule:
    """How often something is written.

    :param log_every: matching steps between two lines of metrics.jsonl.
    :param steps: matching steps between two checkpoints; None: by time alone.
    :param minutes: at most so long between two checkpoints.
    """

    log_every: int = 10
    steps: int | None = None
    minutes: float = 5.0


@dataclass(frozen=True)
class Note:
    """What a worker tells the others; rank 0's clock and its view of the folder count."""

    due: bool
    """A checkpoint is."""
    stop: bool
    pause: int
    """Steps and updates until the next notes."""
    warned: bool
    """A machine is to be taken away."""
    problem: str | None


@dataclass(frozen=True)
class Mark:
    """What a worker had counted when a line was written."""

    seconds: float = 0.0
    """By a clock that never jumps."""
    step: int = 0
    waited: float = 0.0
    """Seconds, for images."""
    reduced: int = 0
    """Bytes."""


@dataclass
class Journal:
    """Called by every worker after each matching step and after each update of theta.

    Every ``log_every`` steps the workers compare notes; about once a second they agree whether to save and whether to
    stop, so that all do it at the same place.

    :param matching_steps: T, to tell (k, t) from the step.
    :param total: K T.
    :param names: class names by label, for messages.
    :param identity: all that changes the result, see :class:`State`.
    :param claim: of this start to ``folder``, which every write there is made by.
    :param line: between the workers, of its own.
    :param observe: told of each line of metrics.jsonl, on every worker.
    """

    claim: Claim
    shard: ClassShard
    trajectory: Trajectory
    matching_steps: int
    total: int
    names: Sequence[str]
    identity: Mapping[str, Any]
    line: Coordinator
    writer: CheckpointWriter
    schedule: Schedule = field(default_factory=Schedule)
    observe: Observer = unobserved
    _steps: int = 0
    _logged: Mark = Mark()
    """Of the last line."""
    _saved: float = 0.0
    _agreed: float = 0.0
    _events: int = 0
    """Since the workers agreed last."""
    _pause: int = 1
    """Events until they agree again."""
    _warned: bool = False
    """Whether a machine is to be taken away; a checkpoint is written when this is first heard."""

    @property
    def files(self) -> RunFolder:
        """The run's."""
        return RunFolder(self.claim.folder)

    def resume(self) -> int:
        """Load the newest whole checkpoint if there is one; the number of matching steps already done."""
        found = self._found()
        if self.line.rank == 0:
            with self.claim.writing():
                metrics_file.cut(self.files.metrics, found.steps if found else 0)
        if found is not None:
            self.shard.load_state_dict(found.classes(self.shard.labels))
            self.trajectory.load_state_dict(found.shared())
            self.trajectory.updates = found.state.updates
            self._steps = found.steps
        self.shard.coordinator.reached(self._steps)
        self.trajectory.after_update = self._after_event
        log.info("begins after matching step %d", self._steps)
        now = time.monotonic()
        self._logged, self._saved, self._agreed = self._mark(self._steps), now, now
        return self._steps

    def after_step(self, done: int) -> None:
        """``done`` matching steps are complete."""
        self._steps = done
        self.shard.coordinator.reached(done)
        if done % self.schedule.log_every == 0 or done == self.total:
            self._log(done)
        self._after_event()

    def finish(self) -> None:
        """Wait for the last checkpoint. Raises RunFailed if it could not be written."""
        self.writer.wait()
        if self.writer.problem:
            raise RunFailed(self.writer.problem)

    # --- the parts ------------------------------------------------------------------------------------------------

    def _found(self) -> Checkpoint | None:
        """As rank 0 finds it, so that all load the same one."""
        store = self.writer.store
        own = checkpoint.newest(store, _tell) if self.line.rank == 0 else None
        name = self.line.gather(own.name if own else None)[0]
        return own or (checkpoint.opened(store, name) if name else None)

    def _after_event(self) -> None:
        """A matching step or an update of theta is complete."""
        self._events += 1
        stepped, every = self.trajectory.updates == 0, self.schedule.steps
        scheduled = stepped and (self._steps == self.total or (every is not None and self._steps % every == 0))
        if self._events < self._pause and not scheduled:
            return
        notes = [Note(**note) for note in self.line.gather(asdict(self._note(scheduled)))]
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
        pause = 1 + int(PACE * self._events / max(now - self._agreed, 1e-9)) if minutes else 1
        return Note(
            due=scheduled or now - self._saved >= minutes * 60,
            stop=self.files.stop.exists(),
            pause=pause,
            warned=self.shard.coordinator.warned(),
            problem=self._problem(),
        )

    def _problem(self) -> str | None:
        """What all must know of before anything more is written."""
        try:
            self.claim.check()
        except RunFailed as error:
            return str(error)
        return self.writer.problem

    def _save(self) -> None:
        self._refuse_not_finite()
        metrics, device = self.files.metrics, self.trajectory.trainer.placement.device
        if self.line.rank == 0 and metrics.exists():
            flush(metrics)  # a checkpoint that outlives a power cut has its lines
        state = State(
            steps=self._steps,
            updates=self.trajectory.updates,
            identity=dict(self.identity),
            tracking_run=_tracking_run(self.claim.folder),
            torch=torch.__version__,
            device=device.type,
        )
        log.info("saves after matching step %d and update %d", self._steps, self.trajectory.updates)
        shared = self.trajectory.state_dict() if self.line.rank == 0 else {}
        self.writer.begin(state, self.shard.state_dict(), shared)
        self._saved = time.monotonic()

    def _log(self, done: int) -> None:
        self._compare_networks(done)
        self._refuse_not_finite()
        own = self._measured(done)
        everyone = [Measured(**measured) for measured in self.line.gather(asdict(own))]
        measured = replace(own, loss=sum(each.loss for each in everyone))
        if self.line.rank == 0:
            k, t = divmod(done - 1, self.matching_steps)
            entry = {
                "step": done,
                "time": time.time(),  # shown, by MLflow; nothing is measured by it
                "network": k,
                "matching_step": t,
                "loss": measured.loss,
                "steps_per_second": measured.steps_per_second,
                "waiting": max(each.waited for each in everyone) / measured.seconds,
                "reduced_bytes": sum(each.reduced for each in everyone),
            }
            with self.claim.writing():
                metrics_file.append(self.files.metrics, entry)
        log.info(LINE, asdict(measured))
        self.observe(measured)

    def _measured(self, done: int) -> Measured:
        """By this worker alone; its ``loss`` is that of its own classes."""
        before, self._logged = self._logged, self._mark(done)
        seconds = self._logged.seconds - before.seconds
        return Measured(
            step=done,
            planned=self.total,
            loss=sum(float(x) for x in self.shard.losses.values()),
            seconds=seconds,
            steps_per_second=(done - before.step) / seconds,
            waited=self._logged.waited - before.waited,
            reduced=self._logged.reduced - before.reduced,
        )

    def _mark(self, done: int) -> Mark:
        waited = self.shard.source.waited + self.trajectory.batches.waited
        return Mark(time.monotonic(), done, waited, self.line.reduced())

    def _compare_networks(self, done: int) -> None:
        sums = self.line.gather(self.trajectory.checksum())
        if len(set(sums)) > 1:
            ranks = [r for r, x in enumerate(sums) if x != sums[0]]
            raise RunFailed(
                f"the network differs between workers after step {done}: ranks {ranks} disagree with rank 0. "
                "The workers' hardware or library versions differ; use equal nodes and cluster.reproducible=true"
            )

    def _refuse_not_finite(self) -> None:
        own = self.shard.first_not_finite(self.trajectory.network, self._steps)
        found = self.line.gather(None if own is None else asdict(own))
        if bad := [Finding(**{**each, "what": What(each["what"])}) for each in found if each is not None]:
            raise RunFailed(min(bad).told(self.matching_steps, self.names))


def _tracking_run(folder: Path) -> str | None:
    """None until the server has answered."""
    address = Address.read(folder)
    return address.run_id if address else None


def _tell(text: str) -> None:
    log.warning(text)
    terminal.say(f"note: {text}")
