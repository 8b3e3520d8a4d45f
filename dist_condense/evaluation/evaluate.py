"""Trials of an evaluation, run in this process; each trains one network from scratch on one set, with one seed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from dist_condense import networks
from dist_condense.core import randomness
from dist_condense.data.normalise import ChannelStatistics, to_values
from dist_condense.data.reading.source import TestImages
from dist_condense.evaluation.class_rows import ClassTable
from dist_condense.evaluation.protocols import protocol
from dist_condense.evaluation.rows import Key, Row, append_csv, read_csv
from dist_condense.evaluation.training import Images, train_and_test
from dist_condense.system.memory import keep_freed_memory
from dist_condense.system.processor import deterministic_kernels, on_threads
from dist_condense.system.transfer import to_device


@dataclass(frozen=True)
class Trial:
    """One network to train and test, identified by the name of its training set, its architecture and its seed.

    :param architecture: name of a network, possibly with options, such as ``convnet:depth=4``.
    """

    set: str
    architecture: str
    seed: int


class TrialFailed(RuntimeError):
    """Error of an evaluation in which some trials failed; the rows of the other trials have been reported."""

    def __init__(self, *problems: str) -> None:
        super().__init__(*problems)
        self.problems = list(problems)

    def __str__(self) -> str:
        return "\n".join(self.problems)

    @classmethod
    def of(cls, reasons: Mapping[Trial, str], total: int) -> TrialFailed:
        """Return the error for failed trials with their reasons; trials with equal reasons share a line.

        :param total: number of trials, including those that did not fail.
        """
        names: dict[str, list[str]] = {}
        for trial, reason in reasons.items():
            names.setdefault(reason, []).append(f"{trial.set} / {trial.architecture} / seed {trial.seed}")
        lines = [f"{', '.join(failed)}: {reason}" for reason, failed in names.items()]
        return cls(f"{len(reasons)} of {total} trials failed:", *lines)


def trials(sets: Iterable[str], architectures: Iterable[str], seeds: Iterable[int]) -> list[Trial]:
    """Return a trial for every combination, ordered by set, then architecture, then seed."""
    architectures, seeds = list(architectures), list(seeds)
    return [Trial(s, a, seed) for s in sets for a in architectures for seed in seeds]


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """Training set of an evaluation.

    :param images: decoded images ``[N, C, h, w]``, bytes or floats; floats are normalised values unless ``stored``.
    :param labels: int64 ``[N]`` or class probabilities ``[N, classes]``.
    """

    images: Tensor
    labels: Tensor
    _: KW_ONLY
    epochs: int | None = None
    """Number of epochs E; None for the protocol's number."""
    draws: int = 1
    """Number of consecutive sets of equal size in ``images``; seed s trains on set s modulo ``draws``.

    Random selections thus have a new draw per seed.
    """
    tiles: int = 1
    """Number of decoded images per learnt image."""
    stored: bool = False
    """Whether floats are values as stored in a data set, rather than normalised values."""

    def draw(self, seed: int) -> TrainingSet:
        """Return the set on which a network with this seed is trained, one of the ``draws`` sets."""
        size = len(self.labels) // self.draws
        rows = slice(seed % self.draws * size, (seed % self.draws + 1) * size)
        return replace(self, images=self.images[rows], labels=self.labels[rows], draws=1)

    def batches(self, statistics: ChannelStatistics, device: str) -> Images:
        """Return a function from positions ``[B]`` to images ``[B, C, h, w]`` in normalised space on ``device``."""
        place = torch.device(device)
        if self.images.is_floating_point() and not self.stored:
            return lambda positions: to_device(self.images[positions], place)
        return lambda positions: statistics.normalise(to_values(to_device(self.images[positions], place)))


@dataclass(frozen=True, eq=False, kw_only=True)
class Evaluation:
    """Arguments that all trials of an evaluation share.

    :param sets: training sets by name.
    :param statistics: channel statistics for the normalisation of images.
    :param classes: number of classes.
    """

    sets: Mapping[str, TrainingSet]
    test: TestImages
    statistics: ChannelStatistics
    classes: int
    protocol: str
    """Key of :data:`dist_condense.evaluation.protocols.PROTOCOLS`."""
    flip: bool = True
    """Whether a flipped image keeps its label; if not, no augmentation flips."""
    device: str = "cpu"
    deterministic: bool = False
    """Whether kernels of GPUs add in a fixed order, where they can."""

    def key(self, trial: Trial) -> Key:
        """Return the key of a trial's row, with the epochs of the training set or, if it has none, of the protocol."""
        drawn = self.sets[trial.set].draw(trial.seed)
        epochs = drawn.epochs
        if epochs is None:
            epochs = protocol(self.protocol).epochs_for(drawn.labels, trial.architecture, drawn.tiles)
        return Key(trial.set, protocol=self.protocol, architecture=trial.architecture, seed=trial.seed, epochs=epochs)

    def updates(self, trial: Trial) -> int:
        """Return the number of SGD updates of a trial's network: batches of an epoch times epochs."""
        rules = protocol(self.protocol)
        return self.batches(trial) * (self.key(trial).epochs + rules.extra_epochs)

    def epochs_of(self, trial: Trial, updates: int) -> int:
        """Return the smallest number of epochs E with which a trial's network gets at least ``updates`` updates."""
        return max(1, -(-updates // self.batches(trial)) - protocol(self.protocol).extra_epochs)

    def batches(self, trial: Trial) -> int:
        """Return the number of batches of an epoch, with the incomplete last one."""
        return -(-len(self.sets[trial.set].draw(trial.seed).labels) // protocol(self.protocol).batch)


def run_trial(trial: Trial, evaluation: Evaluation) -> Row:
    """Train and test the network of a trial, and return its row.

    Networks with equal seeds start from the same weights on every set, for paired comparisons.
    """
    keep_freed_memory()
    drawn = evaluation.sets[trial.set].draw(trial.seed)
    channels, height, width = drawn.images.shape[1:]
    network = networks.build(
        trial.architecture,
        channels=channels,
        size=height if height == width else (height, width),
        classes=evaluation.classes,
        seed=randomness.key(trial.seed, "evaluation network"),
    )
    key = evaluation.key(trial)
    with deterministic_kernels(warn=True) if evaluation.deterministic else nullcontext():
        score = train_and_test(
            drawn.batches(evaluation.statistics, evaluation.device),
            drawn.labels,
            test=evaluation.test,
            statistics=evaluation.statistics,
            network=network,
            protocol=protocol(evaluation.protocol, evaluation.flip),
            seed=trial.seed,
            epochs=key.epochs,
            device=evaluation.device,
        )
    return Row(
        **key._asdict(),
        top1_last=score.top1_last,
        top1_best=score.top1_best,
        balanced=score.balanced,
        correct=score.correct,
    )


Runner = Callable[[Sequence[Trial], Evaluation, Callable[[Row], None]], object]
"""Function that runs trials, and calls its third argument with the row of each trial that has finished."""


def in_process(
    todo: Sequence[Trial], evaluation: Evaluation, on_result: Callable[[Row], None], threads: int | None = None
) -> None:
    """Run trials one after the other. Raises TrialFailed after the last trial if some failed.

    :param on_result: called with the row of each trial that has finished.
    :param threads: torch's number of CPU threads during the trials; None leaves it unchanged.
    """
    reasons: dict[Trial, str] = {}
    with on_threads(threads):
        for trial in todo:
            try:
                row = run_trial(trial, evaluation)
            except Exception as error:
                reasons[trial] = f"{type(error).__name__}: {error}"
            else:
                on_result(row)
    if reasons:
        raise TrialFailed.of(reasons, len(todo))


def evaluate(
    requested: Sequence[Trial],
    evaluation: Evaluation,
    path: Path | None = None,
    *,
    classes: ClassTable | None = None,
    on_result: Callable[[Row], None] | None = None,
    runner: Runner = in_process,
    writing: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> list[Row]:
    """Return the rows of the requested trials, in order; trials that have a row in ``path`` are not run again.

    A row is identified by set, protocol, architecture, seed and epochs, so a set that has changed needs another name or
    another file.

    :param path: path of evaluation.csv, to which new rows are appended; None for no file.
    :param classes: file of the accuracies by class, written before the row of a network; None for no file.
    :param on_result: called with each new row, once it is in the file.
    :param runner: `in_process`, or `sweep.sweep` with bound resources.
    :param writing: function that returns the context for each write to the file; it raises if this process may no
        longer write.
    """
    done = {row.key: row for row in (read_csv(path) if path else [])}

    def keep(row: Row) -> None:
        if path:  # first, because a row that could not be written does not count as done
            with writing():
                if classes:
                    classes.write(row)
                append_csv(path, [row])
        done[row.key] = row
        if on_result:
            on_result(row)

    todo = [trial for trial in requested if evaluation.key(trial) not in done]
    if todo:
        runner(todo, evaluation, keep)
    return [done[evaluation.key(trial)] for trial in requested]


def evaluate_set(
    name: str,
    evaluation: Evaluation,
    architectures: Iterable[str],
    seeds: Iterable[int],
    path: Path | None = None,
) -> list[Row]:
    """Evaluate one set on all architectures and seeds in this process, without Ray; return the rows."""
    return evaluate(trials([name], architectures, seeds), evaluation, path)
