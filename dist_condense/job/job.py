"""One run from its config to its report, in the driver: what is condensed where is decided here, once."""

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

from dist_condense.core import randomness
from dist_condense.data import ClassSource, ImageSet, Reading
from dist_condense.data.reading.tiers import FILES, Choice, gib
from dist_condense.engine.coordinator import LocalCoordinator
from dist_condense.engine.errors import RunFailed
from dist_condense.evaluation.baselines import random_sets
from dist_condense.evaluation.evaluate import Evaluation, Runner, TrainingSet, TrialFailed, evaluate, in_process, trials
from dist_condense.evaluation.protocols import protocol
from dist_condense.evaluation.rows import Row, read_csv
from dist_condense.job import checkpoint, logs, preflight, resume, worker
from dist_condense.job.checkpoint import Checkpoint
from dist_condense.job.claim import Claim
from dist_condense.job.stop import Stop, Terminated
from dist_condense.result.metrics_file import Entry
from dist_condense.result.progress import Follower, Notes, Progress
from dist_condense.result.report import environment, summary_table, write_report
from dist_condense.result.synthetic_set import (
    PREVIEW,
    Card,
    CardClass,
    SyntheticSetError,
    load_set,
    read_card,
    write_set,
)
from dist_condense.result.tags import tags_of
from dist_condense.result.tracking import Tracker
from dist_condense.settings import assembly
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
        """Of this start to the folder; what another start may write too is written by it."""
        return Claim.new(self.folder)

    @property
    def images(self) -> str:
        """Where the workers have the real images from, for a person."""
        if self.config.data.source == FILES:
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
        preflight.ask(config, start.steps if start else 0)
        if start is None:
            preflight.headers(config, dataset, terminal.say)
        config, keeping = resolved(config, dataset, start.state.identity if start else preflight.earlier(config))
        resume.check(config, dataset, start)
        dataset = assembly.normalised(config, dataset)
        return cls(config, dataset, [*remarks, *_other_machine(start, config)], keeping, start)

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

    @property
    def _total(self) -> int:
        return self.config.trajectory.networks * self.config.trajectory.matching_steps

    def where_it_continues(self) -> str:
        """What the same command would do now."""
        try:
            found = checkpoint.newest(assembly.storage_of(self.config))
        except OSError:  # a store that is away
            return "the same command continues from the newest checkpoint once the store answers"
        if found is None:
            return "no checkpoint was due yet (tracking.checkpoint_minutes), so the same command starts over"
        if found.steps == self._total and self._has_complete_set():
            rows = RunFolder.evaluation.name
            return f"the set is complete; the same command trains the networks that have no row in {rows}"
        return f"the same command continues after matching step {found.steps}"

    # --- condensation ---------------------------------------------------------------------------------------------

    def _condense(self, tracker: Tracker) -> None:
        found, total = self.start, self._total
        if found and found.steps == total and self._has_complete_set():
            terminal.say(f"condensation is complete ({total} matching steps); {self.files.synthetic_set} is kept")
            return
        if found:
            terminal.say(f"resuming after matching step {found.steps} of {total} in all")
        try:
            with self._following(tracker), Stop(self.folder) as stop:
                self._workers()
        except RunFailed as error:
            self.claim.check()
            raise RunFailed(*terminal.lines_of(error), self._kept()) from error
        done = self._export()
        log.info("the set of matching step %d of %d is written", done, total)
        if done < total or stop.by is not None:
            raise _unfinished(stop, done, total)
        tracker.log_artifacts(self.files.synthetic_set)

    def _kept(self) -> str:
        """What a run that failed leaves; its last checkpoint becomes the set where the disk has room."""
        try:
            steps = self._export()
        except (SyntheticSetError, OSError) as error:
            return f"{error}; {self.where_it_continues()}"
        if steps == 0:
            return "no set was finished before; nothing was overwritten"
        place = self.files.synthetic_set
        return f"the set of matching step {steps} is kept in {place}; the same command continues from there"

    def _has_complete_set(self) -> bool:
        try:
            return read_card(self.files.synthetic_set).complete
        except SyntheticSetError:
            return False

    def _workers(self) -> None:
        cluster = self.config.cluster
        if cluster.workers == 0:
            alone = LocalCoordinator(bool(cluster.reproducible))
            worker.work(self.config, alone, torch.device(cluster.device), claim=self.claim)
            return
        from dist_condense.engine.ray.group import Group, launch

        group = Group(
            cluster.workers,
            cluster.threads or 1,
            cluster.device == "cuda",
            bool(cluster.reproducible),
            cluster.max_failures,
            cluster.timeout,
            cluster.min_workers,
        )
        launch(functools.partial(worker.work, claim=self.claim), self.config, group, self.folder, self.files.restarts)

    @contextmanager
    def _following(self, tracker: Tracker) -> Iterator[None]:
        """Progress and MLflow live on what the workers write; so does a person on why a group is started again."""
        schedule = self.config.trajectory

        def send(entries: Sequence[Entry]) -> None:
            if not self.claim.lost:  # looked at after the lines were read, so all of them are this start's
                tracker.log_metrics(entries)

        with Progress(schedule.networks, schedule.matching_steps) as progress:
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
        """Write the synthetic set of the newest checkpoint; the number of its steps (0: none yet)."""
        found = checkpoint.newest(assembly.storage_of(self.config))
        if found is None:
            return 0
        state, classes = found.classes(), len(self.dataset.classes)
        pixels = torch.cat([state[f"pixels.{c}"] for c in range(classes)])
        labels = torch.arange(classes).repeat_interleave(self.config.ipc)
        with self.claim.writing():
            write_set(self.files.synthetic_set, pixels.float(), labels, self._card(found.steps))
        return found.steps

    def _card(self, steps: int) -> Card:
        config, dataset = self.config, self.dataset
        return Card(
            method=config.method.name,
            dataset=dataset.family,
            classes=[CardClass(label, c.name, c.wnid) for label, c in enumerate(dataset.classes)],
            ipc=config.ipc,
            channels=dataset.channels,
            size=dataset.size,
            value_space="unit" if config.method.unit_space else "normalised",
            mean=dataset.mean,
            std=dataset.std,
            factor=config.method.parameterisation.factor,
            seed=config.seed,
            networks_done=steps // config.trajectory.matching_steps,
            networks_total=config.trajectory.networks,
            matching_steps=config.trajectory.matching_steps,
            steps=steps,
            complete=steps == self._total,
        )

    # --- evaluation -----------------------------------------------------------------------------------------------

    def _evaluate(self, tracker: Tracker) -> list[Row]:
        if self.config.evaluation.epochs == 0:
            return []
        try:
            rows = self._trained()
        except Exception as error:  # the data may be gone as well
            self._report(self._evaluated(tracker), tracker)
            if not isinstance(error, TrialFailed):
                raise
            first, *others = terminal.lines_of(error)
            kept = f"finished rows are in {self.files.evaluation}"
            raise RunFailed(f"evaluation: {first}", *others, kept) from error
        self._evaluated(tracker)
        return rows

    def _trained(self) -> list[Row]:
        """A row of each network that is wanted; those that are in the file are not trained again."""
        chosen = self.config.evaluation
        architectures = list(dict.fromkeys(assembly.architecture(self.config, text) for text in chosen.architectures))
        evaluation = Evaluation(
            sets={name: TRAINING_SETS[name](self) for name in chosen.sets},
            test=self.dataset.test(self._test_reading()),
            statistics=assembly.statistics_of(self.dataset),
            classes=len(self.dataset.classes),
            protocol=chosen.protocol,
            flip=self.dataset.flip,
            device=self.config.cluster.device,
        )
        wanted = trials(chosen.sets, architectures, range(chosen.seeds))
        return evaluate(wanted, evaluation, self.files.evaluation, _tell, self._runner(), self.claim.writing)

    def _evaluated(self, tracker: Tracker) -> list[Row]:
        """All rows there are, also of earlier calls."""
        self.claim.check()
        rows = read_csv(self.files.evaluation)
        tracker.log_evaluations(rows)
        return rows

    @functools.cached_property
    def real(self) -> ClassSource:
        """All training images, for the sets made of them; only the shards of what is read are hashed, or fetched."""
        return self.dataset.train_split.on_demand(assembly.reading_of(self.config))

    def _test_reading(self) -> Reading:
        """Decoded where this fits the node's budget, else streamed in each test."""
        counts = self.dataset.test_split.counts
        fits = sum(self.dataset.decoded_bytes(counts)) <= self.keeping.budget
        return replace(assembly.reading_of(self.config), tier="ram" if fits else "disk", source=FILES)

    def _runner(self) -> Runner:
        threads, cluster = self.config.evaluation.threads, self.config.cluster
        if cluster.workers == 0:
            return functools.partial(in_process, threads=threads or cluster.threads)
        from dist_condense.evaluation.sweep import sweep

        gpus = 1 if cluster.device == "cuda" else 0
        return functools.partial(sweep, folder=self.files.sweep, cpus_per_trial=threads or 1, gpus_per_trial=gpus)

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
        return Tracker.start(
            uri,
            self.config.tracking.experiment,
            self.folder.name,
            to_dict(self.config),
            tags_of(self.folder),
            self.folder,
            self.start.state.tracking_run
            if self.start and self.start.store == assembly.storage_of(self.config)
            else None,
            self.trusted,
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


def _other_machine(start: Checkpoint | None, config: RunConfig) -> Iterator[str]:
    if start is None:
        return
    state = start.state
    if (state.torch, state.device) != (torch.__version__, config.cluster.device):
        yield (
            f"the run was begun with torch {state.torch} on {state.device} and goes on with torch {torch.__version__} "
            f"on {config.cluster.device}: the set will not be the same to the last bit"
        )


def _random(job: Job) -> TrainingSet:
    draws = job.config.evaluation.seeds
    seeds = [randomness.key(job.config.seed, "random baseline", i) for i in range(draws)]
    drawn = random_sets(job.real, job.dataset.counts, job.config.ipc, seeds)
    return TrainingSet(drawn.images, drawn.labels, job.config.evaluation.epochs, draws)


def _condensed(job: Job) -> TrainingSet:
    loaded = load_set(job.files.synthetic_set)
    images = loaded.batch(torch.arange(len(loaded)))
    return TrainingSet(images, loaded.labels, job.config.evaluation.epochs, factor=loaded.card.factor)


def _whole(job: Job) -> TrainingSet:
    labels = range(len(job.dataset.classes))
    images = torch.cat([job.real.get(c, torch.arange(job.dataset.counts[c])) for c in labels])
    chosen = job.config.evaluation
    epochs = chosen.whole_epochs or chosen.epochs or protocol(chosen.protocol).whole_epochs
    return TrainingSet(images, torch.arange(len(labels)).repeat_interleave(torch.tensor(job.dataset.counts)), epochs)


TRAINING_SETS = {"random": _random, "condensed": _condensed, "whole": _whole}


def _unfinished(stop: Stop, done: int, total: int) -> Exception:
    """Why the run ends here, as far as the driver knows."""
    if stop.by is not None:
        told = f"stopped by {stop.by} after matching step {done} of {total}; the same command continues"
        return Terminated(told, stop.number)
    return RunFailed(
        f"the workers have ended and nobody asked them to, but the newest whole checkpoint is that of matching step "
        f"{done} of {total}: a later one was lost or damaged; the same command continues from there"
    )


def _tell(row: Row) -> None:
    text = f"{row.set}, {row.architecture}, seed {row.seed}: top-1 {row.top1_last:.2f}"
    terminal.say(text)
    log.info(text)


def _tell_failure(line: str) -> None:
    terminal.say(f"the worker group failed: {line}")
    log.warning("the worker group failed: %s", line)
