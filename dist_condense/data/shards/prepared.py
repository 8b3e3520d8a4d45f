"""Data sets of prepared class shards (`dist-condense prepare`), read from the shards or from the beton beside them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path

import torch

from dist_condense.data.image_set import ClassName, Facts, ImageSet
from dist_condense.data.reading.decode import Form
from dist_condense.data.reading.source import ClassSource
from dist_condense.data.reading.split import StoredSplit
from dist_condense.data.reading.tiers import Reading
from dist_condense.data.sets.request import Request, select_classes
from dist_condense.data.shards.manifest import FILE, SPLITS, Manifest
from dist_condense.data.shards.manifest_reader import read_manifest
from dist_condense.data.shards.shards import ShardStore
from dist_condense.system.errors import DataError
from dist_condense.system.remote import scheme


def has_manifest(root: Path) -> bool:
    """Return whether a folder contains prepared shards; its manifest may be damaged, and even be no file."""
    return os.path.lexists(root / FILE)


def open_prepared(root: str, request: Request, facts: Facts) -> ImageSet:
    """Open prepared class shards; classes are requested by name or WordNet id. Raises DataError with all problems.

    :param root: the folder or url of the manifest.
    """
    manifest = read_manifest(root)
    stored, problems = _stored_classes(root, request, manifest)
    problems = request.problems() + problems
    if facts.own and request.channels in (None, manifest.channels):
        facts = facts.with_channels(manifest.channels)
    elif facts.own:
        problems.append(
            f"dataset.channels is {request.channels}, but the images of {root} were prepared with {manifest.channels}; "
            f"leave it out, or prepare again."
        )
    elif manifest.channels != facts.channels:
        problems.append(
            f"{root}/{FILE}: images have {manifest.channels} channels, {request.name} has {facts.channels}; "
            f"set dataset.name to {manifest.made.dataset}."
        )
    if request.test_fraction is not None:
        problems.append(
            f"dataset.test_fraction is {request.test_fraction}, but the images of {root} were divided when they were "
            f"prepared; leave it out, or prepare again with --test-fraction."
        )
    if manifest.size is not None and request.orientation is not None:
        problems.append(
            f"dataset.orientation: the images of {root} were turned, or not, when they were resized; "
            f"leave it out, or prepare again."
        )
    if problems:
        raise DataError(problems)
    size = request.size or manifest.size or facts.size
    form = Form(facts.channels, size, request.upright(manifest.upright))
    train, test = (_split(root, manifest, name, stored=stored, form=form) for name in SPLITS)
    classes = tuple(manifest.classes[i] for i in stored)
    notes = _notes(root, manifest, classes)
    if manifest.size is not None and size > manifest.size:
        notes = (*notes, f"{root}/{FILE}: images were prepared with {manifest.size} px and are enlarged to {size} px")
    return ImageSet(
        name=request.name,
        facts=facts,
        size=size,
        classes=classes,
        train_split=train,
        test_split=test,
        notes=notes,
    )


def _notes(root: str, manifest: Manifest, classes: Sequence[ClassName]) -> tuple[str, ...]:
    names = {entry.name for entry in classes}
    skipped = sum(entry.class_name in names for entry in manifest.skipped)
    return (f"{root}/{FILE}: {skipped:,} images were left out by --skip-bad; it names them",) if skipped else ()


def _stored_classes(root: str, request: Request, manifest: Manifest) -> tuple[tuple[int, ...], list[str]]:
    """Return the manifest's labels of the requested classes, and a problem if some are missing."""
    by_wnid = {entry.wnid: entry.name for entry in manifest.classes if entry.wnid}
    requested = request.class_names()
    names = None if requested is None else [by_wnid.get(name, name) for name in requested]
    return select_classes(names, [entry.name for entry in manifest.classes], f"{root}/{FILE}")


def _split(root: str, manifest: Manifest, name: str, *, stored: tuple[int, ...], form: Form) -> StoredSplit:
    selected = _selected(manifest, stored)
    raw = partial(_open_beton, root, manifest, name, stored=stored, size=form.size)
    return StoredSplit(
        counts=selected.counts(name),
        form=form,
        open_store=partial(_open_store, root, selected, name, stored),
        sizes=partial(list, selected.image_bytes(name)),
        digest=partial(_digest, selected, name, form),
        open_raw=raw if manifest.ffcv and name in manifest.ffcv else None,
    )


def _selected(manifest: Manifest, stored: tuple[int, ...]) -> Manifest:
    """Return a manifest of only the classes `stored`, in this order; its labels are those of the opened data set."""
    splits = {name: tuple(shards[i] for i in stored) for name, shards in manifest.splits.items()}
    return replace(manifest, classes=tuple(manifest.classes[i] for i in stored), splits=splits)


def _open_store(
    root: str,
    manifest: Manifest,
    split: str,
    stored: tuple[int, ...],
    labels: Sequence[int],
    reading: Reading,
    now: bool = True,
) -> ShardStore:
    store = ShardStore(root, manifest, split, labels, numbers=stored, cache=reading.cache, verify=reading.verify)
    return store.opened() if now else store


def _digest(manifest: Manifest, split: str, form: Form) -> str:
    """Return a hash of `form` and the shards' hashes, which identifies the images independently of their location."""
    shards = [[(shard.count, shard.sha256) for shard in entry] for entry in manifest.splits[split]]
    return sha256(repr((shards, *form.key)).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class BetonClasses:
    """A ClassSource of selected classes of a beton; `stored[label]` is the label of a class in the file."""

    source: ClassSource
    stored: Sequence[int]

    def get(self, label: int, indices: torch.Tensor) -> torch.Tensor:
        return self.source.get(self.stored[label], indices)


def _open_beton(
    root: str, manifest: Manifest, split: str, labels: Sequence[int], *, stored: tuple[int, ...], size: int
) -> BetonClasses:
    """Open the beton of a split; `labels` is ignored, because one file contains all classes.

    Raises DataError if the beton is remote, or if its image size or file size is not the expected one.
    """
    from dist_condense.data.ffcv.beton import BetonSource

    if manifest.size != size:
        raise DataError(
            [f"{root}: the beton holds {manifest.size} px, not dataset.size={size}; leave dataset.size out."]
        )
    if scheme(root) is not None:
        raise DataError([f"{root}: FFCV reads from a local folder; copy the beton there, or set data.tier=auto."])
    assert manifest.ffcv is not None
    beton = manifest.ffcv[split]
    path = Path(root) / beton.file
    if path.is_file() and (size_now := path.stat().st_size) != beton.bytes:
        raise DataError([f"{path}: it has {size_now} bytes, the manifest says {beton.bytes}; prepare again."])
    return BetonClasses(BetonSource(path, manifest.counts(split), manifest.channels, size), stored)
