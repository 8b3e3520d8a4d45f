"""Comparison of a checkpoint's tensors with those of a run: by headers before a start, and while they are loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from dist_condense.engine.procedure import Kind, Outline, kind_of
from dist_condense.job.checkpoint import MANIFEST, SHARED, Checkpoint, Damaged, Entry

Kinds = Mapping[str, Kind]


def loaded(found: Checkpoint, outline: Outline, labels: Sequence[int]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The part of the worker that owns these classes: their state by ``NAME.LABEL``, and the shared state. No other
    file of a class is read, and none twice.

    :raises Damaged: a file is not what was written, or has other tensors than those of this run.
    """
    by_class, shared = dict[str, Tensor](), dict[str, Tensor]()
    entries = found.holding(labels)
    if missing := sorted(set(labels) - {c for entry in entries for c in entry.labels}):
        raise Damaged(f"{found.store}/{found.name}/{MANIFEST}: no file has class {missing[0]}")
    for entry, tensors in found.read([*entries, found.common]).items():
        if problem := next(_unlike({name: kind_of(x) for name, x in tensors.items()}, entry, outline), None):
            raise Damaged(f"{found.where(entry)}: {problem}")
        (shared if entry.name == SHARED else by_class).update(tensors)
    return by_class, shared


def problems(found: Checkpoint, outline: Outline, classes: int) -> Iterator[str]:
    """The file and a sentence about it, for all that a checkpoint holds and this run's would not, or lacks; by the
    manifest and the headers. A file that is damaged is none: who loads it passes over the checkpoint.

    :param classes: number of classes; labels are below it.
    """
    times = Counter(c for entry in found.entries for c in entry.labels)
    for entry in found.entries:
        for label in entry.labels:
            if label >= classes or times[label] > 1:
                yield f"{entry.name}: class {label} stands {times[label]} times, and this run has 0 to {classes - 1}"
    if missing := sorted(set(range(classes)) - set(times)):
        yield f"{MANIFEST}: no file has class {missing[0]}"
    for entry, kinds in found.headers().items():
        problem = "it holds no tensors" if kinds is None else next(_unlike(kinds, entry, outline), None)
        if problem and _is_whole(found, entry):
            yield f"{entry.name}: {problem}"


def _is_whole(found: Checkpoint, entry: Entry) -> bool:
    try:
        found.bytes_of(entry)
    except Damaged:
        return False
    return True


def _unlike(kinds: Kinds, entry: Entry, outline: Outline) -> Iterator[str]:
    """Sentences about the tensors of a file that are missing, or others than a run's."""
    if entry.name == SHARED:
        needed, optional = outline.shared_tensors
    else:
        needed, optional = (
            {f"{name}.{c}": kind for name, kind in outline.class_tensors.items() for c in entry.labels},
            {},
        )
    allowed = needed | optional
    yield from (f"{name} is missing" for name in needed if name not in kinds)
    for name, kind in kinds.items():
        if name not in allowed:
            yield f"{name!r:.80} is no tensor of it"
        elif kind != allowed[name]:
            yield f"{name} is {_words(kind)} and must be {_words(allowed[name])}"


def _words(kind: Kind) -> str:
    return f"{str(kind[0]).removeprefix('torch.')} {list(kind[1])}"
