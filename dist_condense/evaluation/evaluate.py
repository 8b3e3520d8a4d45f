"""Trials: one network from scratch per (set, architecture, seed), in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path

from torch import Tensor

from dist_condense import networks
from dist_condense.core import randomness
from dist_condense.data.normalise import ChannelStatistics, to_values
from dist_condense.data.reading.source import TestImages
from dist_condense.evaluation.protocols import protocol
from dist_condense.evaluation.rows import Key, Row, append_csv, read_csv
from dist_condense.evaluation.training import Images, train_and_test
from dist_condense.system.memory import keep_freed_memory
from dist_condense.system.processor import on_threads


@dataclass(frozen=True)
class Trial:
    """One network to train: on a set, of an architecture (a text of `networks`: `convnet:depth=4`), from a seed."""

    set: str
    architecture: str
    seed: int


class TrialFailed(RuntimeError):
    """Some trials did not finish; the rows of the others have been handed over."""

    def __init__(self, *problems: str) -> None:
        super().__init__(*problems)
        self.problems = list(problems)

    def __str__(self) -> str:
        return "\n".join(self.problems)

    @classmethod
    def of(cls, reasons: Mapping[Trial, str], total: int) -> TrialFailed:
        """Names each that has no row, and why; a reason that several share is told once."""
        names: dict[str, list[str]] = {}
        for trial, why in reasons.items():
            names.setdefault(why, []).append(f"{trial.set} / {trial.architecture} / seed {trial.seed}")
        lines = [f"{', '.join(failed)}: {why}" for why, failed in names.items()]
        return cls(f"{len(reasons)} of {total} trials failed:", *lines)


def trials(sets: Iterable[str], architectures: Iterable[str], seeds: Iterable[int]) -> list[Trial]:
    """Every combination, sets outermost."""
    architectures, seeds = list(architectures), list(seeds)
    return [Trial(s, a, seed) for s in sets for a in architectures for seed in seeds]


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """Images ``[N, C, h, w]``, decoded: bytes, or floats, normalised unless ``stored``; labels int64 ``[N]``, or class
    probabilities ``[N, classes]``.
    """

    images: Tensor
    labels: Tensor
    _: KW_ONLY
    epochs: int | None = None
    """E; None: the protocol's own."""
    draws: int = 1
    """Sets of equal size that stand one after the other; seed s trains on draw s (random sets: a new one each)."""
    tiles: int = 1
    """Images that each learnt one was decoded to."""
    stored: bool = False
    """Whether floats are values as a data set stores them."""

    def draw(self, seed: int) -> TrainingSet:
        """The set that a seed trains on."""
        size = len(self.labels) // self.draws
        rows = slice(seed % self.draws * size, (seed % self.draws + 1) * size)
        return replace(self, images=self.images[rows], labels=self.labels[rows], draws=1)

    def batches(self, statistics: ChannelStatistics, device: str) -> Images:
        """Positions to images in normalised space on the device, one batch at a time."""
        if self.images.is_floating_point() and not self.stored:
            return lambda positions: self.images[positions].to(device)
        return lambda positions: statistics.normalise(to_values(self.images[positions].to(device)))


@dataclass(frozen=True, eq=False, kw_only=True)
class Evaluation:
    """What all trials share."""

    sets: Mapping[str, TrainingSet]
    test: TestImages
    statistics: ChannelStatistics
    classes: int
    protocol: str
    """One of `protocols.PROTOCOLS`."""
    flip: bool = True
    """Whether a flipped image keeps its label; where it does not, no augmentation flips."""
    device: str = "cpu"

    def key(self, trial: Trial) -> Key:
        """What the row of this trial is found by."""
        chosen = self.sets[trial.set].draw(trial.seed)
        epochs = chosen.epochs
        if epochs is None:
            epochs = protocol(self.protocol).epochs_for(chosen.labels, trial.architecture, chosen.tiles)
        return Key(trial.set, protocol=self.protocol, architecture=trial.architecture, seed=trial.seed, epochs=epochs)


def run_trial(trial: Trial, evaluation: Evaluation) -> Row:
    """Train and test one network. A seed starts the same network on every set, so sets are compared in pairs."""
    keep_freed_memory()
    chosen = evaluation.sets[trial.set].draw(trial.seed)
    channels, height, width = chosen.images.shape[1:]
    network = networks.build(
        trial.architecture,
        channels=channels,
        size=height if height == width else (height, width),
        classes=evaluation.classes,
        seed=randomness.key(trial.seed, "evaluation network"),
    )
    key = evaluation.key(trial)
    score = train_and_test(
        chosen.batches(evaluation.statistics, evaluation.device),
        chosen.labels,
        test=evaluation.test,
        statistics=evaluation.statistics,
        network=network,
        protocol=protocol(evaluation.protocol, evaluation.flip),
        seed=trial.seed,
        epochs=key.epochs,
        device=evaluation.device,
    )
    return Row(**key._asdict(), top1_last=score.top1_last, top1_best=score.top1_best)


Runner = Callable[[Sequence[Trial], Evaluation, Callable[[Row], None]], object]
"""Runs trials and hands over each row when it is there."""


def in_process(
    todo: Sequence[Trial], evaluation: Evaluation, on_result: Callable[[Row], None], threads: int | None = None
) -> None:
    """One trial after the other. Raises TrialFailed after the last one, naming each that failed.

    :param threads: of torch on the CPU meanwhile; None: as they are.
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
    wanted: Sequence[Trial],
    evaluation: Evaluation,
    path: Path | None = None,
    on_result: Callable[[Row], None] | None = None,
    runner: Runner = in_process,
    writing: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> list[Row]:
    """The rows of the wanted trials, in their order. Rows that ``path`` (evaluation.csv) holds are not run again.

    A row is known by set, protocol, architecture, seed and epochs: after a set has changed, give it another name or
    another file.

    :param on_result: told of each new row, after it is in the file.
    :param runner: `in_process`, or `sweep.sweep` with its resources bound.
    :param writing: entered around each write of the file; raises where this process may not write any more.
    """
    done = {row.key: row for row in (read_csv(path) if path else [])}

    def keep(row: Row) -> None:
        if path:  # first, so that a row that could not be written does not count as done
            with writing():
                append_csv(path, [row])
        done[row.key] = row
        if on_result:
            on_result(row)

    todo = [trial for trial in wanted if evaluation.key(trial) not in done]
    if todo:
        runner(todo, evaluation, keep)
    return [done[evaluation.key(trial)] for trial in wanted]


def evaluate_set(
    name: str,
    evaluation: Evaluation,
    architectures: Iterable[str],
    seeds: Iterable[int],
    path: Path | None = None,
) -> list[Row]:
    """One set over architectures x seeds in this process, without Ray."""
    return evaluate(trials([name], architectures, seeds), evaluation, path)
