"""The networks that are trained on a run's own set and on those it is compared with: the rows of evaluation.csv."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path

import torch

from dist_condense.data import ClassSource, ImageSet, Reading
from dist_condense.evaluation.evaluate import Evaluation, Runner, TrainingSet, evaluate, in_process, trials
from dist_condense.evaluation.protocols import protocol
from dist_condense.evaluation.rows import Row
from dist_condense.job.claim import Claim
from dist_condense.job.exporting import has_complete_set
from dist_condense.job.selections import alone
from dist_condense.result.synthetic_set import load_set
from dist_condense.selection.sets import real_sets
from dist_condense.selection.table import SELECTIONS
from dist_condense.settings import assembly, selecting
from dist_condense.settings.config import RunConfig
from dist_condense.settings.run_folder import RunFolder
from dist_condense.system import terminal

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Comparison:
    """The sets of one evaluation.

    :param config: resolved.
    :param budget: bytes that the decoded test images may take.
    :param run: runs another config to its end, for a set that takes a run of its own.
    """

    config: RunConfig
    dataset: ImageSet
    _: KW_ONLY
    claim: Claim
    budget: int
    run: Callable[[RunConfig], None]

    def rows(self) -> list[Row]:
        """A row for each network of the config; those in the file are not trained again. Raises TrialFailed."""
        chosen = self.config.evaluation
        architectures = list(dict.fromkeys(assembly.architecture(self.config, text) for text in chosen.architectures))
        evaluation = Evaluation(
            sets={name: TRAINING_SETS[name](self) for name in chosen.sets},
            test=self.dataset.test(self._test_reading()),
            statistics=self.dataset.space.statistics,
            classes=len(self.dataset.classes),
            protocol=chosen.protocol,
            flip=self.dataset.flip,
            device=self.config.cluster.device,
        )
        wanted = trials(chosen.sets, architectures, range(chosen.seeds))
        return evaluate(
            wanted,
            evaluation,
            RunFolder(self.claim.folder).evaluation,
            on_result=_tell,
            runner=self._runner(),
            writing=self.claim.writing,
        )

    @functools.cached_property
    def real(self) -> ClassSource:
        """All training images, for the sets made of them; only the shards of what is read are hashed, or fetched."""
        return self.dataset.train_split.on_demand(assembly.reading_of(self.config))

    def _test_reading(self) -> Reading:
        """Decoded where this fits the node's budget, else streamed in each test."""
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
    """Real images: drawn here, or selected by a run of their own, which is done once for all runs on the same data."""
    selection, config = SELECTIONS[name], of.config
    if selection.features:
        own = selecting.run_of_its_own(config, of.dataset, name)
        with alone(Path(own.output)):
            if not has_complete_set(Path(own.output)):
                terminal.say(f"note: {name} is selected once for all runs on the same data, in {own.output}")
                of.run(own)
        return _set(Path(own.output), config.evaluation.epochs)
    draws = config.evaluation.seeds if selection.varies else 1
    drawn = real_sets(selection, of.real, of.dataset.counts, ipc=config.ipc, seed=config.seed, draws=draws)
    return TrainingSet(drawn.images, drawn.labels, epochs=config.evaluation.epochs, draws=draws, stored=True)


def _condensed(of: Comparison) -> TrainingSet:
    """The run's own set, whatever its procedure."""
    return _set(of.claim.folder, of.config.evaluation.epochs)


def _set(folder: Path, epochs: int | None) -> TrainingSet:
    """The set of the run in a folder."""
    loaded = load_set(RunFolder(folder).synthetic_set)
    images = loaded.batch(torch.arange(len(loaded)))
    return TrainingSet(images, loaded.labels, epochs=epochs, tiles=loaded.card.decoded_per_image)


def _whole(of: Comparison) -> TrainingSet:
    counts, chosen = of.dataset.counts, of.config.evaluation
    images = torch.cat([of.real.get(label, torch.arange(count)) for label, count in enumerate(counts)])
    epochs = chosen.whole_epochs or chosen.epochs or protocol(chosen.protocol).whole_epochs
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return TrainingSet(images, labels, epochs=epochs, stored=True)


TRAINING_SETS: dict[str, Callable[[Comparison], TrainingSet]] = {
    **{name: functools.partial(_selected, name) for name in SELECTIONS},
    "condensed": _condensed,
    "whole": _whole,
}


def _tell(row: Row) -> None:
    text = f"{row.set}, {row.architecture}, seed {row.seed}: top-1 {row.top1_last:.2f}"
    terminal.say(text)
    log.info(text)
