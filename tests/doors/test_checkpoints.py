"""Checkpoints that are changed at random: the run ends with the same set, or one clear line says why not.

A damaged checkpoint is passed over by all workers, and the one before it stays where it is.
"""

from __future__ import annotations

import filecmp
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from threading import Barrier
from typing import Any, cast
from unittest.mock import Mock

import pytest
import torch
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor

from dist_condense import load_set
from dist_condense.commands import cli
from dist_condense.engine.errors import RunFailed
from dist_condense.job import checkpoint, job, worker
from dist_condense.job.checkpoint import MANIFEST, SEAL, SHARED
from dist_condense.job.restoring import Loader, Stored
from dist_condense.result import card
from dist_condense.settings.run_folder import RunFolder
from dist_condense.system.background import side_by_side
from dist_condense.system.storage import Folder, Storage
from tests.doors.fuzzing import check_lines, door, fuzz, mutated_bytes, mutated_json, mutated_values
from tests.job.test_checkpoint_reads import IDENTITY, InThreads, Memory, Part, outline, state_of, store_of
from tests.job.test_failures import command

CLASSES, WORKERS = 3, 2
FIRST, SECOND = (checkpoint.name_of(steps, 0) for steps in (1, 2))
FILES = [SHARED, *map(checkpoint.class_file, range(CLASSES))]


def sealed(content: Any) -> Any:
    """Seal the content of a manifest as its writer does, where that is possible."""
    if isinstance(content, dict):
        content = {key: x for key, x in content.items() if key != SEAL}
        content[SEAL] = checkpoint._seal(content)
    return content


# --- two workers ----------------------------------------------------------------------------------------------------


WHOLE = store_of(CLASSES, 1, 2).entries
"""Entries of two checkpoints, by name."""
CONTENT = json.loads(WHOLE[f"{SECOND}/{MANIFEST}"])


def loaded(store: Storage) -> list[Stored]:
    """Load the newest intact checkpoint with two workers at the same time, and return their parts."""
    values, barrier = [None] * WORKERS, Barrier(WORKERS)

    def begin(rank: int) -> Stored:
        part = Part(outline(CLASSES), [c for c in range(CLASSES) if c % WORKERS == rank])
        stored = Loader(store, InThreads(rank, values, barrier), cast(Any, part), IDENTITY).newest()
        assert stored is not None
        return stored

    return side_by_side(begin, range(WORKERS), WORKERS)


def check(store: Memory, is_forged: bool) -> None:
    """Check that both workers load the same checkpoint, the first if the second is damaged, or that both refuse it.

    :param is_forged: whether the seal fits, so that other numbers cannot be noticed.
    """
    with door(RunFailed) as answer:
        parts = loaded(store)
        (steps,) = {part.metadata.steps for part in parts}
        assert steps in (1, 2)
        if steps == 1 or not is_forged:
            state = state_of(CLASSES, steps)
            assert all(torch.equal(x, state[name]) for part in parts for name, x in part.by_class.items())
    if answer.lines:
        assert is_forged and "belongs to another run" in answer.lines[0]
    assert all(store.entries[name] == data for name, data in WHOLE.items() if name.startswith(FIRST))


@fuzz(mutated_json(CONTENT), examples=80)
def test_a_manifest(data: bytes) -> None:
    store = Memory(dict(WHOLE))
    store.write(f"{SECOND}/{MANIFEST}", data)
    check(store, is_forged=False)


@fuzz(mutated_values(CONTENT), examples=80)
def test_a_manifest_with_its_seal(content: Any) -> None:
    store = Memory(dict(WHOLE))
    store.write(f"{SECOND}/{MANIFEST}", json.dumps(sealed(content)).encode("utf-8", "surrogatepass"))
    check(store, is_forged=True)


def resealed(store: Memory, file: str) -> None:
    """Write the size and hash of a file of the second checkpoint to its manifest."""
    content, data = deepcopy(CONTENT), store.entries[f"{SECOND}/{file}"]
    for entry in content["files"]:
        if entry["name"] == file:
            entry |= {"bytes": len(data), "sha256": sha256(data).hexdigest()}
    store.write(f"{SECOND}/{MANIFEST}", json.dumps(sealed(content)).encode())


def mutated_file(name: str) -> st.SearchStrategy[tuple[str, bytes]]:
    """Return a strategy for the name of a file and its bytes, with random changes of its bytes or of its header."""
    data = WHOLE[f"{SECOND}/{name}"]
    start = 8 + int.from_bytes(data[:8], "little")

    def with_header(header: Any) -> bytes:
        text = json.dumps(header).encode("utf-8", "surrogatepass")
        return len(text).to_bytes(8, "little") + text + data[start:]

    headers = mutated_values(json.loads(data[8:start])).map(with_header)
    return st.tuples(st.just(name), st.one_of(headers, mutated_bytes(data)))


@fuzz(st.one_of(map(mutated_file, FILES)), st.booleans(), examples=150)
def test_the_bytes_of_a_file(file: tuple[str, bytes], is_forged: bool) -> None:
    store = Memory(dict(WHOLE))
    store.write(f"{SECOND}/{file[0]}", file[1])
    if is_forged:
        resealed(store, file[0])
    check(store, is_forged)


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "nan": lambda x: torch.full_like(x, torch.nan),
    "inf": lambda x: x / 0,
    "dtype": Tensor.double,
    "integers": Tensor.int,
    "dimension": lambda x: x[None],
    "half": lambda x: x[: len(x) // 2],
    "none": lambda x: x[:0],
    "twice": lambda x: torch.cat([x, x]),
    "scalar": lambda x: x[0],
}
NAMES = ("pixels.1", "buffer.1", "network.weight", "pixels.9", "momentum.0", "pixels", "\x1b[31m", "../x")


@fuzz(
    st.sampled_from([SHARED, FILES[2]]),
    st.sampled_from(NAMES),
    st.sampled_from(sorted(CHANGES)),
    examples=80,
    seconds=2,
)
def test_the_tensors_of_a_file(file: str, name: str, change: str) -> None:
    """A tensor is replaced by another, perhaps of another name; the manifest fits."""
    store, tensors = Memory(dict(WHOLE)), load(WHOLE[f"{SECOND}/{file}"])
    old = name if name in tensors else next(iter(tensors))
    tensors[name] = CHANGES[change](tensors.pop(old)).clone()
    store.write(f"{SECOND}/{file}", save(tensors))
    resealed(store, file)
    check(store, is_forged=True)
    is_theta = name == "network.weight" and change in ("nan", "inf")  # its numbers are not checked
    assert is_theta or {part.metadata.steps for part in loaded(store)} == {1}


# --- the whole command ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Begun:
    """A run with two checkpoints, and the set with which it ends."""

    case: str
    folder: Path
    images: Tensor

    def goes_on(self) -> int:
        return command(self.case, self.folder, *SHORT)


SHORT = (
    *("trajectory.networks=2", "trajectory.matching_steps=2", "ipc=1", "method.real_batch=4", "training.batch=16"),
    *("tracking.log_every=1", "tracking.checkpoint_steps=1", "dataset.classes=['0','1','2']", "training.epochs=1"),
)


@pytest.fixture(scope="module", params=["idc_pooled_by_kmeans", "herding"])
def begun(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Begun]:
    """A run of matching, with momentum and a pool of networks, and one of selection."""
    folder = tmp_path_factory.mktemp(request.param) / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job.Job, "_tracker", lambda self: Mock(remedy=None))  # MLflow takes longer than the run
        patch.setattr(card, "code_commit", lambda: None)  # this and the next two call programs and the C library
        patch.setattr(job, "environment", dict)
        patch.setattr(worker, "keep_freed_memory", lambda: None)
        assert command(request.param, folder, *SHORT, "tracking.checkpoints_kept=3") == 0
        images = load_set(folder).pixels()
        shutil.rmtree(folder / "checkpoints" / max(checkpoint.names(Folder(folder / "checkpoints"))))
        shutil.rmtree(folder / "synthetic_set")
        yield Begun(request.param, folder, images)


def as_folder(file: Path) -> None:
    file.unlink()
    (file / "below").mkdir(parents=True)


def as_sparse_file(file: Path) -> None:
    os.truncate(file, 10 * 2**30)


def as_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def as_link(file: Path) -> None:
    file.unlink()
    file.symlink_to("/dev/zero")


REPLACED = {"folder": as_folder, "sparse": as_sparse_file, "pipe": as_pipe, "link": as_link, "none": Path.unlink}
Edit = tuple[float, bytes, bool]
"""Place in a file (0: at its start, 1: at its end), bytes to write there, and whether the rest is cut."""


@fuzz(
    st.integers(0, 999),
    st.one_of(st.sampled_from(sorted(REPLACED)), st.tuples(st.floats(0, 1), st.binary(max_size=9), st.booleans())),
    examples=12,
)
def test_the_same_command_goes_on(
    begun: Begun, capfd: pytest.CaptureFixture[str], number: int, change: str | Edit
) -> None:
    """A file of the run, but not its config, or of its newest checkpoint is changed or replaced."""
    kept = begun.folder.with_name("kept")
    with restored(begun.folder, kept):
        before = checkpoint.names(Folder(begun.folder / "checkpoints"))[0]
        files = [path for path in sorted(begun.folder.rglob("*")) if path.is_file() and before not in path.parts]
        files = [path for path in files if path.name not in (RunFolder.config.name, RunFolder.report.name)]
        file = files[number % len(files)]
        if isinstance(change, str):
            REPLACED[change](file)
        else:
            (place, junk, is_cut), data = change, file.read_bytes()
            at = int(place * len(data))
            file.write_bytes(data[:at] + junk + (b"" if is_cut else data[at + len(junk) :]))
        capfd.readouterr()
        with door():
            code = begun.goes_on()
        lines = [x for x in capfd.readouterr().err.splitlines() if x.startswith(("refused: ", "failed: ", "note: /"))]
        assert len(lines) <= 1, lines
        if code == 0:
            assert torch.equal(load_set(begun.folder).pixels(), begun.images)
        else:
            assert code in (cli.REFUSED, cli.FAILED)
            check_lines(lines)
            there, earlier = (x / "checkpoints" / before for x in (begun.folder, kept))
            assert not filecmp.dircmp(there, earlier).diff_files


@contextmanager
def restored(folder: Path, kept: Path) -> Iterator[None]:
    """Keep a copy of a folder within the context, and put it back afterwards."""
    shutil.copytree(folder, kept)
    try:
        yield
    finally:
        shutil.rmtree(folder)
        kept.rename(folder)
