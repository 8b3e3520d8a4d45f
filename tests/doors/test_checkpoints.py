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
from dist_condense.job import checkpoint
from dist_condense.job.checkpoint import MANIFEST, SEAL, SHARED
from dist_condense.job.job import Job
from dist_condense.job.restoring import Loader, Stored
from dist_condense.result import environment
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


@pytest.fixture(scope="module")
def whole() -> dict[str, bytes]:
    """Entries of two checkpoints, by name."""
    return store_of(CLASSES, 1, 2).entries


def loaded(store: Storage) -> list[Stored]:
    """Load the newest intact checkpoint with two workers at the same time, and return their parts."""
    values, barrier = [None] * WORKERS, Barrier(WORKERS)

    def begin(rank: int) -> Stored:
        part = Part(outline(CLASSES), [c for c in range(CLASSES) if c % WORKERS == rank])
        stored = Loader(store, InThreads(rank, values, barrier), cast(Any, part), IDENTITY).newest()
        assert stored is not None
        return stored

    return side_by_side(begin, range(WORKERS), WORKERS)


def check(store: Memory, whole: dict[str, bytes], is_forged: bool) -> None:
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
    assert all(store.entries[name] == data for name, data in whole.items() if name.startswith(FIRST))


@fuzz(st.data(), st.booleans(), examples=120, seconds=3)
def test_a_manifest(whole: dict[str, bytes], data: st.DataObject, is_forged: bool) -> None:
    store, name = Memory(dict(whole)), f"{SECOND}/{MANIFEST}"
    content = json.loads(whole[name])
    if is_forged:
        changed = json.dumps(sealed(data.draw(mutated_values(content)))).encode("utf-8", "surrogatepass")
    else:
        changed = data.draw(mutated_json(content))
    store.write(name, changed)
    check(store, whole, is_forged)


def resealed(store: Memory, file: str) -> None:
    """Write the size and hash of a file of the second checkpoint to its manifest."""
    name, data = f"{SECOND}/{MANIFEST}", store.entries[f"{SECOND}/{file}"]
    content = json.loads(store.entries[name])
    for entry in content["files"]:
        if entry["name"] == file:
            entry |= {"bytes": len(data), "sha256": sha256(data).hexdigest()}
    store.write(name, json.dumps(sealed(content)).encode())


def with_header(data: bytes, header: Any) -> bytes:
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    start = 8 + int.from_bytes(data[:8], "little")
    return len(text).to_bytes(8, "little") + text + data[start:]


@fuzz(st.data(), st.sampled_from(FILES), st.booleans(), examples=150, seconds=3)
def test_the_bytes_of_a_file(whole: dict[str, bytes], data: st.DataObject, file: str, is_forged: bool) -> None:
    store, name = Memory(dict(whole)), f"{SECOND}/{file}"
    header = json.loads(whole[name][8 : 8 + int.from_bytes(whole[name][:8], "little")])
    changed = mutated_values(header).map(lambda header: with_header(whole[name], header))
    store.write(name, data.draw(mutated_bytes(whole[name]) | changed))
    if is_forged:
        resealed(store, file)
    check(store, whole, is_forged or store.entries[name] == whole[name])


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
def test_the_tensors_of_a_file(whole: dict[str, bytes], file: str, name: str, change: str) -> None:
    """A tensor is replaced by another, perhaps of another name; the manifest fits."""
    store, tensors = Memory(dict(whole)), load(whole[f"{SECOND}/{file}"])
    old = name if name in tensors else next(iter(tensors))
    tensors[name] = CHANGES[change](tensors.pop(old)).clone()
    store.write(f"{SECOND}/{file}", save(tensors))
    resealed(store, file)
    check(store, whole, is_forged=True)
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
        patch.setattr(Job, "_tracker", lambda self: Mock(remedy=None))  # MLflow takes longer than the run
        patch.setattr(environment, "subprocess", Mock(run=Mock(side_effect=OSError), TimeoutExpired=OSError))
        assert command(request.param, folder, *SHORT, "tracking.checkpoints_kept=3") == 0
        images, _ = load_set(folder).parameters()
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


REPLACED: dict[str, Callable[[Path], object]] = {
    **{"folder": as_folder, "sparse": as_sparse_file, "pipe": as_pipe, "link": as_link, "none": Path.unlink},
}


@fuzz(st.data(), examples=12, seconds=4)
def test_the_same_command_goes_on(begun: Begun, capfd: pytest.CaptureFixture[str], data: st.DataObject) -> None:
    """Any file of the run but its config, and of its newest checkpoint, is changed or replaced."""
    kept = begun.folder.with_name("kept")
    with restored(begun.folder, kept):
        newest, before = reversed(checkpoint.names(Folder(begun.folder / "checkpoints")))
        files = [path for path in sorted(begun.folder.rglob("*")) if path.is_file()]
        theirs = [x for x in files if before not in x.parts and x.name not in (RunFolder.config.name, "report.html")]
        file = data.draw(st.sampled_from(theirs), str(newest))
        if how := data.draw(st.sampled_from(["", "", *REPLACED])):
            REPLACED[how](file)
        else:
            file.write_bytes(data.draw(mutated_bytes(file.read_bytes())))
        capfd.readouterr()
        with door():
            code = begun.goes_on()
        lines = [x for x in capfd.readouterr().err.splitlines() if x.startswith(("refused: ", "failed: ", "note: /"))]
        if code == 0:
            assert torch.equal(load_set(begun.folder).parameters()[0], begun.images)
            assert len(lines) <= 1, lines
        else:
            check_lines(lines)
            assert len(lines) == 1 and code in (cli.REFUSED, cli.FAILED), lines
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
