"""Mixed-class WebDataset tars as a source: one pass over all headers, then images by their offset."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Protocol, TypeVar

from braceexpand import braceexpand

from dist_condense.data.image_set import ClassName, ambiguous
from dist_condense.data.preparing.classes import ClassImages
from dist_condense.data.preparing.sources import Source
from dist_condense.data.reading.headers import channels_of
from dist_condense.data.sets.listing import PassedOver, not_text, told
from dist_condense.data.sets.request import choose
from dist_condense.data.sets.subsets import SUBSETS
from dist_condense.data.shards.tars import Sample, read_labels, scan_tar
from dist_condense.system.errors import SHOWN, DataError, listed
from dist_condense.system.remote import scheme

Item = TypeVar("Item")
Result = TypeVar("Result")
DATASET = "image_folder"
"""Photographs: the constants of class folders hold for them too."""
_WNID_KEY = re.compile(r"(?:.*/)?(n\d{8})[_\d]")


class MapUnordered(Protocol):
    """Runs a function over items, here or on many machines, and gives results as they come; errors are raised."""

    def __call__(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]: ...


@dataclass(frozen=True)
class TarImages:
    """Images of a class, wherever they lie in the tars: (position of the tar, sample)."""

    tars: tuple[str, ...]
    entries: tuple[tuple[int, Sample], ...]

    def __len__(self) -> int:
        return len(self.entries)

    def stem(self, index: int) -> str:
        """The last part of the sample's key."""
        return self.entries[index][1].key.rsplit("/", 1)[-1]

    def where(self, index: int) -> str:
        """Tar and member."""
        tar, sample = self.entries[index]
        return f"{self.tars[tar]}: {sample.member}"

    def read(self, index: int) -> bytes:
        """The member's bytes."""
        tar, sample = self.entries[index]
        with open(self.tars[tar], "rb") as stream:
            stream.seek(sample.offset)
            return stream.read(sample.length)


ByLabel = Mapping[int, TarImages]


def expand(pattern: str) -> tuple[str, ...]:
    """The tars of a brace pattern in order, as absolute paths; DataError for what is no file of this machine."""
    try:
        tars = tuple(braceexpand(pattern))
    except ValueError as reason:
        raise DataError([f"'{pattern}': {reason}. Give a pattern such as 'train-{{0000..0146}}.tar'."]) from reason
    if any(scheme(tar) is not None for tar in tars):
        raise DataError([f"'{pattern}': tars to prepare must be files; copy them to this machine first."])
    tars = tuple(str(Path(tar).absolute()) for tar in tars)
    missing = [tar for tar in tars if not Path(tar).is_file()]
    if missing:
        raise DataError([f"{len(missing)} of the {len(tars)} tars of '{pattern}' are missing: {listed(missing)}."])
    return tars


def open_tars(
    train: str,
    val: str | None,
    classes: str | Sequence[str] | None,
    class_names: Sequence[str] | None,
    map_unordered: MapUnordered,
    channels: int | None = None,
) -> Source:
    """Index tars given by brace patterns; labels are the numbers in `.cls`, new ones follow the chosen classes.

    `class_names[number]` names a class; without it, a class whose keys all begin with one WordNet id has that name,
    others their number. `channels`, 1 or 3; None: by the headers of the images. Raises DataError with all that
    is wrong.
    """
    if val is None:
        raise DataError(["--val is missing: give the pattern of the tars with the validation images."])
    notes: list[str] = []
    found = {
        "train": _by_label(train, map_unordered, notes),
        "val": _by_label(val, map_unordered, notes),
    }
    numbers = sorted(found["train"])
    names = _names(found, numbers, class_names)
    chosen = _chosen(names, classes, train)
    empty = [names[index].name for index in chosen if numbers[index] not in found["val"]]
    if empty:
        raise DataError([f"{val}: {len(empty)} classes have no validation image: {listed(empty)}."])

    def images(split: str, label: int) -> ClassImages:
        return found[split][numbers[chosen[label]]]

    if channels is None:
        every = (images(split, label) for split in found for label in range(len(chosen)))
        files = ((entry, index) for entry in every for index in range(len(entry)))
        channels = channels_of(files, lambda file: BytesIO(file[0].read(file[1])))
    return Source(DATASET, tuple(names[index] for index in chosen), channels, None, images, notes=tuple(notes))


def index_labelled(item: tuple[int, str]) -> tuple[int, list[tuple[int, Sample]] | list[str], PassedOver]:
    """(position, tar) -> position, the tar's (label, sample)s or its problems, and what was passed over."""
    position, tar = item
    try:
        samples, passed = scan_tar(Path(tar))
        return position, list(zip(read_labels(Path(tar), samples), samples, strict=True)), passed
    except DataError as error:
        return position, error.problems, PassedOver()


def _by_label(pattern: str, map_unordered: MapUnordered, notes: list[str]) -> dict[int, TarImages]:
    """The samples of every class in the order of the tars, whatever order the answers come in; a note on them."""
    tars = expand(pattern)
    entries: dict[int, list[tuple[int, Sample]]] = {}
    problems: list[str] = []
    passed = PassedOver()
    for position, answer, more in sorted(map_unordered(index_labelled, enumerate(tars)), key=lambda entry: entry[0]):
        passed.update(more)
        for entry in answer:
            if isinstance(entry, str):
                problems.append(entry)
            else:
                entries.setdefault(entry[0], []).append((position, entry[1]))
    if not entries and not problems:
        problems.append(f"{tars[0]}: the tars hold no image.")
    if problems:
        rest = [f"... and {len(problems) - SHOWN} more problems."] if len(problems) > SHOWN else []
        raise DataError(problems[:SHOWN] + rest)
    notes.append(told(pattern, sum(map(len, entries.values())), len(entries), passed))
    return {label: TarImages(tars, tuple(found)) for label, found in entries.items()}


def _names(found: Mapping[str, ByLabel], numbers: Sequence[int], given: Sequence[str] | None) -> list[ClassName]:
    """One name per number; DataError when a list is too short, or names come twice."""
    if given is not None and numbers[-1] >= len(given):
        raise DataError([f"--class-names has {len(given)} names, but the tars have the label {numbers[-1]}."])
    wnids = [_wnid(found, number) for number in numbers]
    names = [
        ClassName(given[number] if given is not None else wnid or str(number), wnid)
        for number, wnid in zip(numbers, wnids, strict=True)
    ]
    if twice := ambiguous(names):
        repeated = f"These names or WordNet ids stand for several labels: {listed(twice)}."
        raise DataError([f"{repeated} Correct --class-names or the tars."])
    if unwritable := not_text([entry.name for entry in names], "--class-names"):
        raise DataError(unwritable)
    return names


def _wnid(found: Mapping[str, ByLabel], number: int) -> str | None:
    """The WordNet id with which all keys of this label begin."""
    keys = {
        match[1] if (match := _WNID_KEY.match(sample.key)) else None
        for _, sample in found["train"][number].entries
    }  # fmt: skip
    return keys.pop() if len(keys) == 1 else None


def _chosen(names: Sequence[ClassName], classes: str | Sequence[str] | None, where: str) -> tuple[int, ...]:
    """Positions of the wanted names or WordNet ids, in their order."""
    if isinstance(classes, str) and classes not in SUBSETS:
        raise DataError([f"--classes is '{classes}', which is no named subset ({', '.join(SUBSETS)})."])
    by_wnid = {entry.wnid: entry.name for entry in names if entry.wnid is not None}
    wanted = SUBSETS[classes] if isinstance(classes, str) else classes
    known = None if wanted is None else [by_wnid.get(name, name) for name in wanted]
    positions, problems = choose(known, [entry.name for entry in names], where)
    if problems or not positions or len(set(positions)) < len(positions):
        raise DataError(problems or ["--classes is empty or names a class more than once."])
    return positions
