"""``dist-condense prepare``: its progress and summary; the work is in data/preparing/prepare.py."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn

from dist_condense.data.preparing.betons import ReportProgress as Report
from dist_condense.data.preparing.prepare import PrepareOptions, finish, plan
from dist_condense.data.preparing.tars import MapUnordered
from dist_condense.data.sets.subsets import SUBSETS
from dist_condense.data.shards.manifest import SPLITS, Manifest
from dist_condense.settings.keys import KEYS
from dist_condense.settings.limits import Limit, Range, refusals
from dist_condense.settings.values import converted
from dist_condense.settings.yaml_files import parsed
from dist_condense.system import records, signals, terminal
from dist_condense.system.errors import DataError
from dist_condense.system.memory import memory_and_swap
from dist_condense.system.process_pool import LocalMap

REFUSED, FAILED = 2, 1
PROCESS_BYTES = 2**28
"""Memory of a process in bytes, at least: what it has imported."""
WORKERS = Range(1, 10_000)
"""Limit of the number of processes or tasks."""
PLAIN_EVERY = 10.0
"""Seconds between progress lines without a terminal."""


def prepare(options: argparse.Namespace) -> int:
    """Convert a data set to shards of one class each and a manifest; repeat the command to continue after a failure.

    Exit code: 0 done, 1 failed (finished classes are kept), 2 refused before anything was written, 130 interrupted by
    Ctrl-C, 143 stopped by SIGTERM.
    """
    try:
        return _prepared(options)
    except KeyboardInterrupt as interrupt:
        terminal.say(f"{signals.description(interrupt)}: the same command continues")
        return signals.exit_code(interrupt)
    except _machine_errors(options.ray) as error:
        terminal.say(f"failed: {_machine_failure(error)}")
        return FAILED


def _machine_errors(ray: bool) -> tuple[type[Exception], ...]:
    """Return the types of errors that neither the source nor the options cause, such as that of a killed process."""
    if not ray:
        return (BrokenProcessPool, MemoryError)
    from dist_condense.commands.ray_errors import RAY_ERRORS

    return (MemoryError, *RAY_ERRORS)


def _machine_failure(error: Exception) -> str:
    text = str(error).strip().split("\n")[0].rstrip(".").replace("by cluster.workers=0", "(leave out --ray)")
    problem = "; ".join([f"{type(error).__name__}: {text}", *getattr(error, "__notes__", [])])
    return f"{problem}. The same command continues; with fewer --workers it needs less memory."


def _prepared(options: argparse.Namespace) -> int:
    console, start = terminal.console(), time.monotonic()
    try:
        mapping = _mapping(options)
        planned = plan(
            options.source, options.dest, _prepare_options(options), map_unordered=mapping, ffcv=options.ffcv
        )
    except (DataError, OSError) as error:
        return _reported("refused", error, REFUSED)
    for note in () if isinstance(planned, Manifest) else planned.source.notes:
        terminal.out(f"note: {note}")
    signals.writing_starts()
    try:
        with reporting(console) as report:
            made = planned if isinstance(planned, Manifest) else planned.run(mapping, report)
            manifest = finish(options.dest, made, options.ffcv, report)
    except (DataError, OSError) as error:
        return _reported("failed", error, FAILED)
    done = "is complete already" if manifest is planned else f"made in {time.monotonic() - start:.0f} s"
    first, *others = summary(manifest)
    terminal.out(f"{options.dest} {done}: {first}", *others)
    return 0


def summary(manifest: Manifest) -> list[str]:
    """Return the lines of the summary: the numbers of classes, images and bytes, then one line per skipped image."""
    images = ", ".join(f"{sum(manifest.counts(split)):,} {split}" for split in SPLITS)
    size = sum(sum(manifest.image_bytes(split)) for split in SPLITS) / 2**20
    lines = [f"{len(manifest.classes)} classes; images: {images}; {size:,.1f} MiB of images"]
    lines += [f"skipped: {entry.split} {entry.class_name} {entry.name}: {entry.reason}" for entry in manifest.skipped]
    return lines


@contextmanager
def reporting(console: Console) -> Iterator[Report]:
    """Yield a function that shows progress: on a terminal a bar per kind of work, else a line every ten seconds."""
    if not console.is_terminal:
        yield _plain(console)
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with terminal.Bars(*columns, console=console) as bar:
        tasks: dict[str, TaskID] = {}

        def report(finished: int, total: int, what: str) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=finished)

        yield report


def _plain(console: Console) -> Report:
    last = [time.monotonic()]

    def report(finished: int, total: int, what: str) -> None:
        if finished == total or time.monotonic() - last[0] >= PLAIN_EVERY:
            last[0] = time.monotonic()
            console.print(f"{terminal.clock()} {finished:,} of {total:,} {what}")

    return report


def _prepare_options(options: argparse.Namespace) -> PrepareOptions:
    return PrepareOptions(
        val=options.val,
        size=options.size,
        png=options.png,
        classes=_classes(options),
        class_names=_class_names(options),
        orientation=options.orientation,
        test_fraction=options.test_fraction,
        skip_bad=options.skip_bad,
    )


def _classes(options: argparse.Namespace) -> str | tuple[str, ...] | None:
    """Parse ``--classes``, which is the name of a subset or a list of class names with or without brackets.

    Return None if the option is absent. Raises DataError if the text is not a list of names.
    """
    text = options.classes
    if text is None or text in SUBSETS:
        return text
    try:
        names = parsed(text) if text.startswith("[") else [name.strip() for name in text.split(",")]
        return tuple(converted("--classes", names, list[str]))
    except ValueError as error:
        raise DataError([f"--classes: {text!r} is not a list of names, a,b or '[\"a, b\",c]': {error}"]) from error


def _class_names(options: argparse.Namespace) -> tuple[str, ...] | None:
    """Read the file of ``--class-names``: one name per line, in UTF-8 with or without a byte order mark."""
    if options.class_names is None:
        return None
    where = f"--class-names: {options.class_names}"
    try:
        data = records.bytes_of(options.class_names)
    except records.Unreadable as error:
        raise DataError([f"--class-names: {error}"]) from error
    names = tuple(records.text_of(data, where).splitlines())
    if empty := [number for number, name in enumerate(names, 1) if not name.strip()]:
        raise DataError([f"{where}, line {empty[0]}: the class name is empty."])
    return names


def _mapping(options: argparse.Namespace) -> MapUnordered:
    limits: dict[str, Limit | None] = {
        "workers": WORKERS,
        "size": KEYS["dataset.size"].limit,
        "test_fraction": KEYS["dataset.test_fraction"].limit,
    }
    for name, limit in limits.items():
        if limit is not None and (reason := next(refusals(getattr(options, name), limit), None)):
            raise DataError([f"--{name.replace('_', '-')}: {reason}."])
    if not options.ray:
        if (needed := options.workers * PROCESS_BYTES) > (memory := memory_and_swap()):
            shown = f"{needed / 2**30:,.0f} GiB, this machine has {memory / 2**30:,.0f}"
            raise DataError([f"--workers is {options.workers}, whose processes need {shown}; give fewer."])
        return LocalMap(options.workers)
    from dist_condense.engine.ray.group import connect
    from dist_condense.engine.ray.tasks import RayMap

    connect()
    return RayMap(options.workers)


def _reported(outcome: str, error: Exception, code: int) -> int:
    terminal.say(*(f"{outcome}: {problem}" for problem in terminal.lines_of(error)))
    return code
