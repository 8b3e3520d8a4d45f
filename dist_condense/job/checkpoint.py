"""Checkpoints keyed by class, never by worker; one is there once its manifest is, which is written last.

``step_00000120_00000000/`` (units of the procedure, then updates inside the next one) holds ``class_C.safetensors``
(the state of class C), ``shared.safetensors`` (state that is the same on every worker) and ``manifest.json``, which has
the size and hash of each. A file is verified while it is loaded, by the worker that needs it; to choose a checkpoint,
its manifest and the sizes of its files are enough. In version 1 a file held all classes of one worker.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, asdict, dataclass
from hashlib import sha256
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from dist_condense.engine.procedure import Kind
from dist_condense.job import header
from dist_condense.system import records
from dist_condense.system.background import side_by_side
from dist_condense.system.conversion import NonNegative, Sha256
from dist_condense.system.remote import Unreachable
from dist_condense.system.storage import Storage

FORMAT = "dist_condense checkpoint 2"
FILES = {
    FORMAT: re.compile(r"class_(0|[1-9][0-9]{0,8})\.safetensors"),
    "dist_condense checkpoint 1": re.compile(r"classes_(0|[1-9][0-9]{0,8})\.safetensors"),
}
"""By format, the files with classes that a manifest can name: a class each, or a worker's."""
MANIFEST, SHARED = "manifest.json", "shared.safetensors"
SEAL = "sha256"
NAME = re.compile(r"step_[0-9]{8,}_[0-9]{8,}")
"""Of a checkpoint's folder."""
AT_ONCE = 8
"""Files written or read at the same time: each waits for a disk to sync, or for a store to answer."""
Loaded = TypeVar("Loaded")


@dataclass(frozen=True)
class Entry:
    """A file of a checkpoint."""

    name: str
    bytes: NonNegative
    sha256: Sha256
    labels: tuple[NonNegative, ...] = ()
    """The classes in it."""


@dataclass(frozen=True)
class State:
    """What a checkpoint says of itself."""

    steps: NonNegative
    """Units of the procedure done."""
    updates: NonNegative
    """Updates done since, inside the next one (training or pre-training of theta)."""
    identity: dict[str, Any]
    """All that changes the result: ``config`` by dotted key, ``data``: digest."""
    tracking_run: str | None
    """On the MLflow server."""
    torch: str
    """Version."""
    device: str
    """Type."""


class Damaged(ValueError):
    """A checkpoint that is not what its manifest says; the message names the file."""


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint."""

    _: KW_ONLY
    store: Storage
    name: str
    state: State
    entries: tuple[Entry, ...]
    format: str = FORMAT

    @property
    def steps(self) -> int:
        """Units of the procedure done."""
        return self.state.steps

    def classes(self) -> dict[str, Tensor]:
        """The state of all classes, by ``NAME.LABEL``. Raises as :meth:`read`."""
        return {name: x for tensors in self.read(self.holding()).values() for name, x in tensors.items()}

    def shared(self) -> dict[str, Tensor]:
        """The state that every worker holds. Raises as :meth:`read`."""
        return self.read([self.common])[self.common]

    @property
    def common(self) -> Entry:
        """The file of that state."""
        return next(entry for entry in self.entries if entry.name == SHARED)

    def holding(self, labels: Iterable[int] | None = None) -> list[Entry]:
        """The files in which these classes are (any is)."""
        sought = None if labels is None else set(labels)
        return [entry for entry in self.entries if (entry.labels if sought is None else sought & set(entry.labels))]

    def read(self, entries: Iterable[Entry]) -> dict[Entry, dict[str, Tensor]]:
        """The tensors of files, each of which is read and hashed once.

        :raises Damaged: one is not what was written, or no safetensors; Unreachable when the store does not answer.
        """
        given = list(entries)
        return dict(zip(given, side_by_side(self._tensors, given, AT_ONCE), strict=True))

    def headers(self) -> dict[Entry, dict[str, Kind] | None]:
        """What all files hold by their first bytes, which nobody has verified; None for no header."""

        def kinds(entry: Entry) -> dict[str, Kind] | None:
            return header.kinds(self.store, f"{self.name}/{entry.name}", entry.bytes)

        return dict(zip(self.entries, side_by_side(kinds, self.entries, AT_ONCE), strict=True))

    def measure(self) -> None:
        """Compare the sizes of the files with the manifest's. Raises Damaged."""
        sizes = self.store.sizes(self.name)
        for entry in self.entries:
            if (size := sizes.get(entry.name)) != entry.bytes:
                held = "it is missing" if size is None else f"it has {size} bytes and had {entry.bytes}"
                raise Damaged(f"{self.where(entry)} is not what was written: {held}")

    def bytes_of(self, entry: Entry) -> bytes:
        """Those of a file, verified. Raises Damaged."""
        try:
            data = self.store.read(f"{self.name}/{entry.name}")
        except Unreachable:
            raise
        except OSError as error:
            raise Damaged(f"{self.where(entry)} cannot be read ({error})") from error
        if (len(data), sha256(data).hexdigest()) != (entry.bytes, entry.sha256):
            raise Damaged(
                f"{self.where(entry)} is not what was written: its size or sha256 differs from the manifest's"
            )
        return data

    def where(self, entry: Entry) -> str:
        """The address of a file, for messages."""
        return f"{self.store}/{self.name}/{entry.name}"

    def _tensors(self, entry: Entry) -> dict[str, Tensor]:
        """A file whose hash is right can be another's, who wrote the hash too. Raises Damaged."""
        data = self.bytes_of(entry)
        try:
            return load(data)
        except (SafetensorError, ValueError, TypeError, KeyError, RuntimeError) as error:
            words = " ".join(str(error).split())[:200]
            raise Damaged(f"{self.where(entry)} holds no tensors ({type(error).__name__}: {words})") from error


def name_of(steps: int, updates: int) -> str:
    """Sorts by progress."""
    return f"step_{steps:08d}_{updates:08d}"


def class_file(label: int) -> str:
    """The name of the file of a class."""
    return f"class_{label}.safetensors"


def entry_of(name: str, data: bytes, labels: Iterable[int] = ()) -> Entry:
    """What the manifest says of a file."""
    return Entry(name, len(data), sha256(data).hexdigest(), tuple(labels))


def commit(store: Storage, state: State, entries: Iterable[Entry], form: str = FORMAT) -> None:
    """Write the manifest, when all files are there: with it the checkpoint exists.

    :param form: a key of :data:`FILES`.
    """
    content = {"format": form, **asdict(state), "files": [asdict(entry) for entry in entries]}
    data = json.dumps({**content, SEAL: _seal(content)}, indent=1).encode()
    store.write(f"{name_of(state.steps, state.updates)}/{MANIFEST}", data)


def prune(store: Storage, kept: int) -> None:
    """Remove all but the newest ``kept`` committed checkpoints; and, before the newest, what was never committed."""
    found = names(store)
    committed = [name for name in found if _is_committed(store, name)]
    for name in found:
        if committed and name < committed[-1] and name not in committed[-kept:]:
            store.remove(f"{name}/{MANIFEST}")
            store.remove(name)


def names(store: Storage) -> list[str]:
    """Of all checkpoints, also of those that were never committed, by progress."""
    return [name for name in store.names() if NAME.fullmatch(name)]


def newest(store: Storage, tell: Callable[[str], None] = lambda text: None) -> Checkpoint | None:
    """The committed checkpoint that is furthest, by its manifest and the sizes of its files. See :func:`furthest`."""
    return furthest(store, lambda name: measured(store, name), tell)


def measured(store: Storage, name: str) -> Checkpoint:
    """A checkpoint whose files have the sizes of its manifest. Raises as :func:`opened`."""
    found = opened(store, name)
    found.measure()
    return found


def furthest(
    store: Storage,
    load: Callable[[str], Loaded],
    tell: Callable[[str], None] = lambda text: None,
    listed: Sequence[str] | None = None,
) -> Loaded | None:
    """What is loaded from the checkpoint that is furthest and whole; None before the first was committed.

    :param load: raises FileNotFoundError for a name that was never committed, and Damaged.
    :param tell: called with a sentence for each that is damaged and passed over.
    :param listed: the names to choose from, by progress; all in the store by default.
    :raises Damaged: when none of those that were committed is whole, since starting over would hide the loss.
    """
    damaged = []
    for name in reversed(names(store) if listed is None else listed):
        try:
            found = load(name)
        except FileNotFoundError:  # never committed
            continue
        except Damaged as error:
            damaged.append(str(error))
            continue
        for text in damaged:
            tell(f"{text}; {name} is used instead")
        return found
    if damaged:
        raise Damaged(f"{'; '.join(damaged)}. No checkpoint in {store} is whole; remove them all to start over")
    return None


def opened(store: Storage, name: str) -> Checkpoint:
    """By its manifest alone, in which nothing is believed: a stranger can have written it, with its seal.

    :raises FileNotFoundError: it was never committed.
    :raises Damaged: another format, other keys or types, names of files that :class:`CheckpointWriter` does not write,
        a name of the folder that is not that of its progress.
    """
    data, where = store.read(f"{name}/{MANIFEST}"), f"{store}/{name}/{MANIFEST} is damaged"
    try:
        content = records.made(dict[str, Any], records.parsed(data, where), where)
        if content.pop(SEAL, None) != _seal(content):
            raise ValueError(f"{where}: it was changed")
        if (form := content.pop("format", None)) not in list(FILES):
            raise ValueError(f"{where}: its format is not {' or '.join(map(repr, FILES))}")
        content.pop("metrics_bytes", None)  # of manifests written before 2026-11-26
        files = {"files": content.pop("files", None)}
        entries = records.made(dict[str, tuple[Entry, ...]], files, where)["files"]
        state = records.made(State, content, where)
        if problem := next(_problems(name, form, state, entries), None):
            raise ValueError(f"{where}: {problem}")
    except ValueError as error:
        raise Damaged(str(error)) from error
    return Checkpoint(store=store, name=name, state=state, entries=entries, format=form)


def _problems(name: str, form: str, state: State, entries: Sequence[Entry]) -> Iterator[str]:
    """Of values that fit their types one by one, but not a checkpoint of this name."""
    if name != name_of(state.steps, state.updates):
        yield f"it is that of {name_of(state.steps, state.updates)}; give the folder its name again"
    times = Counter(entry.name for entry in entries)
    for entry in entries:
        if entry.name != SHARED and not FILES[form].fullmatch(entry.name):
            yield f"it names the file {entry.name!r:.80}, and no checkpoint has one"
        if times[entry.name] > 1:
            yield f"it names {entry.name} {times[entry.name]} times"
    if SHARED not in times:
        yield f"it does not name {SHARED}"
    for entry in entries:
        if bool(entry.labels) == (entry.name == SHARED):
            yield f"{entry.name} has {len(entry.labels)} labels; each file of classes has some, {SHARED} none"
        if form == FORMAT and entry.name != SHARED and [class_file(c) for c in entry.labels] != [entry.name]:
            yield f"{entry.name} has the labels {list(entry.labels[:10])}, and may have that of its name alone"


def _seal(content: dict[str, Any]) -> str:
    """Hash of the content of a manifest, stored in it."""
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _is_committed(store: Storage, name: str) -> bool:
    try:
        opened(store, name)
    except (FileNotFoundError, Damaged):
        return False
    return True
