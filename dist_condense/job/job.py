"""One run in the driver, from its config to its report: check, compute on the workers, export, evaluate, report."""

from __future__ import annotations

import functools
import json
import logging
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from dist_condense.data import ImageSet
from dist_condense.data.reading.tiers import RAW, Choice, gib
from dist_condense.engine.coordinator import LocalCoordinator
from dist_condense.engine.errors import RunFailed
from dist_condense.engine.procedure import Outline
from dist_condense.evaluation.evaluate import TrialFailed
from dist_condense.evaluation.rows import Row, read_csv
from dist_condense.job import checkpoint, logs, preflight, resume, worker
from dist_condense.job.checkpoint import Checkpoint
from dist_condense.job.claim import Claim
from dist_condense.job.comparing import Comparison
from dist_condense.job.exporting import export, has_complete_set
from dist_condense.job.stop import Stop, Terminated
from dist_condense.result.card import SyntheticSetError
from dist_condense.result.environment import environment
from dist_condense.result.metrics_file import MetricsEntry
from dist_condense.result.progress import Follower, Notes, ProgressDisplay
from dist_condense.result.report import write_report
from dist_condense.result.summary import summary_table
from dist_condense.result.synthetic_set import PREVIEW
from dist_condense.result.tracking.tags import tags_of
from dist_condense.result.tracking.tracker import Tracker
from dist_condense.settings import assembly, procedures
from dist_condense.settings.config import RunConfig, to_dict, to_yaml
from dist_condense.settings.resolve import absolute_paths, resolved
from dist_condense.settings.run_folder import RunFolder
from dist_condense.settings.tracking_address import resolve_uri
from dist_condense.system import signals, terminal
from dist_condense.system.files import write_atomically

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """A checked, resolved run.

    ``config`` has absolute paths and no open choice (slices, threads, device) left.
    """

    config: RunConfig
    dataset: ImageSet
    remarks: list[str]
    keeping: Choice
    """Where the workers keep the real images."""
    start: Checkpoint | None = None
    """What the run continues from."""
    trusted: bool = True
    """Whether its user says where MLflow is, and not a folder of a run alone."""

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(self.config.output)

    @property
    def files(self) -> RunFolder:
        """The files in it."""
        return RunFolder(self.folder)

    @functools.cached_property
    def claim(self) -> Claim:
        """The claim of this start to the folder; shared records are written under it."""
        return Claim.new(self.folder)

    @property
    def images(self) -> str:
        """Where the workers read the real images, in words."""
        if self.config.data.tier != RAW:
            return str(self.keeping)
        raw = gib(sum(self.dataset.decoded_bytes(self.dataset.counts)))
        return f"by FFCV: {raw} raw at {self.config.dataset.root}, kept by the system's page cache alone"

    @classmethod
    def prepare(cls, config: RunConfig, how: str = resume.AUTO) -> Job:
        """Check and resolve; nothing is started or written before everything is right (ConfigError).

        :param how: see :func:`dist_condense.job.resume.found`.
        """
        dataset, remarks = preflight.check(config)  # as given: a submitted job may not have a relative output
        config = absolute_paths(config)
        start = resume.found(config, how)
        outline = procedures.outline_of(config, dataset)
        preflight.ask(config, start is not None and start.steps == outline.units.total)
        if start is None:
            preflight.headers(config, dataset, terminal.say)
        config, keeping = resolved(config, dataset, start.state.identity if start else preflight.earlier(config))
        dataset = assembly.settled(config, dataset)
        resume.check(config, dataset, start)
        remarks += [*_idle_cores(config), *_other_machine(start, config)]
        return cls(config, dataset, remarks, keeping, start)

    def run(self) -> None:
        """Condense, evaluate, report; a finished part is not done again. Raises RunFailed."""
        signals.begun()
        self._write_start()
        with logs.kept(self.folder, self.claim.start, logger=__name__):
            self._run()
        self._say_where()

    def _run(self) -> None:
        log.info("begins; the run's folder is %s", self.folder)
        tracker = self._tracker()
        status: str | None = "FAILED"
        try:
            self._condense(tracker)
            rows = self._evaluate(tracker)
            self._report(rows, tracker)
            status = "FINISHED"
        finally:
            tracker.finish(None if self.claim.lost else status)  # the run on the server is the new owner's
            if tracker.remedy is not None:
                terminal.say(f"tracking is not complete; {tracker.remedy}")

    @functools.cached_property
    def outline(self) -> Outline:
        """The outline of the procedure."""
        return procedures.outline_of(self.config, self.dataset)

    def _after(self, done: int) -> str:
        """``matching step 3 of 20``."""
        return f"{self.outline.units.name} {done} of {self.outline.units.total}"

    def where_it_continues(self) -> str:
        """What the same command would do now."""
        try:
            found = checkpoint.newest(assembly.storage_of(self.config))
        except OSError:  # a store that is away
            return "the same command continues from the newest checkpoint once the store answers"
        if found is None:
            return "no checkpoint was due yet (tracking.checkpoint_minutes), so the same command starts over"
        if found.steps == self.outline.units.total and has_complete_set(self.folder):
            rows = RunFolder.evaluation.name
            return f"the set is complete; the same command trains the networks that have no row in {rows}"
        return f"the same command continues after {self.outline.units.name} {found.steps}"

    # --- condensation ---------------------------------------------------------------------------------------------

    def _condense(self, tracker: Tracker) -> None:
        found, units = self.start, self.outline.units
        if found and found.steps == units.total and has_complete_set(self.folder):
            terminal.say(f"the set is complete after {units.name} {units.total}; {self.files.synthetic_set} is kept")
            return
        if found:
            terminal.say(f"resuming after {self._after(found.steps)} in all")
        try:
            with self._following(tracker), Stop(self.folder) as stop:
                self._workers()
        except RunFailed as error:
            self.claim.check()
            raise RunFailed(*terminal.lines_of(error), self._kept()) from error
        done = self._export()
        log.info("the set of %s is written", self._after(done))
        if done < units.total or stop.by is not None:
            raise _unfinished(stop, self._after(done))
        tracker.log_artifacts(self.files.synthetic_set)

    def _kept(self) -> str:
        """Export the last checkpoint of a failed run where the disk has room; a sentence about what is kept."""
        try:
            steps = self._export()
        except RunFailed as error:
            return f"no set is written: {error}"
        except (SyntheticSetError, OSError) as error:
            return f"{error}; {self.where_it_continues()}"
        if steps == 0:
            return "no set was finished before; nothing was overwritten"
        name = f"{self.outline.units.name} {steps}"
        return f"the set of {name} is kept in {self.files.synthetic_set}; the same command continues from there"

    def _workers(self) -> None:
        cluster, compute = self.config.cluster, self.config.compute
        if cluster.workers == 0:
            alone = LocalCoordinator(bool(compute.reproducible))
            worker.work(self.config, alone, torch.device(cluster.device), claim=self.claim)
            return
        from dist_condense.engine.ray.group import Group, launch

        group = Group(
            cluster.workers,
            compute.threads or 1,
            cluster.device == "cuda",
            bool(compute.reproducible),
            cluster.max_failures,
            cluster.timeout,
            cluster.min_workers,
        )
        launch(functools.partial(worker.work, claim=self.claim), self.config, group, self.folder, self.files.restarts)

    @contextmanager
    def _following(self, tracker: Tracker) -> Iterator[None]:
        """Follow metrics.jsonl for progress and MLflow, and the notes on restarts of the worker group."""

        def send(entries: Sequence[MetricsEntry]) -> None:
            if not self.claim.lost:  # looked at after the lines were read, so all of them are this start's
                tracker.log_metrics(entries)

        with ProgressDisplay(self.outline.units) as progress:
            metrics = self.files.metrics
            # What an earlier start left beyond its checkpoint is done again; a person would take its lines for now.
            followers = [Follower(metrics, send), Follower(metrics, progress, skip=True)]
            if self.config.cluster.max_failures:
                followers.append(Notes(self.files.restarts, _tell_failure))
            for follower in followers:
                follower.start()
            try:
                yield
            finally:
                for follower in followers:
                    follower.stop()

    def _export(self) -> int:
        """Write the set of the newest checkpoint; the number of its units."""
        return export(self.config, self.dataset, self.outline, self.claim)

    # --- evaluation -----------------------------------------------------------------------------------------------

    def _evaluate(self, tracker: Tracker) -> list[Row]:
        if self.config.evaluation.epochs == 0:
            return []
        try:
            rows = self.comparison.rows()
        except Exception as error:  # the data may be gone as well
            self._report(self._evaluated(tracker), tracker)
            if not isinstance(error, TrialFailed):
                raise
            first, *others = terminal.lines_of(error)
            kept = f"finished rows are in {self.files.evaluation}"
            raise RunFailed(f"evaluation: {first}", *others, kept) from error
        self._evaluated(tracker)
        return rows

    def _evaluated(self, tracker: Tracker) -> list[Row]:
        """Send all rows of evaluation.csv to the tracker, also those of earlier calls."""
        self.claim.check()
        rows = read_csv(self.files.evaluation)
        tracker.log_evaluations(rows)
        return rows

    @functools.cached_property
    def comparison(self) -> Comparison:
        """The sets that networks are trained on."""
        budget = self.keeping.budget
        return Comparison(self.config, self.dataset, claim=self.claim, budget=budget, run=self._run_another)

    def _run_another(self, config: RunConfig) -> None:
        replace(Job.prepare(config), trusted=self.trusted).run()

    # --- what a person reads --------------------------------------------------------------------------------------

    def _write_start(self) -> None:
        self.claim.take()
        machine = (json.dumps(environment(), indent=1) + "\n").encode()
        with self.claim.writing():
            resume.bring(self.config, self.start)
            write_atomically(self.files.config, to_yaml(self.config).encode())
            write_atomically(self.files.environment, machine)
        for remark in self.remarks:
            terminal.say(f"note: {remark}")
        terminal.say(f"images   {self.images}")

    def _tracker(self) -> Tracker:
        uri = resolve_uri(self.config.tracking.uri, self.folder)
        terminal.say(f"output {self.folder}", f"tracking {uri}")
        start = self.start
        is_own = start is not None and start.store == assembly.storage_of(self.config)
        return Tracker.start(
            uri,
            experiment=self.config.tracking.experiment,
            params=to_dict(self.config),
            tags=tags_of(self.folder),
            folder=self.folder,
            run_id=start.state.tracking_run if start and is_own else None,
            trusted=self.trusted,
        )

    def _report(self, rows: list[Row], tracker: Tracker) -> None:
        earlier = [row for row in read_csv(self.files.evaluation) if row not in rows]
        with self.claim.writing():
            report = write_report(self.folder, rows)
        if rows:
            terminal.console(stderr=True).print(summary_table([*rows, *earlier]))
        tracker.log_artifacts(report)

    def _say_where(self) -> None:
        preview = self.files.synthetic_set / PREVIEW
        report = self.files.report
        terminal.say(f"set      {self.files.synthetic_set}", f"preview  {preview}", f"report   {report}")
        uri = resolve_uri(self.config.tracking.uri, self.folder)
        served = uri.startswith(("http://", "https://"))
        command = [str(Path(sys.executable).parent / "mlflow"), "ui", "--backend-store-uri", uri]
        terminal.say(f"compare  {uri if served else shlex.join(command)}")


def _idle_cores(config: RunConfig) -> Iterator[str]:
    cluster, cores = config.cluster, torch.get_num_threads()
    if (cluster.workers, cluster.device, config.compute.threads) == (0, "cpu", 1) and cores > 1:
        yield (
            f"one of {cores} cores computes: cluster.workers={cores} uses them all and gives the same set, "
            f"compute.threads={cores} one with other last bits"
        )


def _other_machine(start: Checkpoint | None, config: RunConfig) -> Iterator[str]:
    if start is None:
        return
    state = start.state
    if (state.torch, state.device) != (torch.__version__, config.cluster.device):
        yield (
            f"the run was begun with torch {state.torch} on {state.device} and goes on with torch {torch.__version__} "
            f"on {config.cluster.device}: the set will not be the same to the last bit"
        )


def _unfinished(stop: Stop, reached: str) -> Exception:
    """Why the run ends here, as far as the driver knows."""
    if stop.by is not None:
        told = f"stopped by {stop.by} after {reached}; the same command continues"
        return Terminated(told, stop.number)
    return RunFailed(
        f"the workers have ended and nobody asked them to, but the newest whole checkpoint is that of "
        f"{reached}: a later one was lost or damaged; the same command continues from there"
    )


def _tell_failure(line: str) -> None:
    terminal.say(f"the worker group failed: {line}")
    log.warning("the worker group failed: %s", line)
