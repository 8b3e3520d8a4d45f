"""Preparing: any source into class shards and a manifest; the same command continues one that was stopped."""

import importlib.util
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dist_condense import __version__
from dist_condense.data.catalogue import KNOWN, is_url, names
from dist_condense.data.ffcv.extra import PACKAGE, SYSTEM
from dist_condense.data.ffcv.writer import UNFINISHED
from dist_condense.data.preparing.betons import Progress, write_betons
from dist_condense.data.preparing.classes import RECORDS, Done, Pixels, Unit, prepare_class, read_record
from dist_condense.data.preparing.sources import Source, in_words_of_the_command, open_catalogued
from dist_condense.data.preparing.tars import DATASET, MapUnordered, open_tars
from dist_condense.data.shards.manifest import FILE, SPLITS, Made, Manifest, Skipped, write_manifest
from dist_condense.data.shards.manifest_reader import read_manifest
from dist_condense.system import records
from dist_condense.system.credentials import address, masked
from dist_condense.system.errors import DataError, listed
from dist_condense.system.files import write_atomically

UNITS = "classes (both splits)"
IDENTITY = "options.json"
OWN_FILE = re.compile(r"\d{4,}-\d{3,}\.tar|\..*\.tmp")
SHOWN_LETTERS = 200


@dataclass(frozen=True)
class PrepareOptions:
    """What decides the images in DEST; another value, but of skip_bad, needs another DEST."""

    val: str | None = None
    """Brace pattern of the tars of the second split; for tars only."""
    size: int | None = None
    """Pixels of a side; None keeps every file byte for byte."""
    png: bool = False
    """Resized images as PNG, without loss, instead of JPEG."""
    classes: str | tuple[str, ...] | None = None
    """A named subset, or names in label order (of tars WordNet ids too); None for all."""
    class_names: tuple[str, ...] | None = None
    """class_names[label in the tars]; for tars only."""
    orientation: bool | None = None
    """Turn images by their EXIF orientation; None: as the data set does (folders and tars of one's own: yes)."""
    skip_bad: bool = False
    """Leave out images that cannot be read, instead of stopping."""


@dataclass(frozen=True)
class Plan:
    """A source that was opened, and where it goes; making it writes nothing."""

    dest: Path
    identity: Mapping[str, Any]
    """Source and options as JSON holds them, as far as DEST is bound to them."""
    source: Source
    pixels: Pixels
    skip_bad: bool

    def check(self) -> None:
        """DataError where DEST holds what other options or another program made."""
        if begun := _begun(self.dest):
            usual = {"channels": KNOWN[self.source.dataset].facts.channels}  # of a version that did not record them
            refuse_others(self.dest, usual | begun, self._wanted)
        elif self.dest.exists() and any(path.name != RECORDS for path in self.dest.iterdir()):
            raise DataError([f"{self.dest} holds files that this command did not make; give an empty or new folder."])

    def run(self, map_unordered: MapUnordered, progress: Progress) -> Manifest:
        """Prepare what is not done yet; DataError naming the images that cannot be read. What is finished is kept."""
        self.check()
        for name in (RECORDS, *SPLITS):
            (self.dest / name).mkdir(parents=True, exist_ok=True)
        write_atomically(self.dest / RECORDS / IDENTITY, json.dumps(self._wanted).encode())
        kept: list[Done] = []
        fresh: list[Done] = []
        begun: dict[tuple[str, int], str] = {}
        try:
            for done in map_unordered(prepare_class, self._todo(kept, begun)):
                del begun[done.split, done.label]
                fresh.append(done)
                progress(len(kept) + len(fresh), len(self.source.classes) * len(SPLITS), UNITS)
        except Exception as error:
            error.add_note(f"at work or next were {listed(list(begun.values()))}")
            raise
        return self._manifest([*kept, *fresh])

    @property
    def _wanted(self) -> dict[str, Any]:
        classes = [entry.name for entry in self.source.classes]
        return {
            **self.identity,
            "classes": classes,
            "upright": self.pixels.upright,
            "channels": self.source.channels,
        }

    def _todo(self, kept: list[Done], begun: dict[tuple[str, int], str]) -> Iterator[Unit]:
        """Units without a record, their names to `begun`; the records of the others go to `kept`."""
        for split in SPLITS:
            for label, entry in enumerate(self.source.classes):
                images = self.source.images(split, label)
                unit = Unit(self.dest, split, label, entry.name, images, self.pixels, self.skip_bad)
                record = read_record(unit)
                if record is None:
                    begun[split, label] = f"{split}/{entry.name}"
                    yield unit
                else:
                    kept.append(record)

    def _manifest(self, every: list[Done]) -> Manifest:
        ordered = sorted(every, key=lambda done: (SPLITS.index(done.split), done.label))
        skipped: tuple[Skipped, ...] = tuple(entry for done in ordered for entry in done.skipped)
        splits = {split: tuple(done.shards for done in ordered if done.split == split) for split in SPLITS}
        options = {key: value for key, value in self.identity.items() if key != "source"}
        made = Made(self.identity["source"], self.source.dataset, options, __version__)
        classes, size, channels = self.source.classes, self.pixels.size, self.source.channels
        upright = size is None and self.pixels.upright  # those of one size are upright by now
        return Manifest(classes, size, channels, made, splits, skipped, upright=upright)


def prepare(
    source: str,
    dest: Path,
    options: PrepareOptions,
    map_unordered: MapUnordered,
    progress: Progress,
    ffcv: bool = False,
) -> Manifest:
    """Write the shards of all classes and, last, dest/manifest.json; a DEST that is complete is left as it is.

    :param source: a root with train/ and val/, a brace pattern of tars, or NAME:ROOT of the catalogue.
    :param ffcv: also write FFCV files, where there are none yet.
    :raises DataError: for what is wrong with the arguments, before anything is written; later for images that cannot
        be read, when all finished classes are kept.
    """
    planned = plan(source, dest, options, map_unordered, ffcv)
    manifest = planned.run(map_unordered, progress) if isinstance(planned, Plan) else planned
    return finish(dest, manifest, ffcv, progress)


def plan(
    source: str, dest: Path, options: PrepareOptions, map_unordered: MapUnordered, ffcv: bool = False
) -> Plan | Manifest:
    """What is to be done, or the manifest if that is all there. DataError with what is wrong; writes nothing."""
    source = address(source)
    problems = _problems(source, options, ffcv)
    if problems:
        raise DataError(problems)
    if linked := [name for name in (RECORDS, *SPLITS) if (dest / name).is_symlink()]:
        raise DataError([f"{dest / linked[0]} is a link, through which nothing is written; give the folder itself."])
    identity = {"source": str(source), **json.loads(json.dumps(asdict(options)))}
    del identity["skip_bad"]  # may change from one start to the next
    if (dest / FILE).exists():
        held = read_manifest(str(dest))
        refuse_others(dest, {"source": held.made.source, **held.made.options}, identity)
        return held
    opened = open_source(source, options, map_unordered, _begun(dest))
    pixels = Pixels(opened.channels, options.size or opened.size, options.png, opened.upright)
    planned = Plan(dest.absolute(), identity, opened, pixels, options.skip_bad)
    planned.check()
    return planned


def finish(dest: Path, manifest: Manifest, ffcv: bool, progress: Progress) -> Manifest:
    """Write the FFCV files if asked, then the manifest if it is new; remove the records and what was left half done."""
    held = (dest / FILE).exists() and manifest == read_manifest(str(dest))
    if ffcv and manifest.ffcv is None:
        manifest = replace(manifest, ffcv=write_betons(dest, manifest, progress))
        held = False
    if not held:
        write_manifest(dest, manifest)
    named = {shard.url for shards in manifest.splits.values() for entry in shards for shard in entry}
    for file in [file for split in SPLITS for file in (dest / split).iterdir()]:
        if OWN_FILE.fullmatch(file.name) and f"{file.parent.name}/{file.name}" not in named:
            file.unlink()
    for folder in dest.glob(f".*.beton.*{UNFINISHED}"):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(dest / RECORDS, ignore_errors=True)
    return manifest


def _begun(dest: Path) -> dict[str, Any]:
    """The options that an unfinished DEST was started with; empty for a new one."""
    record = dest / RECORDS / IDENTITY
    return records.read(dict[str, Any], record) if record.is_file() else {}


def open_source(
    source: str, options: PrepareOptions, map_unordered: MapUnordered, begun: Mapping[str, Any] | None = None
) -> Source:
    """The data set that SOURCE names; DataError with what is wrong with it, in the words of this command.

    :param begun: what an earlier start recorded, whose channels stay.
    """
    try:
        if is_tars(source):
            given = options.classes, options.class_names
            tars = open_tars(source, options.val, *given, map_unordered, _channels(DATASET, begun))
            usual = KNOWN[tars.dataset].facts.upright
            return replace(tars, upright=usual if options.orientation is None else options.orientation)
        name, _, root = source.partition(":") if names_a_data_set(source) else (DATASET, ":", source)
        channels = _channels(name, begun)
        return open_catalogued(name, root or None, options.size, options.classes, options.orientation, channels)
    except DataError as error:
        raise DataError([in_words_of_the_command(problem) for problem in error.problems]) from error


def _channels(name: str, begun: Mapping[str, Any] | None) -> int | None:
    return begun.get("channels", KNOWN[name].facts.channels) if begun else None


def names_a_data_set(source: str) -> bool:
    """Whether SOURCE is NAME:ROOT rather than a folder or a url; DataError for a NAME that is not known."""
    name, colon, _ = source.partition(":")
    if not colon or is_url(source) or Path(source).exists():
        return False
    if name not in names():
        told = f"'{source}' is no folder, and '{name}' no data set; choose one of {', '.join(names())}."
        raise DataError([told])
    return True


def is_tars(source: str) -> bool:
    """Whether SOURCE is a pattern of tars."""
    return source.rstrip("}").endswith(".tar")


def refuse_others(dest: Path, held: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """DataError naming every option that DEST was started with otherwise."""
    keys = [key for key in {**held, **wanted} if held.get(key) != wanted.get(key)]
    shown = [f"{key} was {_shown(held.get(key))}, now {_shown(wanted.get(key))}" for key in keys]
    if shown:
        raise DataError([f"{dest} was made with other options: {'; '.join(shown)}. Give those, or another DEST."])


def _shown(value: Any) -> str:
    return masked(repr(value))[:SHOWN_LETTERS]


def _problems(source: str, options: PrepareOptions, ffcv: bool) -> list[str]:
    problems = []
    if options.size is not None and options.size < 1:
        problems.append(f"--size is {options.size}; give pixels of a side, at least 1.")
    if options.png and options.size is None:
        problems.append("--png says how resized images are written; it needs --size.")
    if not is_tars(source) and (options.val is not None or options.class_names is not None):
        problems.append(f"--val and --class-names are for tars; '{source}' does not end with .tar.")
    if ffcv and options.size is None:
        problems.append("--ffcv needs --size: an FFCV file holds images of one size.")
    if ffcv and importlib.util.find_spec("ffcv") is None:
        problems.append(f"--ffcv needs the package ffcv: `{SYSTEM}`, then `{PACKAGE}`.")
    return problems
