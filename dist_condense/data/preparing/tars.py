"""WebDataset tars of mixed classes as a source: all headers are read in one pass, then each image at its offset."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase
from typing import Protocol, TypeVar

from dist_condense.data.image_set import ClassName, ambiguous
from dist_condense.data.preparing.classes import EncodedImages
from dist_condense.data.preparing.sources import Source
from dist_condense.data.reading.headers import channels_of
from dist_condense.data.sets.listing import Ignored, listing_note, non_utf8_names
from dist_condense.data.sets.request import select_classes
from dist_condense.data.sets.subsets import SUBSETS
from dist_condense.data.shards.tars import Sample, read_labels, scan_tar
from dist_condense.system.errors import DataError, listed
from dist_condense.system.remote import scheme

Item = TypeVar("Item")
Result = TypeVar("Result")
DATASET = "image_folder"
"""Name of the catalogue data set whose facts apply to tars, because its images are photographs, too."""
MAX_TARS, MAX_NESTED = 100_000, 16
"""Maximum number of tars of a brace pattern, and maximum depth of its braces."""
MAX_SHOWN = 200
_RANGE = re.compile(r"(?:(-?\d+)\.\.(-?\d+)|([A-Za-z])\.\.([A-Za-z]))(?:\.\.-?(\d+))?")
_ALPHABET = ascii_uppercase + ascii_lowercase
_WNID_KEY = re.compile(r"(?:.*/)?(n\d{8})[_\d]")


class MapUnordered(Protocol):
    """Protocol of a parallel map on one or several machines.

    Results are yielded in order of completion; errors of the function are raised.
    """

    def __call__(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]: ...


@dataclass(frozen=True)
class TarImages:
    """EncodedImages of one class that is distributed over several tars."""

    tars: tuple[str, ...]
    entries: tuple[tuple[int, Sample], ...]
    """For each image, the position of its tar in `tars`, and its sample."""

    def __len__(self) -> int:
        return len(self.entries)

    def stem(self, index: int) -> str:
        return self.entries[index][1].key.rsplit("/", 1)[-1]

    def where(self, index: int) -> str:
        tar, sample = self.entries[index]
        return f"{self.tars[tar]}: {sample.member}"

    def read(self, index: int) -> bytes:
        tar, sample = self.entries[index]
        with open(self.tars[tar], "rb") as stream:
            stream.seek(sample.offset)
            return stream.read(sample.length)


ByLabel = Mapping[int, TarImages]


def expand(pattern: str) -> tuple[str, ...]:
    """Return the tars of a brace pattern in order, as absolute paths.

    Raises DataError for a pattern of more than 100,000 tars, and for missing, repeated or remote files.
    """
    from braceexpand import braceexpand

    shown = pattern if len(pattern) <= MAX_SHOWN else f"{pattern[:MAX_SHOWN]}..."
    try:
        if (number := number_of_tars(pattern)) > MAX_TARS:
            raise ValueError(f"it stands for {number:,} tars, more than {MAX_TARS:,}")
        tars = tuple(braceexpand(pattern))
    except ValueError as reason:
        why = str(reason).replace(pattern, shown)
        raise DataError([f"'{shown}': {why}. Give a pattern such as 'train-{{0000..0146}}.tar'."]) from reason
    if any(scheme(tar) is not None for tar in tars):
        raise DataError([f"'{shown}': tars to prepare must be files; copy them to this machine first."])
    tars = tuple(str(Path(tar).absolute()) for tar in tars)
    if missing := [tar for tar in tars if not os.path.isfile(tar)]:
        raise DataError(
            [f"{len(missing)} of the {len(tars)} tars of '{shown}' are missing, or are no files: {_listed(missing)}."]
        )
    if twice := [tar for tar, times in Counter(tars).items() if times > 1]:
        raise DataError([f"'{shown}' names tars more than once: {_listed(twice)}. Name each once."])
    return tars


def _listed(tars: Sequence[str]) -> str:
    return listed([f"{tar:.{MAX_SHOWN}}" for tar in tars])


def number_of_tars(pattern: str) -> int:
    """Return the number of texts that ``braceexpand`` would make of a pattern, without making any.

    Raises ValueError for braces that are nested too deep or closed but not opened, and for numbers with thousands of
    digits.
    """
    levels = [_Level(0)]
    position = 0
    while position < len(pattern):
        letter = pattern[position]
        if letter == "\\":
            position += 1  # the next character is literal
        elif letter == "{":
            levels.append(_Level(position + 1))
            if len(levels) > MAX_NESTED + 1:
                raise ValueError(f"its braces are nested more than {MAX_NESTED} deep")
        elif letter == "," and len(levels) > 1:
            levels[-1].end_alternative()
        elif letter == "}":
            level = levels.pop()
            if not levels:
                raise ValueError("it closes a brace that it does not open")
            levels[-1].combinations *= level.count(pattern[level.start : position])
        position += 1
    return levels[0].combinations


@dataclass
class _Level:
    """Count of the texts within a pair of braces; `start` is the position after the opening one."""

    start: int
    finished: int = 0
    """Number of texts of the alternatives before the last comma."""
    combinations: int = 1
    """Number of texts of the alternative since the last comma."""

    def end_alternative(self) -> None:
        self.finished, self.combinations = self.finished + self.combinations, 1

    def count(self, content: str) -> int:
        if (match := _RANGE.fullmatch(content)) is None:
            return self.finished + self.combinations
        first, last = map(int, match.group(1, 2)) if match[1] else map(_ALPHABET.index, match.group(3, 4))
        return abs(last - first) // (int(match[5] or 1) or 1) + 1


def open_tars(
    train: str,
    val: str | None,
    *,
    classes: str | Sequence[str] | None,
    class_names: Sequence[str] | None,
    map_unordered: MapUnordered,
    channels: int | None = None,
) -> Source:
    """Index the training and validation tars, given by brace patterns, as a source. Raises DataError with all problems.

    :param classes: a named subset, or names or WordNet ids of the classes to prepare; their order determines the new
        labels (None: all classes, ordered by the number in `.cls`, which is the label in the tars).
    :param class_names: class names, indexed by the number in `.cls` (None: each class is named by the WordNet id with
        which all of its keys start, or by its number if there is none).
    :param channels: 1 or 3 (None: determined from the headers of the images).
    """
    if val is None:
        raise DataError(["--val is missing: give the pattern of the tars with the validation images."])
    notes: list[str] = []
    splits = {
        "train": _by_label(train, map_unordered, notes),
        "val": _by_label(val, map_unordered, notes),
    }
    numbers = sorted(splits["train"])
    names = _names(splits["train"], numbers, class_names)
    selected = _selected(names, classes, train)
    empty = [names[index].name for index in selected if numbers[index] not in splits["val"]]
    if empty:
        raise DataError([f"{val}: {len(empty)} classes have no validation image: {listed(empty)}."])

    def images(split: str, label: int) -> EncodedImages:
        return splits[split][numbers[selected[label]]]

    if channels is None:
        every = (images(split, label) for split in splits for label in range(len(selected)))
        files = ((entry, index) for entry in every for index in range(len(entry)))
        channels = channels_of(files, lambda file: BytesIO(file[0].read(file[1])))
    return Source(
        dataset=DATASET,
        classes=tuple(names[index] for index in selected),
        channels=channels,
        size=None,
        images=images,
        notes=tuple(notes),
    )


@dataclass(frozen=True, kw_only=True)
class IndexedTar:
    """The samples of a tar with their labels, or its problems."""

    position: int
    """Position of the tar among all tars."""
    samples: Sequence[tuple[int, Sample]] = ()
    problems: Sequence[str] = ()
    ignored: Ignored = field(default_factory=Ignored)
    """Counts of the ignored members."""


def index_labelled(item: tuple[int, str]) -> IndexedTar:
    """Index one tar, given as (position, path)."""
    position, tar = item
    try:
        samples, ignored = scan_tar(Path(tar))
        labels = read_labels(Path(tar), samples)
    except DataError as error:
        return IndexedTar(position=position, problems=error.problems)
    return IndexedTar(position=position, samples=list(zip(labels, samples, strict=True)), ignored=ignored)


def _by_label(pattern: str, map_unordered: MapUnordered, notes: list[str]) -> ByLabel:
    """Return the images of each label, in the order of the tars; append a note that summarises the tars to `notes`."""
    tars = expand(pattern)
    entries: dict[int, list[tuple[int, Sample]]] = {}
    problems: Sequence[str] = ()
    damaged = 0
    ignored = Ignored()
    for indexed in sorted(map_unordered(index_labelled, enumerate(tars)), key=lambda indexed: indexed.position):
        ignored.update(indexed.ignored)
        damaged += bool(indexed.problems)
        problems = problems or indexed.problems
        for label, sample in indexed.samples:
            entries.setdefault(label, []).append((indexed.position, sample))
    if problems:
        raise DataError([*problems, *([f"... and problems in {damaged - 1} more tars."] if damaged > 1 else [])])
    if not entries:
        raise DataError([f"{tars[0]}: the tars hold no image."])
    notes.append(listing_note(pattern, sum(map(len, entries.values())), len(entries), ignored))
    return {label: TarImages(tars, tuple(samples)) for label, samples in entries.items()}


def _names(train: ByLabel, numbers: Sequence[int], class_names: Sequence[str] | None) -> list[ClassName]:
    """Return the class name of each number in `.cls`.

    Raises DataError if `class_names` is too short, or if names are repeated or not UTF-8.
    """
    if class_names is not None and numbers[-1] >= len(class_names):
        raise DataError([f"--class-names has {len(class_names)} names, but the tars have the label {numbers[-1]}."])
    wnids = [_wnid(train[number]) for number in numbers]
    names = [
        ClassName(class_names[number] if class_names is not None else wnid or str(number), wnid)
        for number, wnid in zip(numbers, wnids, strict=True)
    ]
    if twice := ambiguous(names):
        repeated = f"These names or WordNet ids stand for several labels: {listed(twice)}."
        raise DataError([f"{repeated} Correct --class-names or the tars."])
    if invalid := non_utf8_names([entry.name for entry in names], "--class-names"):
        raise DataError(invalid)
    return names


def _wnid(images: TarImages) -> str | None:
    """Return the WordNet id with which all keys of a class start; None if there is no such id, or more than one."""
    matches = [_WNID_KEY.match(sample.key) for _, sample in images.entries]
    wnids = {match[1] if match else None for match in matches}
    return wnids.pop() if len(wnids) == 1 else None


def _selected(names: Sequence[ClassName], classes: str | Sequence[str] | None, where: str) -> tuple[int, ...]:
    """Return the positions of the requested classes in `names`, in the requested order.

    Classes are requested by name or WordNet id. Raises DataError for an unknown subset, and for missing or repeated
    classes.
    """
    if isinstance(classes, str) and classes not in SUBSETS:
        raise DataError([f"--classes is '{classes}', which is no named subset ({', '.join(SUBSETS)})."])
    by_wnid = {entry.wnid: entry.name for entry in names if entry.wnid is not None}
    requested = SUBSETS[classes] if isinstance(classes, str) else classes
    known = None if requested is None else [by_wnid.get(name, name) for name in requested]
    positions, problems = select_classes(known, [entry.name for entry in names], where)
    if problems or not positions or len(set(positions)) < len(positions):
        raise DataError(problems or ["--classes is empty or names a class more than once."])
    return positions
