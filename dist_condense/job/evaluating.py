"""Evaluation of sets of any origin on the test images of a data set."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np

from dist_condense.data import ImageSet
from dist_condense.evaluation.evaluate import TrainingSet
from dist_condense.evaluation.rows import Row, read_csv
from dist_condense.job import any_set, preflight
from dist_condense.job.any_set import AnySet, Stated
from dist_condense.job.claim import Claim
from dist_condense.job.comparing import CONDENSED, TRAINING_SETS, Comparison
from dist_condense.job.job import Job
from dist_condense.settings import assembly
from dist_condense.settings.config import ConfigError, RunConfig, to_yaml
from dist_condense.settings.resolve import resolved
from dist_condense.settings.run_folder import RunFolder
from dist_condense.system.errors import DataError
from dist_condense.system.files import write_atomically

OUTPUTS = Path("outputs")


@dataclass(frozen=True)
class Evaluated:
    """Rows of an evaluation, and the folder with its evaluation.csv."""

    folder: Path
    rows: list[Row]


def evaluate_sets(
    paths: Sequence[Path], config: RunConfig, stated: Stated, output: str | None, known: Sequence[str] = ()
) -> Evaluated:
    """Train networks on each set, and on the sets of real images in ``evaluation.sets``; test them on the test images.

    Networks with a row in the evaluation.csv of the folder are skipped.

    :param config: data set with the test images, networks and protocol of the evaluation.
    :param stated: what files of tensors do not say.
    :param output: folder for the results; None: one in ``outputs`` whose name follows from sets and test images.
    :param known: problems that were found when the config was read.
    :raises ConfigError: the config has problems, or a set cannot be used; all of them are listed.
    """
    dataset, _ = preflight.check(config, known, condenses=False)
    config, choice = resolved(config, dataset, {}, is_complete=True)
    dataset = assembly.settled(config, dataset)
    sets = _read(paths, dataset, stated)
    folder = Path(output) if output else OUTPUTS / f"evaluation_{_fingerprint(sets, dataset)}"
    folder = folder.expanduser().absolute()
    config = replace(
        config,
        output=str(folder),
        ipc=max(_per_class(each, dataset) for each in sets.values()),
        evaluation=replace(config.evaluation, sets=[x for x in config.evaluation.sets if x != CONDENSED]),
    )
    claim = Claim.new(folder)
    claim.take()
    with claim.writing():
        write_atomically(RunFolder(folder).evaluated, to_yaml(config).encode())
    comparison = Comparison(config, dataset, claim=claim, budget=choice.budget, run=_run)
    for statistics in dict.fromkeys(each.statistics for each in sets.values()):
        group = {name: _timed(each, config) for name, each in sets.items() if each.statistics == statistics}
        comparison.trained(group, statistics or dataset.space.statistics)
    comparison.rows()
    return Evaluated(folder, read_csv(RunFolder(folder).evaluation))


def _run(config: RunConfig) -> None:
    """Execute the run of a selection with features."""
    Job.prepare(config).run()


def _read(paths: Sequence[Path], dataset: ImageSet, stated: Stated) -> dict[str, AnySet]:
    """Read all sets, by name. Raises ConfigError with the problems of all."""
    sets: dict[str, AnySet] = {}
    problems: list[str] = []
    for name, path in _named(paths).items():
        try:
            sets[name] = any_set.read(path, dataset, stated)
        except DataError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return sets


def _named(paths: Sequence[Path]) -> dict[str, Path]:
    """Return the paths by short names: their last parts, or the whole paths where several have the same last part."""
    last = {path: path.parent.name if path.name == RunFolder.synthetic_set.name else path.name for path in paths}
    times = Counter(last.values())
    return {
        str(path) if times[name] > 1 or name in TRAINING_SETS else name: Path(os.path.expanduser(path)).absolute()
        for path, name in last.items()
    }


def _per_class(each: AnySet, dataset: ImageSet) -> int:
    """Return the mean number of stored images per class, rounded up."""
    images = each.images
    return -(-len(images.labels) // (len(dataset.classes) * images.draws * images.tiles))


def _timed(each: AnySet, config: RunConfig) -> TrainingSet:
    return replace(each.images, epochs=config.evaluation.epochs)


def _fingerprint(sets: Mapping[str, AnySet], dataset: ImageSet) -> str:
    """Return a short text that follows from the sets, and from the test images."""
    digest = sha256(dataset.test_split.digest().encode())
    for name, each in sets.items():
        digest.update(repr((name, each.statistics)).encode())
        for tensor in (each.images.images, each.images.labels):
            digest.update(np.ascontiguousarray(tensor.numpy()).data)
    return digest.hexdigest()[:10]
