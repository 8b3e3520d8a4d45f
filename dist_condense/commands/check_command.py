"""``dist-condense check``: all that a run may be refused for, and a decoding of its images, without starting it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace

from dist_condense.commands.prepare_command import reporting
from dist_condense.commands.run_command import prepared
from dist_condense.data import ImageSet
from dist_condense.data.reading.checking import Unreadable, decode_all
from dist_condense.engine.errors import RunFailed
from dist_condense.job import preflight
from dist_condense.settings import assembly, effects, images_per_class
from dist_condense.settings.config import ConfigError, RunConfig, given_keys, usable
from dist_condense.settings.procedures import outline_of
from dist_condense.system import terminal

UNDECODED = "the images were not decoded; check again without these problems, so that broken files are named"
OUTPUT = "output:"
"""Start of the problems of the output folder, in spite of which images can be decoded."""


def check(options: argparse.Namespace) -> int:
    """Check a run, print what it would do, and return 0. Raises ConfigError with every problem if it is refused."""
    config, known = usable(options.config, options.overrides)
    found = preflight.findings(config, known)
    if found.dataset is None or not all(problem.startswith(OUTPUT) for problem in found.problems):
        raise ConfigError(found.problems, notes=[*found.notes, UNDECODED])
    if not found.problems:
        terminal.out(*described(config, found.dataset))
    unreadable = _unreadable(found.config, found.dataset)
    if found.problems:
        raise ConfigError([*found.problems, *unreadable], notes=found.notes)
    given = given_keys(options.config, options.overrides)
    if problems := [*unreadable, *_at_the_start(config, is_readable=not unreadable, given=given)]:
        raise ConfigError(problems, notes=found.notes)
    terminal.out("fine     `dist-condense run` with the same arguments starts this run")
    return 0


def described(config: RunConfig, dataset: ImageSet) -> Iterator[str]:
    """Yield the lines that state what a run would do.

    :param config: config without problems.
    """
    where = f" at {config.dataset.root}" if config.dataset.root else ""
    tests = f" and {sum(dataset.test_split.counts):,} test" if config.evaluation.epochs != 0 else ""
    units, workers = outline_of(config, dataset).units, config.cluster.workers
    nested = ", ".join(f"{name}: {size:,}" for name, size in units.levels.items())
    yield f"data set {dataset.name}{where}"
    yield f"classes  {len(dataset.classes):,}"
    yield f"images   {sum(dataset.counts):,} training{tests} images of {' x '.join(map(str, dataset.shape))}"
    yield f"method   {config.method.name}, ipc {images_per_class.text(config)}"
    yield f"steps    {units.total:,} ({nested})"
    yield f"workers  {workers or 'none: one process'}, device {config.cluster.device}"


def _unreadable(config: RunConfig, dataset: ImageSet) -> list[str]:
    """Decode all images that the run reads; return the problems of those that cannot be read, the first by name."""
    data, found = config.data, Unreadable()
    reading = replace(assembly.reading_of(config), threads=data.threads, verify=True)
    splits = {"training images": dataset.train_split}
    if config.evaluation.epochs != 0:
        splits["test images"] = dataset.test_split
    [size] = dataset.decoded_bytes([1])
    with reporting(terminal.console(stderr=True)) as report:
        for what, split in splits.items():
            for done in decode_all(split, reading, size, found):
                report(done, sum(split.counts), what)
    more = f"{found.others:,} more images of dataset.root cannot be read"
    remedy = "`dist-condense prepare SOURCE DEST --skip-bad` leaves unreadable images out"
    return [*found.first, *([f"{more}; {remedy}"] if found.others else [])]


def _at_the_start(config: RunConfig, is_readable: bool, given: set[str]) -> list[str]:
    """Return the problems of what is checked last: stores, servers, earlier work of the run, memory and the cluster.

    :param is_readable: whether all images can be read; if not, only stores and servers are checked, because the
        remaining checks read images.
    :param given: names of the keys that the user has set.
    """
    try:
        if not is_readable:
            preflight.probe(config, complete=False)
            return []
        job = prepared(replace(config, data=replace(config.data, verify=False)))  # all images have been verified
    except (ConfigError, RunFailed) as error:
        return terminal.lines_of(error)
    for remark in [*job.remarks, *effects.remarks(job.config, given)]:
        terminal.out(f"note: {remark}")
    return []
