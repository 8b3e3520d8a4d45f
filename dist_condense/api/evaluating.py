"""Evaluation of sets, in files or in memory, as a function."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dist_condense.api.collecting import Collected, as_bytes, both, collected, written
from dist_condense.api.condensing import DATA, OUTPUTS, OWN, Result, load_plugins, plain
from dist_condense.data import ImageSet
from dist_condense.evaluation.evaluate import TrainingSet
from dist_condense.evaluation.rows import NAME
from dist_condense.job.any_set import AnySet, Stated, misplaced
from dist_condense.job.evaluating import Evaluated, Source, by_name, evaluate_sets, foreign, name_problem
from dist_condense.job.implied import implied
from dist_condense.result.synthetic_set import SyntheticDataset
from dist_condense.settings import config as configs
from dist_condense.settings.config import ConfigError
from dist_condense.settings.keys import leaves
from dist_condense.system.conversion import shown
from dist_condense.system.errors import DataError, listed
from dist_condense.system.terminal import printable

UNNAMED = "set"
"""Name of a single set in memory."""


def evaluate(
    sets: Any,
    train: Any = None,
    test: Any = None,
    *,
    space: str | None = None,
    factor: int = 1,
    columns: Sequence[str] | None = None,
    output: str | Path | None = None,
    **keys: Any,
) -> Evaluated:
    """Train networks from scratch on each set, and test them on the test images of a data set.

    Networks with a row in the evaluation.csv of the folder are not trained again.

    :param sets: a set, or a mapping of names to sets: the path of what ``dist-condense evaluate`` takes
        (docs/evaluate.md), a :class:`Result`, what ``load_set`` returns, or images and labels in memory as
        :func:`condense` takes them. Labels in memory are names of classes, or their positions.
    :param train: training images, of which mean and std are measured and ``evaluation.sets`` are selected; None: test
        images are those of the first :class:`Result` or synthetic set, or those that keys of ``dataset`` name.
    :param test: test images; they are given if ``train`` is given.
    :param space: space of the pixels in .pt files, ``unit`` or ``normalised``.
    :param factor: number of tiles of an image along each axis in .pt files.
    :param columns: names of the columns with images and labels in tables, where there are several.
    :param output: folder for the results; None: one in ``outputs`` whose name follows from sets and test images.
    :param keys: keys of docs/config.md, of the sections evaluation, dataset, network, data, cluster and compute;
        those of a section are a dict, ``evaluation={"seeds": 5}``.
    :raises DataError: data in memory have another form than described.
    :raises ConfigError: settings or plug-ins have problems, or a set cannot be used; nothing was started.
    :raises TrialFailed: some networks failed; the rows of the others are kept.
    """
    load_plugins()
    named = dict(sets) if isinstance(sets, Mapping) else {None: sets}
    place = {} if output is None else {"output": output}
    given = {key: plain(value) for key, value in leaves({**place, **keys})}
    paths = [path for each in named.values() if (path := _path(each)) is not None]
    stated = Stated(space=space, factor=factor, columns=columns)
    known = [*foreign(given), *_missing(named, train, test), *stated.problems(paths)]
    if train is not None:
        known += [f"{key}: train and test set it" for key in given if key in OWN]
    if known:
        raise ConfigError(known)
    configs.from_dict(given)  # refuses values before data are written
    with _data(train, test, output) as own:
        used = {key: x for key, x in implied(paths, [*given]).items() if not (own and key.startswith("dataset."))}
        config = configs.from_dict(used | own | given)
        stated = replace(stated, orientation=config.dataset.orientation)
        sources: dict[str, Source] = {}
        for name, each in named.items():
            sources |= _sources(name, each, stated)
        return evaluate_sets(sources, config, None if output is None else str(output))


def _path(given: Any) -> Path | None:
    """Return the path of a set in files; None for data in memory."""
    if isinstance(given, Result):
        return given.folder
    if isinstance(given, SyntheticDataset):
        return given.file.parent
    return Path(os.path.expanduser(given)) if isinstance(given, str | Path) else None


def _missing(named: Mapping[Any, Any], train: Any, test: Any) -> Iterator[str]:
    if not named:
        yield "sets: there is none"
    for name in named:
        if name is None:
            continue
        if not isinstance(name, str) or printable(name) != name[:NAME]:
            yield f"sets: {shown(name)} is not a name; give a printable text"
        elif problem := name_problem(name):
            yield f"sets: {shown(name)} {problem}"
    if (train is None) != (test is None):
        yield "train, test: give both, or neither; mean and std are measured on train"


@contextmanager
def _data(train: Any, test: Any, output: str | Path | None) -> Iterator[dict[str, Any]]:
    """Write data in memory to a file, and yield the keys that name it, none without data.

    If the evaluation is refused, a new file is removed. Raises DataError.
    """
    if train is None:
        yield {}
        return
    splits = both(train, test)
    folder = Path(os.path.expanduser(OUTPUTS if output is None else output)).absolute() / DATA
    with written(splits[0], splits[1], folder) as file:
        yield {"dataset.name": "arrays", "dataset.root": str(file)}


def _sources(name: str | None, given: Any, stated: Stated) -> dict[str, Source]:
    """Return the source of a set by its name; a path without a name is named by its last part."""
    path = _path(given)
    if path is None:
        if _is_part_of_set(given):
            remedy = "give load_set(path, normalise=False), or its part, as image values"
            raise DataError([f"{name or UNNAMED} is a part of a synthetic set, whose images are normalised; {remedy}."])
        data = collected(given, name or UNNAMED)
        return {name or UNNAMED: functools.partial(_in_memory, data, name or UNNAMED)}
    [(own, source)] = by_name([path], stated).items()
    return {name or own: source}


def _is_part_of_set(given: Any) -> bool:
    """Return whether a data set of torch wraps a synthetic set that normalises its images."""
    inner = [getattr(given, "dataset", None), *(getattr(given, "datasets", None) or ())]
    return any(
        each.normalise if isinstance(each, SyntheticDataset) else each is not None and _is_part_of_set(each)
        for each in inner
    )


def _in_memory(data: Collected, name: str, target: ImageSet) -> AnySet:
    """Return a set in memory whose images have the form of the test images. Raises DataError."""
    if not target.facts.floats:
        [data] = as_bytes(data)
    shape, is_float = data.images.shape[1:], data.images.dtype != np.uint8
    if shape != target.shape or (target.facts.floats and not is_float):
        found, of_test = (f"{'floats' if x else 'bytes'}" for x in (is_float, target.facts.floats))
        remedy = "" if is_float == target.facts.floats else "; give all as bytes, or all as floats in [0, 1]"
        raise DataError(
            [f"{name}: images are {found} {list(shape)}, the test images are {of_test} {list(target.shape)}{remedy}."]
        )
    images = torch.from_numpy(np.ascontiguousarray(data.images))
    if is_float and not images.isfinite().all():
        raise DataError([f"{name}: a pixel is not a finite number."])
    if problem := misplaced(images, target):
        raise DataError([f"{name}: {problem}; give image values, before normalisation."])
    return AnySet(TrainingSet(images, torch.from_numpy(_positions(data, name, target)), stored=True))


def _positions(data: Collected, name: str, target: ImageSet) -> np.ndarray:
    """Return the label of each image among the classes of the test images, int64 ``[N]``.

    Integers without names of classes are names where all classes of the test images are called by numbers, and
    otherwise positions.
    """
    known = {entry.name: position for position, entry in enumerate(target.classes)}
    values, inverse = np.unique(data.labels, return_inverse=True)
    is_numbered = data.labels.dtype.kind in "iu" and data.classes is None
    if is_numbered and not all(text.isdecimal() for text in known):
        known = {str(position): position for position in known.values()}
    texts = [_text(value, data.classes) for value in values.tolist()]
    if others := [text for text in texts if text not in known]:
        raise DataError([f"{name}: the test images have no class {listed(others)}; they have {listed([*known])}."])
    if lost := [text for text in known if text not in texts]:
        raise DataError([f"{name}: it has no image of {listed(lost)}."])
    return np.array([known[text] for text in texts], dtype=np.int64)[inverse]


def _text(label: Any, classes: Sequence[str] | None) -> str:
    is_named = classes is not None and isinstance(label, int) and 0 <= label < len(classes)
    return classes[label] if classes is not None and is_named else str(label)
