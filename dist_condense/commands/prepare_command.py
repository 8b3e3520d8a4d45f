"""``dist-condense prepare``: options, progress and the last line; the work is in data/preparing/prepare.py."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn

from dist_condense.data.catalogue import is_url
from dist_condense.data.preparing.betons import ReportProgress as Report
from dist_condense.data.preparing.prepare import PrepareOptions, finish, plan
from dist_condense.data.preparing.tars import MapUnordered
from dist_condense.data.sets.listing import is_utf8
from dist_condense.data.sets.subsets import SUBSETS
from dist_condense.data.shards.manifest import SPLITS, Manifest
from dist_condense.settings.values import converted
from dist_condense.settings.yaml_files import parsed
from dist_condense.system import signals, terminal
from dist_condense.system.errors import DataError
from dist_condense.system.process_pool import LocalMap

REFUSED, FAILED = 2, 1
PLAIN_EVERY = 10.0
"""Seconds between lines where there is no terminal."""
SOURCE_HELP = (
    "a folder with train/<class>/ and val/<class>/ (or test/); or WebDataset tars of mixed classes as a quoted"
    " pattern, 'train-{0000..0146}.tar', with --val; or NAME:ROOT of a known data set, cifar10:/data"
)


def given_text(text: str) -> str:
    """What is not empty; `~` is home."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty")
    return os.path.expanduser(text)


def place(text: str) -> Path:
    """A path, which has to be UTF-8 as the manifest is."""
    if not is_utf8(text):
        raise argparse.ArgumentTypeError(
            f"{given_text(text)} is not UTF-8; rename it, or link to it under another name"
        )
    if is_url(text):
        raise argparse.ArgumentTypeError(f"{text} is an address; give a folder, and upload it afterwards")
    return Path(given_text(text))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("source", metavar="SOURCE", type=given_text, help=SOURCE_HELP)
    parser.add_argument("dest", metavar="DEST", type=place, help="a new folder; the same command continues")
    parser.add_argument("--val", metavar="PATTERN", help="the tars of the validation images")
    parser.add_argument("--size", type=int, metavar="N", help="pixels of a side; without it files are kept as they are")
    parser.add_argument("--png", action="store_true", help="write resized images without loss instead of as JPEG")
    parser.add_argument("--classes", metavar="SUBSET|a,b,c", help="a named subset, or classes in label order")
    parser.add_argument("--class-names", type=place, metavar="FILE", help="for tars: line n (from 0) names label n")
    parser.add_argument(
        "--orientation",
        action=argparse.BooleanOptionalAction,
        help="turn images as their EXIF orientation says; by default all but those of imagenet:ROOT and the like",
    )
    parser.add_argument("--skip-bad", action="store_true", help="leave out images that cannot be read")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes, or tasks with --ray")
    parser.add_argument("--ray", action="store_true", help="on a Ray cluster; all nodes must see SOURCE and DEST")
    parser.add_argument("--ffcv", action="store_true", help="also write FFCV files; needs --size")


def prepare(given: argparse.Namespace) -> int:
    """Exit code: 0 done, 1 failed, 2 refused before anything was written, 130 interrupted, 143 stopped by SIGTERM."""
    try:
        return _prepared(given)
    except KeyboardInterrupt as asked:
        terminal.say(f"{signals.told(asked)}: the same command continues")
        return signals.exit_code(asked)
    except _machine_errors(given.ray) as error:
        terminal.say(f"failed: {_machine_failed(error)}")
        return FAILED


def _machine_errors(ray: bool) -> tuple[type[Exception], ...]:
    """What the source and the options are not to blame for: processes that were killed, a cluster that fails."""
    if not ray:
        return (BrokenProcessPool, MemoryError)
    from dist_condense.commands.ray_errors import RAY_ERRORS

    return (MemoryError, *RAY_ERRORS)


def _machine_failed(error: Exception) -> str:
    text = str(error).strip().split("\n")[0].rstrip(".").replace("by cluster.workers=0", "(leave out --ray)")
    told = "; ".join([f"{type(error).__name__}: {text}", *getattr(error, "__notes__", [])])
    return f"{told}. The same command continues; with fewer --workers it needs less memory."


def _prepared(given: argparse.Namespace) -> int:
    console, began = terminal.console(), time.monotonic()
    try:
        mapping = _mapping(given)
        planned = plan(given.source, given.dest, _options(given), map_unordered=mapping, ffcv=given.ffcv)
    except (DataError, OSError) as error:
        return _told("refused", error, REFUSED)
    for note in () if isinstance(planned, Manifest) else planned.source.notes:
        terminal.out(f"note: {note}")
    signals.begun()
    try:
        with reporting(console) as report:
            made = planned if isinstance(planned, Manifest) else planned.run(mapping, report)
            manifest = finish(given.dest, made, given.ffcv, report)
    except (DataError, OSError) as error:
        return _told("failed", error, FAILED)
    done = "is complete already" if manifest is planned else f"made in {time.monotonic() - began:.0f} s"
    first, *others = summary(manifest)
    terminal.out(f"{given.dest} {done}: {first}", *others)
    return 0


def summary(manifest: Manifest) -> list[str]:
    """Lines on classes, images, bytes, and what was left out."""
    images = ", ".join(f"{sum(manifest.counts(split)):,} {split}" for split in SPLITS)
    size = sum(sum(manifest.image_bytes(split)) for split in SPLITS) / 2**20
    lines = [f"{len(manifest.classes)} classes; images: {images}; {size:,.1f} MiB of images"]
    lines += [f"skipped: {entry.split} {entry.class_name} {entry.name}: {entry.reason}" for entry in manifest.skipped]
    return lines


@contextmanager
def reporting(console: Console) -> Iterator[Report]:
    """A bar for each kind of work on a terminal, else a line every ten seconds."""
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
            console.print(f"{finished:,} of {total:,} {what}")

    return report


def _options(given: argparse.Namespace) -> PrepareOptions:
    classes, names = _classes(given), _class_names(given)
    return PrepareOptions(
        val=given.val,
        size=given.size,
        png=given.png,
        classes=classes,
        class_names=names,
        orientation=given.orientation,
        skip_bad=given.skip_bad,
    )


def _classes(given: argparse.Namespace) -> str | tuple[str, ...] | None:
    """A subset, or names: texts as they stand, with or without the brackets that dataset.classes has."""
    text = given.classes
    if text is None or text in SUBSETS:
        return text
    try:
        names = parsed(text) if text.startswith("[") else [name.strip() for name in text.split(",")]
        return tuple(converted("--classes", names, list[str]))
    except ValueError as error:
        raise DataError([f"--classes: {text!r} is no list of names, a,b or '[\"a, b\",c]': {error}"]) from error


def _class_names(given: argparse.Namespace) -> tuple[str, ...] | None:
    """A name a line, whatever the machine's own encoding; a mark of the order of bytes is no part of the first."""
    if given.class_names is None:
        return None
    try:
        names = tuple(given.class_names.read_text(encoding="utf-8-sig").splitlines())
    except UnicodeDecodeError as reason:
        raise DataError([f"--class-names: {given.class_names} is no UTF-8 ({reason}). Save it as UTF-8."]) from reason
    if empty := [number for number, name in enumerate(names, 1) if not name.strip()]:
        raise DataError([f"--class-names: {given.class_names}, line {empty[0]}: the name of a class is empty."])
    return names


def _mapping(given: argparse.Namespace) -> MapUnordered:
    if given.workers < 1:
        raise DataError([f"--workers is {given.workers}; give processes at once, at least 1."])
    if not given.ray:
        return LocalMap(given.workers)
    from dist_condense.engine.ray.group import connect
    from dist_condense.engine.ray.tasks import RayMap

    connect()
    return RayMap(given.workers)


def _told(how: str, error: Exception, code: int) -> int:
    terminal.say(*(f"{how}: {problem}" for problem in terminal.lines_of(error)))
    return code
