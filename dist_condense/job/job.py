"""Execution of one run by the driver: check, compute on the workers, export, evaluate and report."""

from __future__ import annotations

import functools
import json
import logging
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, replace
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
from dist_condense.job.exporting import describe, export, set_problem
from dist_condense.job.stop import Stop, Terminated
from dist_condense.result import stages
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
from dist_condense.settings.config import RunConfig, read, to_dict, to_yaml
from dist_condense.settings.resolve import absolute_paths, resolved
from dist_condense.settings.run_folder import RunFolder
from dist_condense.settings.tracking_address import resolve_uri
from dist_condense.system import signals, terminal
from dist_condense.system.credentials import address
from dist_condense.system.files import write_atomically

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One run, with its checked and resolved config.

    :param config: config with absolute paths and definite values for slices, threads and device.
    :param remarks: notes for the user that do not stop the run.
    """

    config: RunConfig
    dataset: ImageSet
    _: KW_ONLY
    remarks: list[str]
    keeping: Choice
    """Tier in which the workers keep the real images, and its memory budget."""
    start: Checkpoint | None = None
    """Checkpoint selected by :meth:`prepare`; an older one replaces it if it proves to be damaged when it is copied."""
    how: str = resume.AUTO
    """Value of the option ``--resume``, see :func:`dist_condense.job.resume.select`."""
    trusted: bool = True
    """Whether the address of MLflow comes from the user, rather than from an untrusted run folder."""
    verified: bool = False
    """Whether all pixels of the set in the run's folder have just been verified, which reads it twice."""

    @property
    def folder(self) -> Path:
        return Path(self.config.output)

    @property
    def files(self) -> RunFolder:
        return RunFolder(self.folder)

    @functools.cached_property
    def claim(self) -> Claim:
        """This start's claim to the run's folder, under which shared records are written."""
        return Claim.new(self.folder)

    @property
    def images(self) -> str:
        """Description of where the workers keep the real images, printed for the user."""
        if self.config.data.tier != RAW:
            return str(self.keeping)
        raw = gib(sum(self.dataset.decoded_bytes(self.dataset.counts)))
        return f"by FFCV: {raw} raw at {self.config.dataset.root}, kept by the system's page cache alone"

    @classmethod
    def prepare(cls, config: RunConfig, how: str = resume.AUTO) -> Job:
        """Check and resolve a config, and return its job; no computation is started, and nothing is written.

        :param how: value of the option ``--resume``, see :func:`dist_condense.job.resume.select`.
        :raises ConfigError: the config has problems, all of which are listed.
        """
        dataset, remarks = preflight.check(config)  # before paths change: a submitted job needs an absolute output
        config, how = absolute_paths(config), address(os.path.expanduser(how))
        start = resume.select(config, how)
        outline = procedures.outline_of(config, dataset)
        is_complete = start is not None and start.steps == outline.units.total
        preflight.probe(config, is_complete)
        earlier = {**(start.state.identity if start else {}), **preflight.earlier(config)}
        if start is None:
            preflight.headers(config, dataset, terminal.say)
        config, keeping = resolved(config, dataset, earlier, is_complete)
        dataset = assembly.settled(config, dataset)
        resume.check(config, dataset, start, how)
        if not is_complete:
            remarks += preflight.remarks(config, start.state if start else None)
        return cls(config, dataset, remarks=remarks, keeping=keeping, start=start, how=how)

    def run(self) -> None:
        """Condense, evaluate and report; completed work is not repeated. Raises RunFailed if the run fails."""
        signals.writing_starts()
        start = self._write_start()
        with logs.kept(self.folder, self.claim.start, logger=__name__):
            self._run(start)
        self._say_where()

    def _run(self, start: Checkpoint | None) -> None:
        log.info("starts; the run's folder is %s", self.folder)
        tracker = self._tracker()
        status: str | None = "FAILED"
        try:
            self._condense(tracker, start)
            rows = self._evaluate(tracker)
            self._report(rows, tracker)
            self._describe(tracker)
            status = "FINISHED"
        finally:
            tracker.finish(None if self.claim.lost else status)  # a new owner continues the run on the server
            if tracker.remedy is not None:
                terminal.event(f"tracking is not complete; {tracker.remedy}")

    @functools.cached_property
    def outline(self) -> Outline:
        return procedures.outline_of(self.config, self.dataset)

    def _after(self, done: int) -> str:
        """Describe the progress after ``done`` units, for example ``matching step 3 of 20``."""
        return f"{self.outline.units.name} {done} of {self.outline.units.total}"

    def where_it_continues(self) -> str:
        """Return a clause for the user that states from which point the same command would now continue the run."""
        try:
            newest = checkpoint.newest(assembly.storage_of(self.config))
        except OSError:  # an unreachable store
            return "the same command continues from the newest checkpoint once the store answers"
        except checkpoint.Damaged as error:
            return str(error)
        if newest is None:
            return "no checkpoint was due yet (tracking.checkpoint_minutes), so the same command starts over"
        if newest.steps == self.outline.units.total and set_problem(self.config, self.dataset, verify=False) is None:
            if self.config.evaluation.epochs == 0:
                return "the set is complete, and no evaluation was asked for"
            rows = RunFolder.evaluation.name
            return f"the set is complete; the same command trains the networks that have no row in {rows}"
        return f"the same command continues after {self.outline.units.name} {newest.steps}"

    # --- condensation ---------------------------------------------------------------------------------------------

    def _condense(self, tracker: Tracker, start: Checkpoint | None) -> None:
        units = self.outline.units
        if start and start.steps == units.total:
            problem = set_problem(self.config, self.dataset, verify=not self.verified)
            if problem is None:
                terminal.say(
                    f"the set is complete after {units.name} {units.total}; {self.files.synthetic_set} is kept"
                )
                return
            if self.files.synthetic_set.exists():
                terminal.event(f"note: the set is written again from the checkpoint: {problem}")
        if start:
            terminal.event(f"resuming after {self._after(start.steps)} in all")
        try:
            with self._following(tracker), Stop(self.folder) as stop:
                self._workers()
        except RunFailed as error:
            self.claim.check()
            raise RunFailed(*terminal.lines_of(error), self._kept()) from error
        done = self._export()
        tracker.log_params(to_dict(read(self.files.config)))  # with the microbatch that the workers chose
        log.info("the set of %s is written", self._after(done))
        if done < units.total or stop.by is not None:
            raise _unfinished(stop, self._after(done))
        tracker.log_artifacts(self.files.synthetic_set)

    def _kept(self) -> str:
        """Export the last checkpoint of a failed run if possible, and return a sentence about the resulting set."""
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
            workers=cluster.workers,
            threads=compute.threads or 1,
            gpu=cluster.device == "cuda",
            reproducible=bool(compute.reproducible),
            max_failures=cluster.max_failures,
            timeout=cluster.timeout,
            min_workers=cluster.min_workers,
        )
        work = functools.partial(worker.work, claim=self.claim)
        launch(work, self.config, group, folder=self.folder, restarts=self.files.restarts)

    @contextmanager
    def _following(self, tracker: Tracker) -> Iterator[None]:
        """Report progress within the context.

        New entries of metrics.jsonl are displayed and sent to MLflow. Failures of the worker group are printed, and
        what its first worker logs for people.
        """

        def send(entries: Sequence[MetricsEntry]) -> None:
            if not self.claim.lost:  # checked after the entries were read, so all of them are of this start
                tracker.log_metrics(entries)

        with ProgressDisplay(self.outline.units) as progress:
            metrics = self.files.metrics
            # The display skips entries of an earlier start: those after its checkpoint are repeated, and no progress.
            followers = [Follower(metrics, send), Follower(metrics, progress, skip=True)]
            if self.config.cluster.max_failures:
                followers.append(Notes(self.files.restarts, _report_failure))
            if self.config.cluster.workers:
                followers.append(Notes(self.files.logs / logs.FIRST, logs.repeat))
            for follower in followers:
                follower.start()
            try:
                yield
            finally:
                for follower in followers:
                    follower.stop()

    def _export(self) -> int:
        return export(self.config, self.dataset, self.outline, self.claim)

    # --- evaluation -----------------------------------------------------------------------------------------------

    def _evaluate(self, tracker: Tracker) -> list[Row]:
        if self.config.evaluation.epochs == 0:
            return []
        try:
            rows = self.comparison.rows()
        except Exception as error:  # including missing data
            self._report(self._evaluated(tracker), tracker)
            self._describe(tracker)
            if not isinstance(error, TrialFailed):
                raise
            first, *others = terminal.lines_of(error)
            kept = f"finished rows are in {self.files.evaluation}"
            raise RunFailed(f"evaluation: {first}", *others, kept) from error
        self._evaluated(tracker)
        return rows

    def _evaluated(self, tracker: Tracker) -> list[Row]:
        """Send all rows of evaluation.csv, including rows of earlier starts, to the tracker, and return them."""
        self.claim.check()
        rows = read_csv(self.files.evaluation)
        tracker.log_evaluations(rows)
        return rows

    @functools.cached_property
    def comparison(self) -> Comparison:
        """Evaluation of the run's set and of the sets for comparison."""
        budget = self.keeping.budget
        return Comparison(self.config, self.dataset, claim=self.claim, budget=budget, run=self._run_another)

    def _run_another(self, config: RunConfig) -> None:
        replace(Job.prepare(config), trusted=self.trusted).run()

    # --- output and tracking ---------------------------------------------------------------------------------------

    def _write_start(self) -> Checkpoint | None:
        """Take ownership of the run's folder, write its initial files, and return the checkpoint to continue from."""
        self.claim.take()
        train, test = self.dataset.train_split, self.dataset.test_split
        digests = {"data": train.digest(), "test_data": test.digest() if test.counts else None}
        recorded = {**environment(), **digests}
        machine = (json.dumps(recorded, indent=1) + "\n").encode()
        with self.claim.writing():
            start = resume.copy(self.config, self.dataset, self.start, self.how)
            stages.cut(self.folder, start.steps if start else -1)
            write_atomically(self.files.config, to_yaml(self.config).encode())
            write_atomically(self.files.environment, machine)
        for remark in self.remarks:
            terminal.say(f"note: {remark}")
        terminal.say(f"images   {self.images}")
        return start

    def _tracker(self) -> Tracker:
        uri = resolve_uri(self.config.tracking.uri, self.folder)
        terminal.say(f"output   {self.folder}", f"tracking {uri}")
        is_own = self.start is not None and self.start.store == assembly.storage_of(self.config)
        return Tracker.start(
            uri=uri,
            experiment=self.config.tracking.experiment,
            params=to_dict(self.config),
            tags=tags_of(self.folder),
            folder=self.folder,
            run_id=self.start.state.tracking_run if self.start and is_own else None,
            trusted=self.trusted,
        )

    def _report(self, rows: list[Row], tracker: Tracker) -> None:
        earlier = [row for row in read_csv(self.files.evaluation) if row not in rows]
        report = write_report(self.folder, rows, self.claim.writing)
        if rows:
            terminal.console(stderr=True).print(summary_table([*rows, *earlier]))
        tracker.log_artifacts(report)

    def _describe(self, tracker: Tracker) -> None:
        """Write the scores to the README.md of the set, with the config as the workers have stored it."""
        config, rows = read(self.files.config), read_csv(self.files.evaluation)
        if (file := describe(config, self.dataset, self.outline, self.claim, rows)) is not None:
            tracker.log_artifacts(file)

    def _say_where(self) -> None:
        preview = self.files.synthetic_set / PREVIEW
        report = self.files.report
        terminal.say(f"set      {self.files.synthetic_set}", f"preview  {preview}", f"report   {report}")
        uri = resolve_uri(self.config.tracking.uri, self.folder)
        served = uri.startswith(("http://", "https://"))
        command = [str(Path(sys.executable).parent / "mlflow"), "ui", "--backend-store-uri", uri]
        terminal.say(f"mlflow   {uri if served else shlex.join(command)}")


def _unfinished(stop: Stop, reached: str) -> Exception:
    """Return the exception for a run that ended early, because of a request to stop or a lost checkpoint.

    :param reached: progress of the newest intact checkpoint.
    """
    if stop.by is not None:
        return Terminated(f"stopped by {stop.by} after {reached}; the same command continues", stop.number)
    return RunFailed(
        f"the workers have ended without a request to stop, but the newest intact checkpoint is that of {reached}: "
        "a later one was lost or damaged; the same command continues from there"
    )


def _report_failure(line: str) -> None:
    terminal.event(f"the worker group failed: {line}")
    log.warning("the worker group failed: %s", line)
