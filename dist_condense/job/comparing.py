"""Evaluation of a run's synthetic set, and of other sets for comparison; the results are in evaluation.csv."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from dist_condense.data import ClassSource, ImageSet, Reading
from dist_condense.data.normalise import ChannelStatistics
from dist_condense.evaluation.class_rows import ClassTable
from dist_condense.evaluation.evaluate import Evaluation, Runner, TrainingSet, Trial, evaluate, in_process, trials
from dist_condense.evaluation.protocols import protocol
from dist_condense.evaluation.rows import Row
from dist_condense.job.claim import Claim
from dist_condense.job.exporting import set_problem
from dist_condense.result.synthetic_set import load_set
from dist_condense.selection.sets import real_sets
from dist_condense.selection.table import SELECTIONS
from dist_condense.settings import architectures, assembly, images_per_class, selecting
from dist_condense.settings.config import RunConfig
from dist_condense.settings.run_folder import RunFolder
from dist_condense.settings.schema import CONDENSED, FULL
from dist_condense.system import terminal

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Comparison:
    """Evaluation of a run, in which networks are trained on the run's set and on other sets for comparison.

    :param config: resolved config of the run.
    :param claim: this start's claim to the run's folder.
    :param budget: memory available for the decoded test images, in bytes.
    :param run: function that runs another config to its end, for a set that a separate run creates.
    """

    config: RunConfig
    dataset: ImageSet
    _: KW_ONLY
    claim: Claim
    budget: int
    run: Callable[[RunConfig], None]

    def rows(self) -> list[Row]:
        """Train the networks of the config that have no row in evaluation.csv yet, and return the rows of all networks.

        Raises TrialFailed if some trials failed.
        """
        sets = {name: TRAINING_SETS[name](self) for name in self.config.evaluation.sets}
        return self.trained(sets, self.dataset.space.statistics)

    def trained(self, sets: Mapping[str, TrainingSet], statistics: ChannelStatistics) -> list[Row]:
        """Train the networks of these sets that have no row yet, like :meth:`rows`.

        :param sets: training sets by name.
        :param statistics: channel statistics for the normalisation of images.
        """
        options = self.config.evaluation
        texts = architectures.entries(self.config)
        named = list(dict.fromkeys(assembly.architecture(self.config, text) for text in texts))
        evaluation = Evaluation(
            sets=sets,
            test=self.dataset.test(self._test_reading()),
            statistics=statistics,
            classes=len(self.dataset.classes),
            protocol=options.protocol,
            flip=self.dataset.flip,
            device=self.config.cluster.device,
            deterministic=bool(self.config.compute.deterministic),
        )
        files = RunFolder(self.claim.folder)
        return evaluate(
            trials(sets, named, range(options.seeds)),
            evaluation,
            files.evaluation,
            classes=ClassTable(
                files.evaluation_classes, [c.name for c in self.dataset.classes], self.dataset.test_split.counts
            ),
            on_result=_report,
            runner=_with_note(self._runner()),
            writing=self.claim.writing,
        )

    @functools.cached_property
    def real(self) -> ClassSource:
        """Source of the training images for sets of real images; hashes or fetches only the shards that are read."""
        return self.dataset.train_split.on_demand(assembly.reading_of(self.config))

    def _test_reading(self) -> Reading:
        """Return how to read test images: decoded in memory if the budget suffices, else streamed in each test."""
        fits = sum(self.dataset.decoded_bytes(self.dataset.test_split.counts)) <= self.budget
        return replace(assembly.reading_of(self.config), tier="ram" if fits else "disk")

    def _runner(self) -> Runner:
        threads, cluster = self.config.evaluation.threads, self.config.cluster
        if cluster.workers == 0:
            return functools.partial(in_process, threads=threads)
        from dist_condense.evaluation.sweep import sweep

        folder, gpus = RunFolder(self.claim.folder).sweep, 1 if cluster.device == "cuda" else 0
        return functools.partial(sweep, folder=folder, cpus_per_trial=threads or 1, gpus_per_trial=gpus)


def _selected(name: str, of: Comparison) -> TrainingSet:
    """Return the set of real images that the selection ``name`` selects.

    A selection with features is made by a separate run, whose result all runs on the same data share. Other selections
    are made in this process.
    """
    selection, config = SELECTIONS[name], of.config
    if selection.features:
        own = selecting.run_of_its_own(config, of.dataset, name)
        with alone(Path(own.output)):
            if set_problem(own, of.dataset) is not None:
                terminal.event(f"note: {name} is selected once for all runs on the same data, in {own.output}")
                of.run(own)
        return _set(Path(own.output), config.evaluation.epochs)
    draws = config.evaluation.seeds if selection.varies else 1
    numbers = images_per_class.numbers(config, of.dataset)
    drawn = real_sets(selection, of.real, of.dataset.counts, numbers=numbers, seed=config.seed, draws=draws)
    return TrainingSet(drawn.images, drawn.labels, epochs=config.evaluation.epochs, draws=draws, stored=True)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on the selection in ``folder`` within the context; first wait until it is available.

    If a process dies, its lock is released, and the next process can continue from the stored state. On a file system
    without locks, print a note and continue without a lock.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{folder}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        terminal.event(f"note: another run is making {folder}; waiting for it")
        lock.acquire()
    except NotImplementedError:  # a file system without locks
        terminal.event(f"note: {folder.parent} has no locks: let no other run make {folder.name} at the same time")
    try:
        yield
    finally:
        lock.release()


def _condensed(of: Comparison) -> TrainingSet:
    return _set(of.claim.folder, of.config.evaluation.epochs)


def _set(folder: Path, epochs: int | None) -> TrainingSet:
    """Load the synthetic set of the run in ``folder``, which this start has written or verified, as a training set.

    :param epochs: number of epochs of the training; None for the protocol's number.
    """
    loaded = load_set(RunFolder(folder).synthetic_set, verify=False)
    images = loaded.batch(torch.arange(len(loaded)))
    return TrainingSet(images, loaded.labels, epochs=epochs, tiles=loaded.card.decoded_per_image)


def _full(of: Comparison) -> TrainingSet:
    counts, options = of.dataset.counts, of.config.evaluation
    images = torch.cat([of.real.get(label, torch.arange(count)) for label, count in enumerate(counts)])
    epochs = options.full_epochs or options.epochs or protocol(options.protocol).full_epochs
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return TrainingSet(images, labels, epochs=epochs, stored=True)


class _TrainingSets(dict[str, Callable[[Comparison], TrainingSet]]):
    """Functions that return the training sets; every name without an entry is that of a selection."""

    def __missing__(self, name: str) -> Callable[[Comparison], TrainingSet]:
        return functools.partial(_selected, name)


TRAINING_SETS = _TrainingSets({CONDENSED: _condensed, FULL: _full})


def _with_note(runner: Runner) -> Runner:
    """Return a runner that first notes if the full training set gets much fewer updates than the condensed set."""

    def run(todo: Sequence[Trial], evaluation: Evaluation, on_result: Callable[[Row], None]) -> None:
        if note := next((note for trial in todo if (note := _fewer_updates(trial, evaluation))), None):
            terminal.event(f"note: {note}")
        runner(todo, evaluation, on_result)

    return run


def _fewer_updates(trial: Trial, evaluation: Evaluation) -> str | None:
    """Return a note if a trial on the full set has less than half the updates of one on the condensed set, or None."""
    if trial.set != FULL or CONDENSED not in evaluation.sets:
        return None
    own, most = evaluation.updates(trial), evaluation.updates(replace(trial, set=CONDENSED))
    if 2 * own >= most:
        return None
    remedy = f"set evaluation.full_epochs={evaluation.epochs_of(trial, most)} to compare at the end of training"
    return f"{FULL} is trained for {own:,} updates, {CONDENSED} for {most:,}; {remedy}"


def _report(row: Row) -> None:
    text = f"{row.set}, {row.architecture}, seed {row.seed}: top-1 {row.top1_last:.2f}"
    terminal.event(text)
    log.info(text)
