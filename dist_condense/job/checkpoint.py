"""Checkpoints, stored by class rather than by worker; a checkpoint exists once its last file, the manifest, is written.

The folder ``step_00000120_00000000/`` is named by the number of completed units of the procedure and of completed
updates inside the next unit. It contains ``class_C.safetensors`` (the state of class C) for each class,
``shared.safetensors`` (state that is equal on all workers) and ``manifest.json`` with the size and hash of each file. A
file is verified when a worker loads it; to select a checkpoint, its manifest and the sizes of its files suffice. In
version 1 of the format, a file contained all classes of one worker.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, TypeVar

from torch import Tensor

from dist_condense.engine.procedure import Kind
from dist_condense.engine.trajectory import NETWORK
from dist_condense.job import header
from dist_condense.result.tracking.server_run import Id
from dist_condense.settings.identity import impossible
from dist_condense.settings.run_folder import RunFolder
from dist_condense.system import records, safetensors_header
from dist_condense.system.background import side_by_side
from dist_condense.system.conversion import NonNegative, Rule, Sha256
from dist_condense.system.errors import shortened
from dist_condense.system.remote import Unreachable
from dist_condense.system.storage import Storage

FORMAT = "dist_condense checkpoint 2"
FILES = {
    FORMAT: re.compile(r"class_(0|[1-9][0-9]{0,8})\.safetensors"),
    "dist_condense checkpoint 1": re.compile(r"classes_(0|[1-9][0-9]{0,8})\.safetensors"),
}
"""Patterns of the names of class files, by format: one file per class, or per worker in version 1."""
MANIFEST, SHARED = "manifest.json", "shared.safetensors"
SEAL = "sha256"
NAME = re.compile(r"step_[0-9]{8,15}_[0-9]{8,15}")
"""Pattern of the name of a checkpoint's folder."""
Progress = Annotated[int, Rule("an integer from 0 to 10^15 - 1", lambda x: 0 <= x < 10**15)]
LARGEST = 24 * 2**20
"""Maximum size of a manifest in bytes; one of 100,000 classes has 18 MB."""
AT_ONCE = 8
"""Number of files written or read concurrently, because each waits for a disk to sync or a store to answer."""
Loaded = TypeVar("Loaded")


def is_opened(path: Path) -> bool:
    """Return whether an entry of this name is opened to read checkpoints or networks.

    The entry may be in a run's folder, in a folder of checkpoints, in a checkpoint, or in a pool.
    """
    patterns = (NAME, NETWORK, *FILES.values())
    return path.name in (RunFolder.metrics.name, MANIFEST, SHARED) or any(x.fullmatch(path.name) for x in patterns)


@dataclass(frozen=True)
class FileEntry:
    """Entry of a file in a checkpoint's manifest: name, size in bytes, SHA-256 and classes."""

    name: str
    bytes: NonNegative
    sha256: Sha256
    labels: tuple[NonNegative, ...] = ()
    """Classes whose state is in the file; none for the shared file."""


@dataclass(frozen=True)
class State:
    """Metadata of a checkpoint, stored in its manifest."""

    _: KW_ONLY
    steps: Progress
    """Number of completed units of the procedure."""
    updates: Progress
    """Number of completed updates inside the next unit, in training or pre-training of theta."""
    identity: dict[str, Any]
    """All that determines the result: values of the config, by dotted key, and ``data``, a digest of the data."""
    tracking_run: Id | None
    """Identifier of the run on the MLflow server; None before the server has answered."""
    torch: str
    """Version of torch that computed the state."""
    device: str
    """Type of the device that computed the state."""


class Damaged(ValueError):
    """Error for a checkpoint that is damaged or does not fit the run; the message names the checkpoint or its file.

    A checkpoint is damaged if its manifest is invalid or a file does not match the manifest.
    """


@dataclass(frozen=True)
class Checkpoint:
    """Committed checkpoint, of which only the manifest has been read; the other files are read on request."""

    _: KW_ONLY
    store: Storage
    name: str
    state: State
    entries: tuple[FileEntry, ...]
    format: str = FORMAT

    @property
    def steps(self) -> int:
        """Number of completed units of the procedure."""
        return self.state.steps

    @property
    def common(self) -> FileEntry:
        """Entry of the file with the state that is equal on all workers."""
        return next(entry for entry in self.entries if entry.name == SHARED)

    def entries_of(self, labels: Iterable[int]) -> list[FileEntry]:
        """Return the entries of the files that contain any of these classes."""
        selected = set(labels)
        return [entry for entry in self.entries if selected & set(entry.labels)]

    def read(self, entries: Iterable[FileEntry]) -> dict[FileEntry, dict[str, Tensor]]:
        """Load the tensors of these files, by entry and name; each file is read and hashed once.

        :raises Damaged: a file differs from its entry, or is not in safetensors format.
        :raises Unreachable: the store does not answer.
        """
        files = list(entries)

        def tensors(entry: FileEntry) -> dict[str, Tensor]:
            return self.parsed(entry, self.bytes_of(entry))

        return dict(zip(files, side_by_side(tensors, files, AT_ONCE), strict=True))

    def headers(self) -> dict[FileEntry, dict[str, Kind] | None]:
        """Read types and shapes of tensors from the unverified headers of all files; None for an invalid header."""

        def kinds(entry: FileEntry) -> dict[str, Kind] | None:
            return header.kinds(self.store, f"{self.name}/{entry.name}", entry.bytes)

        return dict(zip(self.entries, side_by_side(kinds, self.entries, AT_ONCE), strict=True))

    def bytes_of(self, entry: FileEntry) -> bytes:
        """Read a file and verify its size and hash.

        :raises Damaged: the file cannot be read, or differs from its entry.
        :raises Unreachable: the store does not answer.
        """
        try:
            data = self.store.read(f"{self.name}/{entry.name}", entry.bytes)
        except Unreachable:
            raise
        except OSError as error:
            raise _unreadable(self.where(entry), error) from error
        if (len(data), sha256(data).hexdigest()) != (entry.bytes, entry.sha256):
            raise Damaged(f"{self.where(entry)} is damaged: its size or sha256 differs from the manifest's")
        return data

    def where(self, entry: FileEntry) -> str:
        """Return the address of a file, for messages."""
        return f"{self.store}/{self.name}/{entry.name}"

    def parsed(self, entry: FileEntry, data: bytes) -> dict[str, Tensor]:
        """Return the tensors in a file's bytes, by name. Raises Damaged if it is not in safetensors format."""
        try:  # untrusted: its hash may be forged as well
            return safetensors_header.tensors(data, f"{self.where(entry)} contains no tensors")
        except records.Unreadable as error:
            raise Damaged(str(error)) from error


def name_of(steps: int, updates: int) -> str:
    """Return the name of a checkpoint's folder."""
    return f"step_{steps:08d}_{updates:08d}"


def progress(name: str) -> list[int]:
    """Return the numbers in the name of a checkpoint's folder: completed units, and updates inside the next unit."""
    return [int(number) for number in name.split("_")[1:]]


def class_file(label: int) -> str:
    """Return the name of the file with the state of a class."""
    return f"class_{label}.safetensors"


def entry_of(name: str, data: bytes, labels: Iterable[int] = ()) -> FileEntry:
    """Return the manifest entry for a file with these bytes and classes."""
    return FileEntry(name, len(data), sha256(data).hexdigest(), tuple(labels))


def commit(store: Storage, state: State, entries: Iterable[FileEntry], form: str = FORMAT) -> None:
    """Commit a checkpoint by writing its manifest; all its other files must already be written.

    :param form: format of the checkpoint, a key of :data:`FILES`.
    """
    content = {"format": form, **asdict(state), "files": [asdict(entry) for entry in entries]}
    data = json.dumps({**content, SEAL: _seal(content)}, indent=1).encode()
    store.write(f"{name_of(state.steps, state.updates)}/{MANIFEST}", data)


def prune(store: Storage, kept: int, reached: str) -> None:
    """Remove all checkpoints older than ``reached``, except the newest ``kept`` committed ones, of which it is one.

    Later checkpoints were not used, so one of their files is damaged. They are neither counted nor removed.

    :param reached: name of the checkpoint that has just been committed.
    """
    older = [name for name in names(store) if progress(name) < progress(reached)]
    committed = [name for name in older if _is_committed(store, name)]
    remaining = set(committed[max(0, len(committed) + 1 - kept) :])
    for name in older:
        if name not in remaining:
            store.remove(f"{name}/{MANIFEST}")
            store.remove(name)


def names(store: Storage) -> list[str]:
    """Return the names of all checkpoints, including uncommitted ones, from least to most progress."""
    return sorted(filter(NAME.fullmatch, store.names()), key=progress)


def newest(store: Storage, report: Callable[[str], None] = lambda text: None) -> Checkpoint | None:
    """Return the newest committed checkpoint whose manifest and file sizes are intact.

    Damaged checkpoints are skipped. Returns None if no checkpoint was committed; raises Damaged if none is intact.

    :param report: called with a sentence for each damaged checkpoint that is skipped.
    """
    return furthest(store, lambda name: measured(store, name), report)


def measured(store: Storage, name: str) -> Checkpoint:
    """Open a checkpoint and check the sizes of its files.

    :raises FileNotFoundError: the checkpoint is uncommitted.
    :raises Damaged: its manifest is invalid, or a file is missing or has another size.
    """
    result, sizes = opened(store, name), store.sizes(name)
    for entry in result.entries:
        if (size := sizes.get(entry.name)) != entry.bytes:
            problem = "it is missing" if size is None else f"it has {size} bytes instead of {entry.bytes}"
            raise Damaged(f"{result.where(entry)} is damaged: {problem}")
    return result


def furthest(
    store: Storage,
    load: Callable[[str], Loaded],
    report: Callable[[str], None] = lambda text: None,
    listed: Sequence[str] | None = None,
) -> Loaded | None:
    """Load the newest intact checkpoint and return the result of ``load``; None if there is no committed checkpoint.

    :param load: function that loads a checkpoint by name. It raises FileNotFoundError for an uncommitted checkpoint and
        Damaged for a damaged one.
    :param report: called with a sentence for each damaged checkpoint that is skipped.
    :param listed: names of the checkpoints to try, from least to most progress; by default all in the store.
    :raises Damaged: there are committed checkpoints, but none is intact; starting over would hide the loss.
    """
    damaged = []
    for name in reversed(names(store) if listed is None else listed):
        try:
            result = load(name)
        except FileNotFoundError:  # uncommitted
            continue
        except Damaged as error:
            damaged.append(str(error))
            continue
        for text in _shortened(damaged):
            report(f"{text}; {name} is used instead")
        return result
    if damaged:
        reasons = "; ".join(_shortened(damaged))
        raise Damaged(f"{reasons}. No checkpoint in {store} is intact; remove them all to start over")
    return None


def opened(store: Storage, name: str) -> Checkpoint:
    """Open a checkpoint by reading only its manifest, which is untrusted, because even its hash may be forged.

    :raises FileNotFoundError: the checkpoint is uncommitted.
    :raises Damaged: the manifest was modified; it has an unknown format, key or type, or names a file that
        :class:`dist_condense.job.checkpoint_writer.CheckpointWriter` does not write; or the folder's name does not
        match the progress.
    """
    file = f"{name}/{MANIFEST}"
    where = f"{store}/{file} is damaged"
    try:
        data = store.read(file, LARGEST)
    except (FileNotFoundError, Unreachable):
        raise
    except OSError as error:
        raise _unreadable(f"{store}/{file}", error) from error
    try:
        content = records.made(dict[str, Any], records.parsed(data, where), where)
        if content.pop(SEAL, None) != _seal(content):
            raise ValueError(f"{where}: it was modified")
        if (form := content.pop("format", None)) not in list(FILES):
            raise ValueError(f"{where}: its format is not {' or '.join(map(repr, FILES))}")
        content.pop("metrics_bytes", None)  # in manifests written before 2026-11-26
        files = {"files": content.pop("files", None)}
        entries = records.made(dict[str, tuple[FileEntry, ...]], files, where)["files"]
        state = records.made(State, content, where)
        if problem := next(_problems(name, form, state, entries), None):
            raise ValueError(f"{where}: {problem}")
    except ValueError as error:
        raise Damaged(str(error)) from error
    return Checkpoint(store=store, name=name, state=state, entries=entries, format=form)


def _problems(name: str, form: str, state: State, entries: Sequence[FileEntry]) -> Iterator[str]:
    """Yield the problems of a manifest whose values have the right types: name of the folder, file names and labels."""
    if name != name_of(state.steps, state.updates):
        yield f"it is that of {name_of(state.steps, state.updates)}; restore the name of the folder"
    yield from (f"identity: {problem}" for problem in impossible(state.identity))
    times = Counter(entry.name for entry in entries)
    for entry in entries:
        if entry.name != SHARED and not FILES[form].fullmatch(entry.name):
            yield f"it names the file {entry.name!r:.80}, which no checkpoint contains"
        if times[entry.name] > 1:
            yield f"it names {entry.name} {times[entry.name]} times"
    if SHARED not in times:
        yield f"it does not name {SHARED}"
    for entry in entries:
        if bool(entry.labels) == (entry.name == SHARED):
            yield f"{entry.name} has {len(entry.labels)} labels; a file of classes has at least one, {SHARED} none"
        if form == FORMAT and entry.name != SHARED and [class_file(c) for c in entry.labels] != [entry.name]:
            yield f"{entry.name} has the labels {list(entry.labels[:10])} instead of the one in its name"


def _shortened(damaged: list[str]) -> list[str]:
    return shortened(damaged, "damaged checkpoints")


def _unreadable(where: str, error: OSError) -> Damaged:
    return Damaged(f"{where} cannot be read ({error.strerror or error})")


def _seal(content: dict[str, Any]) -> str:
    """Return the hash of a manifest's content; it is stored in the manifest itself."""
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _is_committed(store: Storage, name: str) -> bool:
    try:
        opened(store, name)
    except (FileNotFoundError, Damaged):
        return False
    return True
