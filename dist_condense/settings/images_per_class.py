"""The number of synthetic images of each class, from the key ``ipc``: one number for all, or numbers by class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dist_condense.data.image_set import ClassName, ambiguous
from dist_condense.settings.schema import RunConfig
from dist_condense.settings.values import meant, some

OTHERS = "*"
"""Name that stands for all classes that ``ipc`` does not name."""


def numbers(config: RunConfig, dataset: Any) -> tuple[int, ...]:
    """Return the number of images of each class, by label; 1 for a class without a number, see :func:`problems`.

    :param dataset: an ImageSet, or images that planning assumes.
    """
    if isinstance(config.ipc, int):
        return (config.ipc,) * len(dataset.classes)
    known = config.ipc
    return tuple(known[key] if (key := _key(known, entry)) else 1 for entry in dataset.classes)


def total(config: RunConfig, dataset: Any) -> int:
    """Return the number of images of all classes."""
    return sum(numbers(config, dataset))


def most(config: RunConfig) -> int:
    """Return the largest number of images of a class."""
    return config.ipc if isinstance(config.ipc, int) else max(config.ipc.values())


def text(config: RunConfig) -> str:
    """Return the number of images per class for messages: ``10``, or ``2 to 10`` if classes have different numbers."""
    if isinstance(config.ipc, int):
        return str(config.ipc)
    return f"{min(config.ipc.values())} to {most(config)}"


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
