"""Checks that a checkpoint's tensors fit the run: from headers before a start, and again when they are loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from math import prod

from torch import Tensor

from dist_condense.engine.procedure import Kind, Outline, kind_of
from dist_condense.job.checkpoint import MANIFEST, SHARED, Checkpoint, Damaged, FileEntry
from dist_condense.system import records

Kinds = Mapping[str, Kind]


def loaded(stored: Checkpoint, outline: Outline, labels: Sequence[int]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Load the state of a worker's classes, by ``NAME.LABEL``, and the shared state.

    Only the files that contain these classes or the shared state are read, each once.

    :param labels: classes that the worker owns.
    :raises Damaged: a file differs from its entry, or progress, names, types, shapes or values do not fit the run.
    """
    by_class, shared = dict[str, Tensor](), dict[str, Tensor]()
    for entry, tensors in _verified(stored, outline, labels, [stored.common]).items():
        (shared if entry.name == SHARED else by_class).update(tensors)
    return by_class, shared


def classes(stored: Checkpoint, outline: Outline, count: int) -> dict[str, Tensor]:
    """Load the state of all ``count`` classes, by ``NAME.LABEL``. Raises the errors of :func:`loaded`."""
    verified = _verified(stored, outline, range(count), []).values()
    return {name: x for tensors in verified for name, x in tensors.items()}


def verify(stored: Checkpoint, entry: FileEntry, tensors: Mapping[str, Tensor], outline: Outline) -> None:
    """Check the tensors of a file. Raises Damaged if names, types, shapes or values do not fit the run."""
    kinds = {name: kind_of(x) for name, x in tensors.items()}
    if problem := next(chain(_unlike(kinds, entry, outline), _not_finite(tensors, entry)), None):
        raise Damaged(f"{stored.where(entry)}: {problem}")


def problems(stored: Checkpoint, outline: Outline, classes: int) -> Iterator[str]:
    """Yield ``FILE: problem`` for each file whose classes or tensors do not fit the run.

    Only the manifest and the headers are compared, before a file is read as a whole. Damaged files are omitted, because
    loading skips their checkpoint.

    :param classes: number of classes of the run.
    """
    times = Counter(c for entry in stored.entries for c in entry.labels)
    for entry in stored.entries:
        for label in entry.labels:
            if label >= classes or times[label] > 1:
                yield f"{entry.name}: class {label} occurs {times[label]} times; the run has classes 0 to {classes - 1}"
    if missing := sorted(set(range(classes)) - set(times)):
        yield f"{MANIFEST}: no file contains class {missing[0]}"
    if unusable := next(_beyond(stored, outline, stored.entries), None):
        yield unusable
        return
    for entry, kinds in stored.headers().items():
        problem = "it contains no tensors" if kinds is None else next(_unlike(kinds, entry, outline), None)
        if problem and _is_intact(stored, entry):
            yield f"{entry.name}: {problem}"


def _verified(
    stored: Checkpoint, outline: Outline, labels: Sequence[int], others: Sequence[FileEntry]
) -> dict[FileEntry, dict[str, Tensor]]:
    """Load the files that contain classes, and others, by entry. Raises Damaged if one does not fit the run."""
    entries = stored.entries_of(labels)
    if missing := sorted(set(labels) - {c for entry in entries for c in entry.labels}):
        raise Damaged(f"{stored.store}/{stored.name}/{MANIFEST}: no file contains class {missing[0]}")
    if problem := next(_beyond(stored, outline, [*entries, *others]), None):
        raise Damaged(f"{stored.store}/{stored.name}/{problem}")
    found = stored.read([*entries, *others])
    for entry, tensors in found.items():
        verify(stored, entry, tensors, outline)
    return found


def _beyond(stored: Checkpoint, outline: Outline, entries: Sequence[FileEntry]) -> Iterator[str]:
    """Yield ``FILE: problem`` for progress beyond the end of the run, and for files that are too large to be read."""
    units, state = outline.units, stored.state
    if (state.steps, min(state.updates, 1)) > (units.total, 0):
        reached = f"{units.name} {state.steps} and {state.updates} updates"
        yield f"{MANIFEST}: it is after {reached}, but the run ends after {units.name} {units.total}"
    for entry in entries:
        kinds = [kind for some in _expected(entry, outline) for kind in some.values()]
        tensors = sum(prod(shape) * dtype.itemsize for dtype, shape in kinds)
        if entry.bytes > tensors + records.BYTES:
            yield f"{entry.name}: it has {entry.bytes} bytes, and its tensors have {tensors}"


def _not_finite(tensors: Mapping[str, Tensor], entry: FileEntry) -> Iterator[str]:
    """Yield a problem for each tensor of a class with a number that is not finite, which no run stores."""
    yield from (f"{name} is not finite" for name, x in tensors.items() if entry.labels and not x.isfinite().all())


def _is_intact(stored: Checkpoint, entry: FileEntry) -> bool:
    try:
        stored.bytes_of(entry)
    except Damaged:
        return False
    return True


def _unlike(kinds: Kinds, entry: FileEntry, outline: Outline) -> Iterator[str]:
    """Yield a problem for each tensor that is missing from a file, unknown, or of an unexpected type or shape."""
    needed, optional = _expected(entry, outline)
    allowed = {**needed, **optional}
    yield from (f"{name} is missing" for name in needed if name not in kinds)
    for name, kind in kinds.items():
        if name not in allowed:
            yield f"{name!r:.80} is not a tensor of it"
        elif kind != allowed[name]:
            yield f"{name} is {_words(kind)} and must be {_words(allowed[name])}"


def _expected(entry: FileEntry, outline: Outline) -> tuple[Kinds, Kinds]:
    """Return the types and shapes of the tensors in a file, by name: (required, optional)."""
    if entry.name == SHARED:
        return outline.shared_tensors
    return {f"{name}.{c}": kind for c in entry.labels for name, kind in outline.class_tensors(c).items()}, {}


def _words(kind: Kind) -> str:
    return f"{str(kind[0]).removeprefix('torch.')} {list(kind[1])}"
