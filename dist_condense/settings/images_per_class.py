"""The number of synthetic images of each class, from the key ``ipc``: one number for all, or numbers by class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dist_condense.data import ImageSet
from dist_condense.data.image_set import ClassName, ambiguous
from dist_condense.settings.schema import RunConfig
from dist_condense.settings.values import meant, some

OTHERS = "*"
"""Name that stands for all classes that ``ipc`` does not name."""


def number(config: RunConfig, entry: ClassName) -> int:
    """Return the number of images of a class; 1 if it has none, see :func:`problems`."""
    if isinstance(config.ipc, int):
        return config.ipc
    key = _key(config.ipc, entry)
    return 1 if key is None else config.ipc[key]


def numbers(config: RunConfig, dataset: Any) -> tuple[int, ...]:
    """Return the number of images of each class, by label.

    :param dataset: an ImageSet, or images that planning assumes.
    """
    return tuple(number(config, entry) for entry in dataset.classes)


def stated(counts: Sequence[int], dataset: ImageSet) -> int | dict[str, int] | None:
    """Return the value of ``ipc`` for these numbers of images by label; None if a class has none, or no name alone."""
    first, *others = {*counts}
    if not others:
        return first or None
    keys = [entry.wnid or entry.name for entry in dataset.classes]
    return dict(zip(keys, counts, strict=True)) if all(counts) and len({*keys}) == len(keys) else None


def total(config: RunConfig, dataset: Any) -> int:
    """Return the number of images of all classes."""
    return sum(numbers(config, dataset))


def most(config: RunConfig) -> int:
    """Return the largest number of images of a class."""
    return config.ipc if isinstance(config.ipc, int) else max(config.ipc.values())


def text(config: RunConfig) -> str:
    """Return the number of images per class for messages: ``10``, or ``2 to 10`` if classes have different numbers."""
    least, largest = (config.ipc,) * 2 if isinstance(config.ipc, int) else (min(config.ipc.values()), most(config))
    return str(least) if least == largest else f"{least} to {largest}"


def lacking(config: RunConfig, dataset: Any) -> list[str]:
    """Return the classes with fewer real images than ``ipc``, each with both numbers: ``oak (3 of 10)``."""
    each = zip(dataset.classes, dataset.counts, numbers(config, dataset), strict=True)
    return [f"{entry.name} ({count} of {ipc})" for entry, count, ipc in each if count < ipc]


def problems(config: RunConfig, dataset: Any) -> Iterator[str]:
    """Yield an error message for each reason why ``ipc`` does not give every class one number."""
    if isinstance(config.ipc, int):
        return
    classes, known = dataset.classes, config.ipc
    names = {name for entry in classes for name in (entry.name, entry.wnid) if name}
    for key in known:
        if key not in names and key != OTHERS:
            yield f"ipc: {config.dataset.name} has no class {key!r:.80}{meant(key, names)}"
    for key in ambiguous(classes):
        if key in known:
            yield f"ipc: {key} is the name of several classes; give their WordNet ids"
    for entry in classes:
        if entry.name != entry.wnid and {entry.name, entry.wnid} <= known.keys():
            yield f"ipc: {entry.name} and {entry.wnid} are one class; give one of them"
    if OTHERS in known and all(_key(known, entry) != OTHERS for entry in classes):
        yield f'ipc: "{OTHERS}" stands for no class, because all are named; leave it out'
    if missing := [entry.name for entry in classes if not _key(known, entry)]:
        yield f'ipc: no number for {some(missing)}; give each class one, or "{OTHERS}": N for all others'


def _key(known: Mapping[str, int], entry: ClassName) -> str | None:
    """Return the key with the number of a class: its WordNet id, its name, or that of all others."""
    return next((key for key in (entry.wnid, entry.name, OTHERS) if key is not None and key in known), None)
