"""Evaluation of sets of any origin on the test images of a data set."""

from __future__ import annotations

import functools
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from dist_condense.data import ImageSet
from dist_condense.data.sets.listing import is_utf8
from dist_condense.evaluation.evaluate import TrainingSet
from dist_condense.evaluation.rows import FORMULA, SETS_BEFORE, Row, RowsError, read_csv
from dist_condense.job import any_set, preflight
from dist_condense.job.any_set import AnySet, Stated
from dist_condense.job.claim import Claim
from dist_condense.job.comparing import Comparison
from dist_condense.job.job import Job
from dist_condense.result.card import CARD
from dist_condense.result.synthetic_set import TENSORS
from dist_condense.selection.table import SELECTIONS
from dist_condense.settings import assembly, images_per_class, places, run_folder, selecting
from dist_condense.settings.config import ConfigError, RunConfig, to_dict
from dist_condense.settings.keys import GROUPS, KEYS, SECTIONS
from dist_condense.settings.resolve import resolved
from dist_condense.settings.run_folder import RunFolder
from dist_condense.settings.schema import CONDENSED, SETS
from dist_condense.settings.values import some
from dist_condense.system import records, terminal
from dist_condense.system.errors import DataError
from dist_condense.system.files import write_atomically
from dist_condense.system.terminal import printable

OUTPUTS = Path("outputs")
OWN = ("evaluation.", "dataset.", "data.", "network.", "cluster.", "compute.", "seed", "output")
"""Prefixes of the keys that an evaluation of sets takes."""

Source = Callable[[ImageSet], AnySet]
"""Function that reads a set for the test images of a data set. Raises DataError."""


@dataclass(frozen=True)
class Evaluated:
    """A finished evaluation.

    :param folder: folder with evaluation.csv.
    :param scores: its rows, one for each trained network, also of earlier evaluations in the folder.
    """

    folder: Path
    scores: list[Row]


@dataclass(frozen=True)
class Record:
    """What the rows of a folder's evaluation.csv are of.

    :param test: digest of the test images.
    :param sets: digest of each set, given or of real images, by name.
    """

    test: str
    sets: Mapping[str, str]
    config: Mapping[str, Any] = field(default_factory=dict)


def foreign(given: Iterable[str]) -> Iterator[str]:
    """Yield a problem for each known key, section or group that an evaluation of sets does not take."""
    for key in given:
        if (key in KEYS or key in SECTIONS or key in GROUPS) and not f"{key}.".startswith(OWN):
            yield f"{key}: it makes a set; an evaluation of sets takes {', '.join(OWN)}"


def by_name(paths: Sequence[Path], stated: Stated) -> dict[str, Source]:
    """Return sources of the sets in files, by name. Raises ConfigError if a path is not in UTF-8.

    :param stated: what the files do not say.
    """
    return {name: functools.partial(any_set.read, path, stated=stated) for name, path in _named(paths).items()}


def evaluate_sets(
    sources: Mapping[str, Source], config: RunConfig, output: str | None, known: Sequence[str] = ()
) -> Evaluated:
    """Train networks on each set, and on the sets of real images in ``evaluation.sets``; test them on the test images.

    Networks with a row in the evaluation.csv of the folder are skipped.

    :param sources: sets by name.
    :param config: data set with the test images, networks and protocol of the evaluation.
    :param output: folder for the results; None: one in ``outputs`` whose name follows from sets and test images.
    :param known: problems that were found when the config was read.
    :raises ConfigError: the config has problems, a set cannot be used, or the folder has rows of other sets or test
        images; all of them are listed.
    """
    place = output or str(OUTPUTS / f"evaluation_{uuid4().hex}")  # the name of the latter follows from the sets
    problems = [*known, *_untrained(config), *(_occupied(_folder(output)) if output else ())]
    dataset, _ = preflight.check(replace(config, output=place), problems, condenses=False)
    config, choice = resolved(config, dataset, {}, is_complete=True)
    dataset = assembly.settled(config, dataset)
    sets = _read(sources, dataset)
    config = _with_real_sets(config, dataset, sets)
    record = _record(config, dataset, sets)
    folder = _folder(output or str(OUTPUTS / f"evaluation_{_short(record)}"))
    config = replace(config, output=str(folder))
    if problems := list(places.problems(config)):
        raise ConfigError(problems)
    claim = _begun(folder, replace(record, config=to_dict(config)))
    comparison = Comparison(config, dataset, claim=claim, budget=choice.budget, run=_run)
    for statistics in dict.fromkeys(each.statistics for each in sets.values()):
        group = {name: _timed(each, config) for name, each in sets.items() if each.statistics == statistics}
        comparison.trained(group, statistics or dataset.space.statistics)
    comparison.rows()
    return Evaluated(folder, read_csv(RunFolder(folder).evaluation))


def _with_real_sets(config: RunConfig, dataset: ImageSet, sets: Mapping[str, AnySet]) -> RunConfig:
    """Return the config with the sets of real images beside the sets.

    They have the numbers of images by class that all sets have; if these differ, the mean number of the largest set.
    Raises ConfigError if there are too few real images.
    """
    counts = {name: _counts(each, dataset) for name, each in sets.items()}
    common = images_per_class.stated(next(iter(counts.values())), dataset) if len({*counts.values()}) == 1 else None
    sizes = {name: sum(own) for name, own in counts.items()}
    ipc = common or -(-max(sizes.values()) // len(dataset.classes))
    evaluation = replace(config.evaluation, sets=[x for x in config.evaluation.sets if x != CONDENSED])
    config = replace(config, ipc=ipc, evaluation=evaluation)
    if selected := [name for name in evaluation.sets if name in SELECTIONS]:
        if few := images_per_class.lacking(config, dataset):
            raise ConfigError([f"evaluation.sets: {', '.join(selected)}: too few real images: {some(few)}"])
        if common is None and {*sizes.values()} != {images_per_class.total(config, dataset)}:
            text = ", ".join(f"{name} {size}" for name, size in sizes.items())
            terminal.event(f"note: {ipc} real images per class are selected; the sets have {text} images")
    return config


def _folder(output: str) -> Path:
    return Path(os.path.expanduser(output)).absolute()


def _occupied(folder: Path) -> Iterator[str]:
    """Yield a problem if a folder cannot take the rows of an evaluation."""
    files = RunFolder(folder)
    if os.path.lexists(folder) and not folder.is_dir():
        yield f"output: {folder} is a file; give a folder"
    elif files.config.exists():
        yield f"output: {folder} is the folder of a run, whose own rows need no output; give another"
    elif any(_is_set(place) for place in (folder, *folder.parents)):
        yield f"output: {folder} is in the folder of a synthetic set; give another"
    elif run := next((x for x in folder.parents if RunFolder(x).config.exists() and RunFolder(x).owner.exists()), None):
        yield f"output: {folder} is in {run}, the folder of a run; give another"
    elif files.evaluation.exists() and not files.evaluated.exists():
        yield f"output: {files.evaluation} has rows of unknown sets; give another folder"
    elif files.evaluation.exists():
        try:
            read_csv(files.evaluation)
        except RowsError as error:
            yield f"output: {error}"


def _is_set(folder: Path) -> bool:
    """Return whether a folder is that of a synthetic set; a file card.json alone may be anybody's."""
    return all(os.path.lexists(folder / name) for name in (CARD, TENSORS))


def _untrained(config: RunConfig) -> Iterator[str]:
    if config.evaluation.epochs == 0:
        yield "evaluation.epochs: 0 means no evaluation; give evaluation.epochs=null for the protocol's own"


def _record(config: RunConfig, dataset: ImageSet, sets: Mapping[str, AnySet]) -> Record:
    """Return what follows from the settings that change a row beside its own columns.

    Test images in files are known by their folder, and the names of the files and their sizes in bytes, not by content.
    """
    common = config.network, dataset.flip, dataset.space.bounds
    test = _hash(dataset.test_split.digest(), config.dataset.root, dataset.test_split.encoded_bytes())
    own = {
        name: _hash(common, each.statistics or dataset.space.statistics, _digest(each)) for name, each in sets.items()
    }
    of_real = common, dataset.space.statistics, config.ipc, config.seed, config.dataset.root
    train = dataset.train_split.digest()
    real = {name: _hash(of_real, train, *_selected(name, config, dataset)) for name in config.evaluation.sets}
    return Record(test, own | real)


def _selected(name: str, config: RunConfig, dataset: ImageSet) -> Iterator[str]:
    """Yield the name of the run of its own that makes a set, which follows from everything that changes the set."""
    if name in SELECTIONS and SELECTIONS[name].features:
        yield Path(selecting.run_of_its_own(config, dataset, name).output).name


def _begun(folder: Path, record: Record) -> Claim:
    """Take the folder and write the record, with the sets of earlier evaluations; return the claim.

    Raises ConfigError if the folder cannot be written, or has rows of other sets of the same names, or of other test
    images.
    """
    files = RunFolder(folder)
    run_folder.check(folder)
    if problems := [*_occupied(folder)]:
        raise ConfigError(problems)
    claim = Claim.new(folder)
    try:
        claim.take()
        with claim.writing():
            write_atomically(files.evaluated, f"{json.dumps(asdict(_joined(files, record)), indent=1)}\n".encode())
    except OSError as error:
        raise ConfigError([f"output: {folder} cannot be written ({error.strerror}); give another"]) from error
    return claim


def _joined(files: RunFolder, record: Record) -> Record:
    """Return the record with the sets of earlier evaluations. Raises ConfigError if they contradict each other."""
    folder = files.path
    if files.evaluated.exists():
        try:
            earlier = records.read(Record, files.evaluated)
        except records.Unreadable as error:
            raise ConfigError([f"output: {line}; give another folder" for line in error.problems]) from error
        others = [name for name, digest in record.sets.items() if earlier.sets.get(name, digest) != digest]
        problems = [
            f"output: {folder} has rows of {name} with other images or settings; give another folder" for name in others
        ]
        if earlier.test != record.test:
            problems.append(f"output: {folder} has rows of other test images; give another folder")
        if problems:
            raise ConfigError(problems)
        record = replace(record, sets={**earlier.sets, **record.sets})
    return record


def _run(config: RunConfig) -> None:
    """Execute the run of a selection with features."""
    Job.prepare(config).run()


def _read(sources: Mapping[str, Source], dataset: ImageSet) -> dict[str, AnySet]:
    """Read all sets. Raises ConfigError with the problems of all."""
    sets: dict[str, AnySet] = {}
    problems: list[str] = []
    for name, source in sources.items():
        try:
            sets[name] = source(dataset)
        except DataError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return sets


def _named(paths: Sequence[Path]) -> dict[str, Path]:
    """Return the absolute paths by short names: their last parts, or the whole paths where these are no names.

    No names are those of several paths or of sets of real images, and those that a spreadsheet executes.
    """
    if odd := [path for path in paths if not is_utf8(str(path))]:
        raise ConfigError([f"{printable(str(path))} is no name in UTF-8; rename it" for path in odd])
    absolute = dict.fromkeys(Path(os.path.abspath(os.path.expanduser(path))) for path in paths)
    last = {path: path.parent.name if path.name == RunFolder.synthetic_set.name else path.name for path in absolute}
    times = Counter(last.values())
    names = {
        path: name if times[name] == 1 and name_problem(name) is None else str(path) for path, name in last.items()
    }
    return {printable(name): path for path, name in names.items()}


def name_problem(name: str) -> str | None:
    """Return why a text cannot name a set; None if it can."""
    if name in SETS or name in SETS_BEFORE:
        return f"is reserved for a set of evaluation.sets ({', '.join([*SETS, *SETS_BEFORE])}); give another name"
    if name.startswith(FORMULA):
        return "begins like a formula of a spreadsheet; give another name"
    return None if name else "is empty; give a name"


def _counts(each: AnySet, dataset: ImageSet) -> tuple[int, ...]:
    """Return the number of stored images of each class, by label; that of a soft label is its most probable one."""
    images = each.images
    labels = images.labels.argmax(1) if images.labels.ndim == 2 else images.labels
    found = labels.bincount(minlength=len(dataset.classes)) // (images.draws * images.tiles)
    return tuple(found.tolist())


def _timed(each: AnySet, config: RunConfig) -> TrainingSet:
    return replace(each.images, epochs=config.evaluation.epochs)


def _digest(each: AnySet) -> str:
    """Return a hash of images and labels."""
    images = each.images
    digest = sha256(repr((images.draws, images.tiles, images.stored)).encode())
    for tensor in (images.images, images.labels):
        digest.update(np.ascontiguousarray(tensor.numpy()).data)
    return digest.hexdigest()


def _hash(*parts: object) -> str:
    return sha256(repr(parts).encode()).hexdigest()


def _short(record: Record) -> str:
    """Return a short text that follows from the sets, their names and the test images."""
    return _hash(record.test, sorted(record.sets.items()))[:10]
