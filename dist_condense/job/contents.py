"""Checks that a checkpoint's tensors fit the run: from headers before a start, and again when they are loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from dist_condense.engine.procedure import Kind, Outline, kind_of
from dist_condense.job.checkpoint import MANIFEST, SHARED, Checkpoint, Damaged, FileEntry

Kinds = Mapping[str, Kind]


def loaded(stored: Checkpoint, outline: Outline, labels: Sequence[int]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Load the state of a worker's classes, by ``NAME.LABEL``, and the shared state.

    Only the files that contain these classes or the shared state are read, each once.

    :param labels: classes that the worker owns.
    :raises Damaged: a file differs from its entry, or the names, types or shapes of its tensors do not fit the run.
    """
    by_class, shared = dict[str, Tensor](), dict[str, Tensor]()
    entries = stored.entries_of(labels)
    if missing := sorted(set(labels) - {c for entry in entries for c in entry.labels}):
        raise Damaged(f"{stored.store}/{stored.name}/{MANIFEST}: no file contains class {missing[0]}")
    for entry, tensors in stored.read([*entries, stored.common]).items():
        if problem := next(_unlike({name: kind_of(x) for name, x in tensors.items()}, entry, outline), None):
            raise Damaged(f"{stored.where(entry)}: {problem}")
        (shared if entry.name == SHARED else by_class).update(tensors)
    return by_class, shared


def problems(stored: Checkpoint, outline: Outline, classes: int) -> Iterator[str]:
    """Yield ``FILE: problem`` for each file whose classes or tensors do not fit the run.

    Only the manifest and the headers are compared. Damaged files are omitted, because loading skips their checkpoint.

    :param classes: number of classes of the run.
    """
    times = Counter(c for entry in stored.entries for c in entry.labels)
    for entry in stored.entries:
        for label in entry.labels:
            if label >= classes or times[label] > 1:
                yield f"{entry.name}: class {label} occurs {times[label]} times; the run has classes 0 to {classes - 1}"
    if missing := sorted(set(range(classes)) - set(times)):
        yield f"{MANIFEST}: no file contains class {missing[0]}"
    for entry, kinds in stored.headers().items():
        problem = "it contains no tensors" if kinds is None else next(_unlike(kinds, entry, outline), None)
        if problem and _is_intact(stored, entry):
            yield f"{entry.name}: {problem}"


def _is_intact(stored: Checkpoint, entry: FileEntry) -> bool:
    try:
        stored.bytes_of(entry)
    except Damaged:
        return False
    return True


def _unlike(kinds: Kinds, entry: FileEntry, outline: Outline) -> Iterator[str]:
    """Yield a problem for each tensor that is missing from a file, unknown, or of an unexpected type or shape."""
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
            yield f"{name!r:.80} is not a tensor of it"
        elif kind != allowed[name]:
            yield f"{name} is {_words(kind)} and must be {_words(allowed[name])}"


def _words(kind: Kind) -> str:
    return f"{str(kind[0]).removeprefix('torch.')} {list(kind[1])}"
