"""Preparation of any source as class shards with a manifest. Repeating an interrupted command continues its work."""

import importlib.util
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from dist_condense import __version__
from dist_condense.data.catalogue import KNOWN, is_url, names
from dist_condense.data.ffcv.extra import PACKAGE, SYSTEM
from dist_condense.data.ffcv.writer import UNFINISHED
from dist_condense.data.preparing.betons import ReportProgress, write_betons
from dist_condense.data.preparing.classes import ClassTask, FinishedClass, ShardFormat, finished_class, prepare_class
from dist_condense.data.preparing.finished import RECORDS
from dist_condense.data.preparing.sources import Source, for_command_line, open_catalogued
from dist_condense.data.preparing.tars import DATASET, MapUnordered, open_tars
from dist_condense.data.sets.folders import TEST_FOLDERS
from dist_condense.data.sets.request import LARGEST_SIDE
from dist_condense.data.shards.manifest import FILE, SPLITS, Made, Manifest, ShardFile, write_manifest
from dist_condense.data.shards.manifest_reader import read_manifest
from dist_condense.system import records
from dist_condense.system.credentials import address, masked
from dist_condense.system.errors import DataError, listed
from dist_condense.system.files import write_atomically

UNITS = "classes (both splits)"
IDENTITY = "options.json"
OWN_FILE = re.compile(r"\d{4,}-\d{3,}\.tar|\..*\.tmp")
SHOWN_LETTERS = 200


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """Options that determine the images in the folder DEST.

    A change of any option except `skip_bad` requires another DEST.
    """

    val: str | None = None
    """Brace pattern of the validation tars; only for a source of tars."""
    size: int | None = None
    """Height and width in pixels; None keeps every file byte for byte."""
    png: bool = False
    """Whether resized images are written as PNG (lossless) instead of JPEG."""
    classes: str | tuple[str, ...] | None = None
    """A named subset, or class names in label order (WordNet ids are accepted for tars, too); None for all classes."""
    class_names: tuple[str, ...] | None = None
    """Class names, indexed by the labels in the tars; only for a source of tars."""
    orientation: bool | None = None
    """Whether images are rotated by their EXIF orientation; None: the data set's default (see Facts.upright)."""
    test_fraction: float | None = None
    """Fraction of each class that is held out as test images, above 0 and below 1; only for class folders without
    train/ and val/."""
    skip_bad: bool = False
    """Whether unreadable images are left out; otherwise they stop the command."""


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """An opened source and its destination folder; nothing is written before :meth:`run`."""

    dest: Path
    identity: Mapping[str, Any]
    """Source and options that must not change for the same DEST, as plain JSON values."""
    source: Source
    form: ShardFormat
    skip_bad: bool

    def check(self) -> None:
        """Raise DataError if DEST was prepared with other options, or contains files of another program."""
        if recorded := _recorded_options(self.dest):
            default = {"channels": KNOWN[self.source.dataset].facts.channels}  # earlier versions did not record it
            check_options(self.dest, default | recorded, self._options)
        elif self.dest.exists() and any(path.name != RECORDS for path in self.dest.iterdir()):
            raise DataError([f"{self.dest} holds files that this command did not make; give an empty or new folder."])

    def run(self, map_unordered: MapUnordered, report: ReportProgress) -> Manifest:
        """Prepare all unfinished classes, and return the manifest.

        Raises DataError naming unreadable images; the classes that were finished before are kept.
        """
        self.check()
        for name in (RECORDS, *SPLITS):
            (self.dest / name).mkdir(parents=True, exist_ok=True)
        write_atomically(self.dest / RECORDS / IDENTITY, json.dumps(self._options).encode())
        kept: list[FinishedClass] = []
        new: list[FinishedClass] = []
        running: dict[tuple[str, int], str] = {}
        try:
            for finished in map_unordered(prepare_class, self._tasks(kept, running)):
                del running[finished.split, finished.label]
                new.append(finished)
                report(len(kept) + len(new), len(self.source.classes) * len(SPLITS), UNITS)
        except Exception as error:
            error.add_note(f"in progress or next: {listed(list(running.values()))}")
            raise
        return self._manifest([*kept, *new])

    @property
    def _options(self) -> dict[str, Any]:
        classes = [entry.name for entry in self.source.classes]
        return {
            **self.identity,
            "classes": classes,
            "upright": self.form.upright,
            "channels": self.source.channels,
        }

    def _tasks(self, kept: list[FinishedClass], running: dict[tuple[str, int], str]) -> Iterator[ClassTask]:
        """Yield the tasks of unfinished classes; meanwhile, update `kept` and `running`.

        The records of finished classes are appended to `kept`, and the names of unfinished classes are added to
        `running`.
        """
        for split in SPLITS:
            for label, entry in enumerate(self.source.classes):
                task = ClassTask(
                    dest=self.dest,
                    split=split,
                    label=label,
                    class_name=entry.name,
                    images=self.source.images(split, label),
                    form=self.form,
                    skip_bad=self.skip_bad,
                )
                finished = finished_class(task)
                if finished is None:
                    running[split, label] = f"{split}/{entry.name}"
                    yield task
                else:
                    kept.append(finished)

    def _manifest(self, finished: list[FinishedClass]) -> Manifest:
        ordered = sorted(finished, key=lambda entry: (SPLITS.index(entry.split), entry.label))
        options = {key: value for key, value in self.identity.items() if key != "source"}
        return Manifest(
            classes=self.source.classes,
            size=self.form.size,
            channels=self.source.channels,
            made=Made(self.identity["source"], self.source.dataset, options, __version__),
            splits={split: tuple(entry.shards for entry in ordered if entry.split == split) for split in SPLITS},
            skipped=tuple(image for entry in ordered for image in entry.skipped),
            upright=self.form.size is None and self.form.upright,  # resized images are already upright
        )


def plan(
    source: str, dest: Path, options: PrepareOptions, *, map_unordered: MapUnordered, ffcv: bool = False
) -> Preparation | Manifest:
    """Open the source, or return the manifest if DEST is complete. Nothing is written.

    :param source: a folder with train/ and val/, a brace pattern of tars, or NAME:ROOT, where NAME is in the catalogue.
    :param ffcv: whether FFCV files are requested.
    :raises DataError: with all problems of the arguments.
    """
    source = address(source)
    problems = _problems(source, options, ffcv)
    if problems:
        raise DataError(problems)
    images = ("",) if options.test_fraction is not None else ("train", *TEST_FOLDERS)
    if problem := _dest_problem(source, dest, images):
        raise DataError([problem])
    identity = {"source": str(source), **json.loads(json.dumps(asdict(options)))}
    del identity["skip_bad"]  # may differ when the command is repeated
    if (dest / FILE).exists():
        existing = read_manifest(str(dest))
        check_options(dest, {"source": existing.made.source, **existing.made.options}, identity)
        if lost := [shard.url for shard in _shards(existing) if not _has_size(dest / shard.url, shard.bytes)]:
            problem = f"{dest} lacks shards, or they have other sizes: {listed(lost)}"
            raise DataError([f"{problem}. Restore them, or prepare in another folder."])
        return existing
    opened = open_source(source, options, map_unordered, _recorded_options(dest))
    form = ShardFormat(opened.channels, options.size or opened.size, options.png, opened.upright)
    planned = Preparation(dest=dest.absolute(), identity=identity, source=opened, form=form, skip_bad=options.skip_bad)
    planned.check()
    return planned


def _shards(manifest: Manifest) -> Iterator[ShardFile]:
    """Yield the manifest's shards that are files."""
    for classes in manifest.splits.values():
        yield from (shard for shards in classes for shard in shards if not is_url(shard.url))


def _has_size(file: Path, size: int) -> bool:
    return file.is_file() and file.stat().st_size == size


def _dest_problem(source: str, dest: Path, splits: Sequence[str]) -> str | None:
    """Return why nothing can be written to DEST, or why its files would be taken for a part of SOURCE.

    :param splits: names of the folders of SOURCE that hold class folders; empty for SOURCE itself.
    """
    if os.path.lexists(dest) and not dest.is_dir():
        return f"{dest} is no folder; give an empty or new one."
    parent = next((path for path in dest.absolute().parents if os.path.lexists(path)), dest)  # / has none
    if not os.path.exists(dest) and not (parent.is_dir() and os.access(parent, os.W_OK)):
        return f"{dest} cannot be made, because {parent} is no folder that you may write to; give another."
    for path in (dest / name for name in (RECORDS, *SPLITS)):
        if path.is_symlink():
            return f"{path} is a link, through which nothing is written; give the folder itself."
        if path.exists() and not path.is_dir():
            return f"{path} is no folder; {dest} holds files that this command did not make, give another."
    root = "" if is_tars(source) else source.partition(":")[2] if names_a_data_set(source) else source
    for images in (Path(os.path.expanduser(root), name) for name in splits if root):
        if dest.resolve().is_relative_to(images.resolve()):
            return f"{dest} is in {images}, whose folders are classes of images; give a folder outside of it."
    return None


def finish(dest: Path, manifest: Manifest, ffcv: bool, report: ReportProgress) -> Manifest:
    """Write the requested FFCV files and a new or changed manifest; remove records and unfinished files.

    Returns the manifest, which includes the FFCV files.
    """
    unchanged = (dest / FILE).exists() and manifest == read_manifest(str(dest))
    if ffcv and manifest.ffcv is None:
        manifest = replace(manifest, ffcv=write_betons(dest, manifest, report))
        unchanged = False
    if not unchanged:
        write_manifest(dest, manifest)
    named = {shard.url for shards in manifest.splits.values() for entry in shards for shard in entry}
    for file in [file for split in SPLITS for file in (dest / split).iterdir()]:
        if OWN_FILE.fullmatch(file.name) and f"{file.parent.name}/{file.name}" not in named:
            file.unlink()
    for folder in dest.glob(f".*.beton.*{UNFINISHED}"):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(dest / RECORDS, ignore_errors=True)
    return manifest


def _recorded_options(dest: Path) -> dict[str, Any]:
    """Return the options that were recorded in an unfinished DEST; empty for a new DEST.

    Raises DataError if they are unreadable.
    """
    record = dest / RECORDS / IDENTITY
    if not os.path.lexists(record):
        return {}
    try:
        options = records.read(dict[str, Any], record)
        records.made(_Channels, options, str(record), ignore_unknown=True)
    except records.Unreadable as error:
        raise DataError([f"{error}; remove {dest / RECORDS} to start again, or give another DEST."]) from error
    return options


@dataclass(frozen=True)
class _Channels:
    """The recorded option that is used before it is compared; earlier versions did not record it."""

    channels: Literal[1, 3] | None = None


def open_source(
    source: str, options: PrepareOptions, map_unordered: MapUnordered, recorded: Mapping[str, Any] | None = None
) -> Source:
    """Open the data set that the argument SOURCE specifies.

    Raises DataError with all problems, phrased for the command line.

    :param recorded: options recorded by an earlier command, whose number of channels is kept.
    """
    try:
        if is_tars(source):
            tars = open_tars(
                source,
                options.val,
                classes=options.classes,
                class_names=options.class_names,
                map_unordered=map_unordered,
                channels=_channels(DATASET, recorded),
            )
            default = KNOWN[tars.dataset].facts.upright
            return replace(tars, upright=default if options.orientation is None else options.orientation)
        name, _, root = source.partition(":") if names_a_data_set(source) else (DATASET, ":", source)
        return open_catalogued(
            name,
            root or None,
            size=options.size,
            classes=options.classes,
            orientation=options.orientation,
            channels=_channels(name, recorded),
            test_fraction=options.test_fraction,
        )
    except DataError as error:
        raise DataError([for_command_line(problem) for problem in error.problems]) from error


def _channels(name: str, recorded: Mapping[str, Any] | None) -> int | None:
    return recorded.get("channels", KNOWN[name].facts.channels) if recorded else None


def names_a_data_set(source: str) -> bool:
    """Return whether SOURCE is NAME:ROOT rather than a folder or a url. Raises DataError for an unknown NAME."""
    name, colon, _ = source.partition(":")
    if not colon or is_url(source) or os.path.exists(source):
        return False
    if name not in names():
        raise DataError([f"'{source}' is no folder, and '{name}' no data set; choose one of {', '.join(names())}."])
    return True


def is_tars(source: str) -> bool:
    """Return whether SOURCE is a path or brace pattern of tars."""
    return source.rstrip("}").endswith(".tar")


def check_options(dest: Path, recorded: Mapping[str, Any], requested: Mapping[str, Any]) -> None:
    """Raise DataError naming every requested option that differs from those recorded for DEST."""
    keys = [key for key in {**recorded, **requested} if recorded.get(key) != requested.get(key)]
    changes = [f"{key} was {_shown(recorded.get(key))}, now {_shown(requested.get(key))}" for key in keys]
    if changes:
        raise DataError([f"{dest} was made with other options: {'; '.join(changes)}. Give those, or another DEST."])


def _shown(value: Any) -> str:
    return masked(repr(value))[:SHOWN_LETTERS]


def _problems(source: str, options: PrepareOptions, ffcv: bool) -> list[str]:
    problems = []
    if options.size is not None and not 1 <= options.size <= LARGEST_SIDE:
        problems.append(f"--size is {options.size}; give pixels of a side, from 1 to {LARGEST_SIDE}.")
    if options.png and options.size is None:
        problems.append("--png is the format of resized images; it needs --size.")
    if not is_tars(source) and (options.val is not None or options.class_names is not None):
        problems.append(f"--val and --class-names are for tars; '{source}' does not end with .tar.")
    if is_tars(source) and options.test_fraction is not None:
        problems.append("--test-fraction is for class folders; the test images of tars are those of --val.")
    if ffcv and options.size is None:
        problems.append("--ffcv needs --size: an FFCV file holds images of one size.")
    if ffcv and importlib.util.find_spec("ffcv") is None:
        problems.append(f"--ffcv needs the package ffcv: `{SYSTEM}`, then `{PACKAGE}`.")
    return problems
