"""Prepared class shards (`dist-condense prepare`) as a data set: streamed, or from the beton beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path

import torch

from dist_condense.data.image_set import ClassName, Facts, ImageSet
from dist_condense.data.reading.decode import Form
from dist_condense.data.reading.source import ClassSource
from dist_condense.data.reading.split import OpenRaw, StoredSplit
from dist_condense.data.reading.tiers import Reading
from dist_condense.data.sets.request import Request, choose
from dist_condense.data.shards.manifest import FILE, Manifest
from dist_condense.data.shards.manifest_reader import read_manifest
from dist_condense.data.shards.shards import ShardStore
from dist_condense.system.errors import DataError
from dist_condense.system.remote import scheme


def has_manifest(root: Path) -> bool:
    """Whether prepared shards lie in a folder."""
    return (root / FILE).is_file()


def open_prepared(root: str, request: Request, facts: Facts) -> ImageSet:
    """The wanted classes, by name or WordNet id. DataError with all that is wrong.

    :param root: the folder or url of the manifest.
    """
    manifest = read_manifest(root)
    stored, problems = _choose(root, request, manifest)
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
    if manifest.size is not None and request.orientation is not None:
        problems.append(
            f"dataset.orientation: the images of {root} were turned, or not, when they were resized; "
            f"leave it out, or prepare again."
        )
    if problems:
        raise DataError(problems)
    size = request.size or manifest.size or facts.size
    form = Form(facts.channels, size, request.upright(manifest.upright))
    train, test = (_split(root, manifest, name, stored, form) for name in ("train", "val"))
    classes = tuple(manifest.classes[i] for i in stored)
    notes = _notes(root, manifest, classes)
    if manifest.size is not None and size > manifest.size:
        notes = (*notes, f"{root}/{FILE}: images were prepared with {manifest.size} px and are enlarged to {size} px")
    return ImageSet(request.name, facts, size, classes, train, test, notes)


def _notes(root: str, manifest: Manifest, classes: Sequence[ClassName]) -> tuple[str, ...]:
    names = {entry.name for entry in classes}
    skipped = sum(entry.class_name in names for entry in manifest.skipped)
    return (f"{root}/{FILE}: {skipped:,} images were left out by --skip-bad; it names them",) if skipped else ()


def _choose(root: str, request: Request, manifest: Manifest) -> tuple[tuple[int, ...], list[str]]:
    by_wnid = {entry.wnid: entry.name for entry in manifest.classes if entry.wnid}
    wanted = request.wanted()
    names = None if wanted is None else [by_wnid.get(name, name) for name in wanted]
    return choose(names, [entry.name for entry in manifest.classes], f"{root}/{FILE}")


def _split(root: str, manifest: Manifest, name: str, stored: tuple[int, ...], form: Form) -> StoredSplit:
    counts, encoded = manifest.counts(name), manifest.image_bytes(name)
    return StoredSplit(
        counts=tuple(counts[i] for i in stored),
        form=form,
        open_store=partial(_open_store, root, _chosen(manifest, stored), name),
        sizes=partial(list, [encoded[i] for i in stored]),
        digest=partial(_digest, _chosen(manifest, stored), name, form),
        open_raw=_raw(root, manifest, name, stored, form.size),
    )


def _chosen(manifest: Manifest, stored: tuple[int, ...]) -> Manifest:
    """The manifest of these classes alone, so that its labels are ours."""
    splits = {name: tuple(shards[i] for i in stored) for name, shards in manifest.splits.items()}
    return replace(manifest, classes=tuple(manifest.classes[i] for i in stored), splits=splits)


def _open_store(
    root: str, manifest: Manifest, split: str, labels: Sequence[int], reading: Reading, now: bool = True
) -> ShardStore:
    store = ShardStore(root, manifest, split, labels, reading.cache, reading.verify)
    return store.opened() if now else store


def _digest(manifest: Manifest, split: str, form: Form) -> str:
    """Over the hashes of the shards: the images themselves, wherever they lie."""
    shards = [[(shard.count, shard.sha256) for shard in entry] for entry in manifest.splits[split]]
    return sha256(repr((shards, *form.key)).encode()).hexdigest()


class BetonClasses:
    """Some classes of a beton under labels of their own."""

    def __init__(self, source: ClassSource, stored: Sequence[int]) -> None:
        self._source, self._stored = source, stored

    def count(self, label: int) -> int:
        """Images of this class."""
        return self._source.count(self._stored[label])

    def get(self, label: int, indices: torch.Tensor) -> torch.Tensor:
        """See ClassSource."""
        return self._source.get(self._stored[label], indices)


def _raw(root: str, manifest: Manifest, split: str, stored: tuple[int, ...], size: int) -> OpenRaw | None:
    if manifest.ffcv is None:
        return None
    return partial(_open_beton, root, manifest, split, stored, size)


def _open_beton(
    root: str, manifest: Manifest, split: str, stored: tuple[int, ...], size: int, labels: Sequence[int]
) -> BetonClasses:
    """All classes are in one file, so `labels` opens no less."""
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
