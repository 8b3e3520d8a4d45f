"""Untrusted checkpoints: their manifests cannot name files outside, and nothing in them is used unverified."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, zeros

from dist_condense import load_set
from dist_condense.commands import cli
from dist_condense.job import checkpoint
from dist_condense.job.checkpoint import MANIFEST, SEAL, SHARED, Damaged
from dist_condense.job.job import Job
from dist_condense.settings.run_folder import RunFolder
from dist_condense.system.storage import Bucket, Folder, Storage
from tests.engine import cases
from tests.job.test_failures import command

SHORT = ("trajectory.networks=1", "trajectory.matching_steps=2", "tracking.log_every=1", "tracking.checkpoint_steps=1")
FIRST, SECOND = (checkpoint.name_of(steps, 0) for steps in (1, 2))
Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run one matching step of two and return the folder."""
    folder = tmp_path_factory.mktemp("made") / "run"
    assert command("dc", folder, *SHORT) == 0
    shutil.rmtree(folder / "checkpoints" / SECOND)
    return folder


@pytest.fixture
def theirs(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "theirs" / "run"))


def forge(folder: Path, change: Change) -> None:
    """Change a manifest and seal it again."""
    file = folder / MANIFEST
    content = json.loads(file.read_text())
    change(content)
    del content[SEAL]
    file.write_text(json.dumps({**content, SEAL: checkpoint._seal(content)}))


def renamed(number: int, name: object) -> Change:
    return lambda content: content["files"][number].update(name=name)


def labelled(labels: object) -> Change:
    return lambda content: content["files"][1].update(labels=labels)


@pytest.mark.parametrize("place", ["", "checkpoints", f"checkpoints/{FIRST}"])
def test_a_file_outside_is_not_written(
    place: str, theirs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The attack: `--resume=PATH` with a file name that leads from the foreign folder to a prepared text, and from the
    victim's folder to the victim's own file."""
    outside, mine, held = "../../../.profile", tmp_path / "home" / "run", theirs / "checkpoints" / FIRST
    (theirs.parent / ".profile").write_bytes(b"theirs")
    mine.parent.mkdir()
    (mine.parent / ".profile").write_text("mine")
    entry = checkpoint.entry_of(outside, b"theirs")
    forge(held, lambda content: content["files"].append({**vars(entry), "labels": []}))
    assert command("dc", mine, *SHORT, f"--resume={theirs / place}") == cli.REFUSED
    reported = capfd.readouterr().err
    assert f"{held / MANIFEST} is damaged: it names the file '{outside}', which no checkpoint contains" in reported
    assert (mine.parent / ".profile").read_text() == "mine" and not mine.exists()


def test_a_checkpoint_of_version_1_is_copied_as_it_is_and_goes_on(theirs: Path, tmp_path: Path) -> None:
    """The new run ends with the set of the run that wrote it."""
    new = tmp_path / "new"
    cases.as_version_1(Folder(theirs / "checkpoints"), 2)
    held = {file.name: file.read_bytes() for file in (theirs / "checkpoints" / FIRST).iterdir()}
    assert sorted(held) == ["classes_0.safetensors", "classes_1.safetensors", MANIFEST, SHARED]
    assert command("dc", new, *SHORT, "tracking.checkpoints_kept=9", f"--resume={theirs}") == 0
    assert {file.name: file.read_bytes() for file in (new / "checkpoints" / FIRST).iterdir()} == held
    assert torch.equal(load_set(new).pixels(), load_set(theirs).pixels())


def test_a_number_that_is_not_finite_is_not_copied(
    theirs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Types and shapes in the headers are right, and so are the hashes."""
    with_tensors(OWN, lambda x: x["buffer.3"].fill_(math.nan))(theirs / "checkpoints" / FIRST)
    assert command("dc", tmp_path / "new", *SHORT, f"--resume={theirs}") == cli.REFUSED
    assert f"{OWN}: buffer.3 is not finite" in capfd.readouterr().err
    assert not list((tmp_path / "new").glob("checkpoints/*/manifest.json"))


def test_where_a_stopped_run_continues_is_told_even_if_all_is_damaged(theirs: Path) -> None:
    (theirs / "checkpoints" / FIRST / MANIFEST).write_text("{}")
    stopped = SimpleNamespace(config=cases.load("dc", f"output={theirs}"))
    assert f"{MANIFEST} is damaged" in Job.where_it_continues(cast(Job, stopped))


def test_a_damaged_one_is_refused_while_it_is_copied(
    theirs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its sizes and headers are right; nothing is committed, so an intact copy continues in the same output."""
    new, file = tmp_path / "new", theirs / "checkpoints" / FIRST / "class_3.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert command("dc", new, *SHORT, f"--resume={theirs}") == cli.REFUSED
    (line,) = capfd.readouterr().err.splitlines()[-1:]
    assert f"{file} is damaged" in line and "No checkpoint in" in line
    assert not list(new.glob("checkpoints/*/manifest.json")) and not (new / "config.yaml").exists()
    file.write_bytes(whole)
    assert command("dc", new, *SHORT, f"--resume={theirs}") == 0
    assert "resuming after matching step 1 of 2" in capfd.readouterr().err


def test_a_damaged_newest_one_is_skipped_while_it_is_copied(
    theirs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The one before it is copied instead if it belongs to the run; a damaged one that was named is refused."""
    new, other, file = tmp_path / "new", tmp_path / "other", theirs / "checkpoints" / SECOND / "class_3.safetensors"
    assert command("dc", theirs, *SHORT) == 0
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert command("dc", new, *SHORT, f"--resume={file.parent}") == cli.REFUSED
    assert f"{file} is damaged" in (line := capfd.readouterr().err) and "give an earlier checkpoint" in line
    assert command("dc", new, *SHORT, f"--resume={theirs}") == 0
    reported = capfd.readouterr().err
    assert f"note: {file} is damaged" in reported and f"; {FIRST} is used instead" in reported
    assert "resuming after matching step 1 of 2" in reported
    assert [json.loads(line)["step"] for line in RunFolder(new).metrics.read_text().splitlines()] == [1, 2]
    assert torch.equal(load_set(new).pixels(), load_set(theirs).pixels())
    forge(theirs / "checkpoints" / FIRST, lambda content: content["identity"].update(seed=7))
    assert command("dc", other, *SHORT, f"--resume={theirs}") == cli.REFUSED
    refusal = capfd.readouterr().err
    assert f"{file} is damaged" in refusal and f"{FIRST} belongs to another run" in refusal
    assert not RunFolder(other).config.exists()


def identified(key: str, value: object) -> Change:
    return lambda content: content["identity"].update({key: value})


IMPOSSIBLE: dict[str, list[object]] = {
    "compute.slices": [0, "4", 1.5, True, 10**6, [4]],
    "compute.threads": [0, "x", 10**6],
    "compute.reproducible": [1, "true"],
    "compute.deterministic": [1, "true"],
    "dataset.channels": [0, "1", 10**9],
    "dataset.mean": ["x", ["x"], [1e30], {}],
    "dataset.std": [[0.0], [-1.0], 0.5],
}
"""Values that later starts keep, by key; the seal fits."""


@pytest.mark.parametrize(
    ("change", "reported"),
    [
        *((renamed(1, name), f"names the file {name!r}") for name in (
            "../x", "/etc/passwd", "a/class_0.safetensors", "class_0.safetensors/", "class_0.safetensors\n",
            "class_\u0660.safetensors", "class_00.safetensors", "class_-1.safetensors", "SHARED.SAFETENSORS",
            "classes_0.safetensors", "class_1000000000.safetensors", "shared.safetensors\0",
            "manifest.json", "", ".", "..", "..\\x",
        )),
        (renamed(1, 7), "files[1].name: found 7, expected text"),
        (renamed(1, SHARED), f"names {SHARED} 2 times"),
        (renamed(0, "class_0.safetensors"), "names class_0.safetensors 2 times"),
        (renamed(0, "class_11.safetensors"), f"does not name {SHARED}"),
        (renamed(1, "class_11.safetensors"), "class_11.safetensors has the labels [0]"),
        *((labelled(labels), "class_0.safetensors has the labels [") for labels in ([1], [0, 0], [0, 10**9])),
        (lambda content: content.update(format="dist_condense checkpoint 1"), "names the file 'class_0.safetensors'"),
        *((lambda content, form=form: content.update(format=form), "its format is not") for form in ("x", None, [])),
        (lambda content: content["files"].clear(), f"does not name {SHARED}"),
        (lambda content: content.update(files="x"), "files: found 'x', expected a list"),
        *((labelled(labels), "files[1].labels[0]: found") for labels in (["0"], [True], [-1], [0.5])),
        *((labelled(labels), "files[1].labels: found") for labels in ("01", None, {})),
        (lambda content: content["files"][0].update(bytes="10"), "bytes: found '10'"),
        (lambda content: content["files"][0].update(bytes=True), "bytes: found true"),
        (lambda content: content["files"][0].update(bytes=-1), "bytes: found -1, expected an integer from 0"),
        (lambda content: content["files"][0].update(sha256="0" * 63), "expected 64 hex digits"),
        (lambda content: content["files"][0].update(mode=0o777), "mode"),
        (lambda content: content.update(steps=2), f"is that of {SECOND}"),
        (lambda content: content.update(updates=1), "is that of step_00000001_00000001"),
        (lambda content: content.update(steps=-1), "steps: found -1, expected an integer from 0"),
        (lambda content: content.update(steps="1"), "steps: found '1'"),
        (lambda content: content.update(steps=True), "steps: found true"),
        (lambda content: content.update(identity=[]), "identity: found a list of 0, expected an object"),
        (lambda content: content.update(identity={"x": math.nan}), "identity.x: found nan, expected a finite number"),
        (lambda content: content.update(tracking_run=["x"]), "tracking_run: found a list of 1, expected text"),
        (lambda content: content.update(command="x"), "command: unknown"),
        *((lambda content, x=x: content.update(tracking_run=x), "tracking_run: found") for x in ("../x", "", 7)),
        *((lambda content, x=x: content.update(steps=x), "steps: found") for x in (10**15, 2**63, 10**30)),
        *((identified(key, x), f"identity: {key}: ") for key, values in IMPOSSIBLE.items() for x in values),
    ],
)  # fmt: skip
def test_a_manifest_that_no_run_writes_is_damaged(change: Change, reported: str, theirs: Path) -> None:
    store = Folder(theirs / "checkpoints")
    assert checkpoint.opened(store, FIRST).steps == 1
    forge(store.path / FIRST, change)
    with pytest.raises(Damaged, match=re.escape(reported)):
        checkpoint.opened(store, FIRST)


def test_a_deep_manifest_is_damaged(theirs: Path) -> None:
    store = Folder(theirs / "checkpoints")
    (store.path / FIRST / MANIFEST).write_text("[" * 100_000)
    with pytest.raises(Damaged):
        checkpoint.opened(store, FIRST)


@pytest.mark.parametrize(
    ("constants", "reported"),
    [([1.0], "dataset.mean: [1.0] there"), ([1.0] * 3, "3 and 3 values for images of 1 channels")],
)
def test_a_value_that_later_starts_keep_is_that_of_the_config(
    constants: list[float], reported: str, theirs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    values = {"dataset.mean": constants, "dataset.std": constants}
    forge(theirs / "checkpoints" / FIRST, lambda content: content["identity"].update(values))
    if len(constants) > 1:
        (theirs / "config.yaml").unlink()  # so that only the checkpoint has them
    assert command("dc", theirs, *SHORT) == cli.REFUSED
    (line,) = capfd.readouterr().err.splitlines()
    assert reported in line and "give another output" in line


def test_only_folders_of_a_checkpoints_name_are_checkpoints(theirs: Path) -> None:
    store = Folder(theirs / "checkpoints")
    for name in ("step_*", "step_", "step_00000009_00000000 ", "step_9_9", "step_x"):
        shutil.copytree(store.path / FIRST, store.path / name)
    assert checkpoint.names(store) == [FIRST]
    checkpoint.prune(store, 1, FIRST)
    assert len(store.names()) == 6


@pytest.mark.parametrize("store", [Folder(Path("place")), Bucket("s3://bucket/place")])
@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/../../x", "/x", "a//x", "a/", "./a", "a\\x", "a\0x"])
def test_a_storage_takes_only_names_below_it(
    store: Storage, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Storages check names even if all other checks failed."""
    (tmp_path / "place").mkdir()
    monkeypatch.chdir(tmp_path / "place")
    monkeypatch.setattr(Bucket, "_request", lambda *given: pytest.fail("the store was asked"))
    for action in (lambda: store.write(name, b"x"), lambda: store.read(name, 9), lambda: store.remove(name)):
        with pytest.raises(OSError, match="not the name of an entry"):
            action()
    assert [path.name for path in tmp_path.rglob("*")] == ["place"]


def test_what_was_changed_is_refused_also_without_assertions(theirs: Path) -> None:
    """`python -O` removes every assert, so no check may depend on one."""
    file = theirs / "checkpoints" / FIRST / SHARED
    file.write_bytes(b"EVIL" + file.read_bytes()[4:])
    code = "import sys; from dist_condense.job import checkpoint; from dist_condense.system import storage; "
    code += "stored = checkpoint.newest(storage.storage(sys.argv[1])); stored.read([stored.common])"
    done = subprocess.run([sys.executable, "-O", "-c", code, theirs / "checkpoints"], capture_output=True, text=True)
    assert done.returncode == 1 and "is damaged" in done.stderr


# --- what lies in the files -----------------------------------------------------------------------------------------


OWN = "class_3.safetensors"
Tensors = dict[str, Tensor]


def sealed(folder: Path, name: str, data: bytes, labels: list[int]) -> None:
    """Write a file with the matching size and hash in the manifest."""
    (folder / name).write_bytes(data)
    entry = {**vars(checkpoint.entry_of(name, data)), "labels": labels}

    def put(content: dict[str, Any]) -> None:
        content["files"] = [*(file for file in content["files"] if file["name"] != name), entry]

    forge(folder, put)


def with_tensors(name: str, change: Callable[[Tensors], object]) -> Callable[[Path], None]:
    def attack(folder: Path) -> None:
        change(tensors := load((folder / name).read_bytes()))
        sealed(folder, name, save(tensors), [3] if name == OWN else [])

    return attack


def with_header(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda folder: sealed(folder, OWN, change((folder / OWN).read_bytes()), [3])


def of_version_1(change: Change) -> Callable[[Path], None]:
    def attack(folder: Path) -> None:
        cases.as_version_1(Folder(folder.parent), 2)
        forge(folder, change)

    return attack


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def deep(folder: Path) -> None:
    forge(folder, lambda content: content["identity"].update(more=nested(900)))


def large(folder: Path) -> None:
    """Make a file of 10 GiB that takes no place on the disk, whose header describes one tensor of that size."""
    size = 10 * 2**30
    header = json.dumps({"pixels.3": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
    sealed(folder, OWN, len(header).to_bytes(8, "little") + header, [3])
    os.truncate(folder / OWN, 8 + len(header) + size)
    forge(folder, lambda content: content["files"][-1].update(bytes=8 + len(header) + size))


FORGED: dict[str, tuple[Callable[[Path], None], str]] = {
    "no tensors": (lambda folder: sealed(folder, OWN, b"\xff" * 64, [3]), f"{OWN}: it contains no tensors"),
    "no theta": (lambda folder: sealed(folder, SHARED, b"", []), f"{SHARED}: it contains no tensors"),
    "no momentum": (with_tensors(OWN, lambda x: x.pop("buffer.3")), f"{OWN}: buffer.3 is missing"),
    "no pixels": (with_tensors(OWN, lambda x: x.pop("pixels.3")), f"{OWN}: pixels.3 is missing"),
    "another": (with_tensors(OWN, lambda x: x.update({"pixels.4": x.pop("pixels.3")})), f"{OWN}: pixels.3 is missing"),
    "more": (with_tensors(OWN, lambda x: x.update(more=zeros(1))), f"{OWN}: 'more' is not a tensor of it"),
    "a side": (with_tensors(OWN, lambda x: x.update({"pixels.3": zeros(2, 1, 8, 1)})), "pixels.3 is float32 [2, 1, 8,"),
    "a type": (with_tensors(OWN, lambda x: x.update({"pixels.3": x["pixels.3"].int()})), "pixels.3 is int32 [2, 1, 8"),
    "a long type": (with_header(lambda data: data.replace(b'"F32"', b'"F8_"')), f"{OWN}: it contains no tensors"),
    "a cut": (with_header(lambda data: data[:-4]), f"{OWN}: it contains no tensors"),
    "no end": (with_header(lambda data: b"\xff" * 8 + data[8:]), f"{OWN}: it contains no tensors"),
    "far": (lambda folder: sealed(folder, "class_10.safetensors", b"", [10]), "class 10 occurs 1 times"),
    "twice": (lambda folder: forge(folder, labelled([0, 0])), "class_0.safetensors has the labels [0, 0]"),
    "few": (lambda folder: forge(folder, lambda content: content["files"].pop(4)), "no file contains class 3"),
    "evil": (lambda folder: sealed(folder, "class_7.safetensors", b"EVIL", []), "class_7.safetensors has 0 labels"),
    "evil 7": (lambda folder: sealed(folder, "class_7.safetensors", b"EVIL", [7]), "contains no tensors"),
    "twice 1": (of_version_1(labelled([*range(0, 10, 2), 3])), "class 3 occurs 2 times"),
    "few 1": (of_version_1(labelled([0, 2, 4, 6])), f"{MANIFEST}: no file contains class 8"),
    "far 1": (of_version_1(labelled([*range(0, 10, 2), 10**9])), "class 1000000000 occurs 1 times"),
    "labels": (lambda folder: forge(folder, lambda content: content["files"][0].update(labels=[0])), "has 1 labels"),
    "theta": (with_tensors(SHARED, lambda x: x.pop(next(iter(x)))), "is missing"),
    "more theta": (
        with_tensors(SHARED, lambda x: x.update({"momentum.99": zeros(1)})),
        "'momentum.99' is not a tensor",
    ),
    "a weight": (with_tensors(SHARED, lambda x: x.update({next(iter(x)): zeros(1)})), "is float32 [1] and must be"),
    "depth": (deep, "is damaged"),
    "size": (large, f"{OWN}: it has 1073"),
}
"""By the name of the attack: what it does to a checkpoint's folder, and what is reported."""


@pytest.mark.parametrize(("attack", "reported"), FORGED.values(), ids=FORGED)
def test_a_sealed_checkpoint_with_other_content_is_refused_and_not_copied(
    attack: Callable[[Path], None], reported: str, theirs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The attack: size, hash and seal are right, but not the tensors; in the output itself it is refused as well."""
    attack(held := theirs / "checkpoints" / FIRST)
    for output, more in ((tmp_path / "new", (f"--resume={theirs}",)), (theirs, ())):
        assert command("dc", output, *SHORT, *more) == cli.REFUSED
        line = capfd.readouterr().err
        assert reported in line and str(held) in line and line.count("\n") == 1
    assert not (tmp_path / "new").exists()
