"""Checkpoints keyed by class, never by worker; one is there once its manifest is, which is written last.

``step_00000120_00000000/`` (units of the procedure, then updates inside the next one) holds
``classes_R.safetensors`` (one per worker that owns classes: their state), ``shared.safetensors`` (state that is the
same on every worker) and ``manifest.json``, which has the size and hash of each.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from dist_condense.engine.procedure import Kind
from dist_condense.system import records
from dist_condense.system.conversion import NonNegative, Sha256
from dist_condense.system.remote import Away
from dist_condense.system.storage import Storage

FORMAT = "dist_condense checkpoint 1"
MANIFEST, SHARED = "manifest.json", "shared.safetensors"
SEAL = "sha256"
NAME = re.compile(r"step_[0-9]{8,}_[0-9]{8,}")
"""Of a checkpoint's folder."""
FILE = re.compile(r"shared\.safetensors|classes_(0|[1-9][0-9]*)\.safetensors")
"""Of the files that a manifest can name."""


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

    store: Storage
    name: str
    state: State
    entries: tuple[Entry, ...]

    @property
    def steps(self) -> int:
        """Units of the procedure done."""
        return self.state.steps

    def classes(self, labels: Iterable[int] | None = None) -> dict[str, Tensor]:
        """The state, by ``NAME.LABEL``, of these classes (of all); files without any are not read."""
        wanted = None if labels is None else set(labels)
        owned = [entry for entry in self.entries if entry.labels]
        read = [entry for entry in owned if wanted is None or wanted & set(entry.labels)]
        return {name: x for entry in read for name, x in self._tensors(entry).items()}

    def shared(self) -> dict[str, Tensor]:
        """The state that every worker holds."""
        return next(self._tensors(entry) for entry in self.entries if entry.name == SHARED)

    @cached_property
    def kinds(self) -> dict[str, dict[str, Kind]]:
        """What each file holds, by its name and the tensor's: all are read and hashed, one at a time in memory.

        :raises Damaged: one is not what was written, or no safetensors; Away when the store does not answer.
        """
        return {
            entry.name: {name: (x.dtype, tuple(x.shape)) for name, x in self._tensors(entry).items()}
            for entry in self.entries
        }

    def verify(self) -> None:
        """Read, hash and parse all files. Raises as :attr:`kinds`."""
        _ = self.kinds  # no assert, which python -O leaves out

    def _tensors(self, entry: Entry) -> dict[str, Tensor]:
        """A file whose hash is right can be another's, who wrote the hash too. Raises Damaged."""
        try:
            return load(self._bytes(entry))
        except Damaged:
            raise
        except (SafetensorError, ValueError, TypeError, KeyError, RuntimeError) as error:
            where = f"{self.store}/{self.name}/{entry.name}"
            words = " ".join(str(error).split())[:200]
            raise Damaged(f"{where} holds no tensors ({type(error).__name__}: {words})") from error

    def _bytes(self, entry: Entry) -> bytes:
        where = f"{self.store}/{self.name}/{entry.name}"
        try:
            data = self.store.read(f"{self.name}/{entry.name}")
        except Away:
            raise
        except OSError as error:
            raise Damaged(f"{where} cannot be read ({error})") from error
        if (len(data), sha256(data).hexdigest()) != (entry.bytes, entry.sha256):
            raise Damaged(f"{where} is not what was written: its size or sha256 differs from the manifest's")
        return data


def name_of(steps: int, updates: int) -> str:
    """Sorts by progress."""
    return f"step_{steps:08d}_{updates:08d}"


def entry_of(name: str, data: bytes, labels: Iterable[int] = ()) -> Entry:
    """What the manifest says of a file."""
    return Entry(name, len(data), sha256(data).hexdigest(), tuple(labels))


def commit(store: Storage, state: State, entries: Iterable[Entry]) -> None:
    """Write the manifest, when all files are there: with it the checkpoint exists."""
    content = {"format": FORMAT, **asdict(state), "files": [asdict(entry) for entry in entries]}
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
    """The committed checkpoint that is furthest and whole; None before the first.

    :param tell: hears of each that is damaged and passed over.
    :raises Damaged: when none of those that were committed is whole, since starting over would hide the loss.
    """
    damaged = []
    for name in reversed(names(store)):
        try:
            found = opened(store, name)
            found.verify()
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
        if content.pop("format", None) != FORMAT:
            raise ValueError(f"{where}: its format is not {FORMAT!r}")
        content.pop("metrics_bytes", None)  # of manifests written before 2026-11-26
        files = {"files": content.pop("files", None)}
        entries = records.made(dict[str, tuple[Entry, ...]], files, where)["files"]
        state = records.made(State, content, where)
        if problem := next(_problems(name, state, entries), None):
            raise ValueError(f"{where}: {problem}")
    except ValueError as error:
        raise Damaged(str(error)) from error
    return Checkpoint(store, name, state, entries)


def _problems(name: str, state: State, entries: Sequence[Entry]) -> Iterator[str]:
    """Of values that fit their types one by one, but not a checkpoint of this name."""
    if name != name_of(state.steps, state.updates):
        yield f"it is that of {name_of(state.steps, state.updates)}; give the folder its name again"
    times = Counter(entry.name for entry in entries)
    for entry in entries:
        if not FILE.fullmatch(entry.name):
            yield f"it names the file {entry.name!r:.80}, and no checkpoint has one"
        if times[entry.name] > 1:
            yield f"it names {entry.name} {times[entry.name]} times"
    if SHARED not in times:
        yield f"it does not name {SHARED}"
    for entry in entries:
        if bool(entry.labels) == (entry.name == SHARED):
            yield f"{entry.name} has {len(entry.labels)} labels; each classes file has some, {SHARED} none"


def _seal(content: dict[str, Any]) -> str:
    """The hash by which a manifest is known to be whole."""
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _is_committed(store: Storage, name: str) -> bool:
    try:
        opened(store, name)
    except (FileNotFoundError, Damaged):
        return False
    return True
