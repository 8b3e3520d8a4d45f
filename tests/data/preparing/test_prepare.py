"""Prepared shards contain the source's images: unchanged files byte for byte, all others pixel for pixel."""

import errno
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import chdir
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dist_condense.data import DataError, open_dataset
from dist_condense.data.preparing import classes
from dist_condense.data.preparing.prepare import PrepareOptions, open_source
from dist_condense.data.reading.decode import decode_bytes
from dist_condense.data.reading.store import FolderStore
from dist_condense.data.shards import shards
from dist_condense.data.shards.manifest import Manifest
from dist_condense.data.shards.manifest_reader import read_manifest
from dist_condense.data.shards.shards import ShardStore
from dist_condense.data.shards.tars import index_tar
from dist_condense.data.shards.writer import webdataset
from dist_condense.system.process_pool import LocalMap
from tests.conftest import ROOT
from tests.data.shards.shard_cases import CLASSES, HERE, photograph, prepared, tree, write_folder, write_tar


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "source")


def read(dest: Path, manifest: Manifest, split: str, label: int) -> list[bytes]:
    store = ShardStore(str(dest), manifest, split, [label])
    return [store.read(label, index) for index in range(store.count(label))]


def pixels(images: list[bytes], channels: int, size: int) -> torch.Tensor:
    return torch.stack([decode_bytes(data, channels, size) for data in images])


def test_kept_files_of_real_photographs(real_data: Path, tmp_path: Path) -> None:
    root = real_data / "imagenette224"
    wnids = ("n03888257", "n01440764")
    manifest = prepared(root, tmp_path / "dest", classes=wnids)
    assert [(entry.name, entry.wnid) for entry in manifest.classes] == [(wnid, wnid) for wnid in wnids]
    assert (manifest.size, manifest.counts("train"), manifest.counts("val")) == (None, (300, 300), (50, 50))
    for split in ("train", "val"):
        files = sorted((root / split / wnids[0]).iterdir())
        assert read(tmp_path / "dest", manifest, split, 0) == [file.read_bytes() for file in files]
    images = read(tmp_path / "dest", manifest, "train", 1)
    memory = open_dataset("image_folder", root, size=96, classes=wnids).train([1])
    assert torch.equal(pixels(images, 3, 96), memory.images[1])
    assert read_manifest(str(tmp_path / "dest")) == manifest


@pytest.mark.parametrize("png", [True, False])
def test_resized_images_of_every_kind(source: Path, tmp_path: Path, png: bool) -> None:
    manifest = prepared(source, tmp_path / "dest", size=24, png=png)
    images = read(tmp_path / "dest", manifest, "train", 1)
    expected = open_dataset("image_folder", source, size=24).train([1]).images[1]
    assert images[3] == (source / "train" / CLASSES[1] / "d.jpg").read_bytes()
    for data, exact in zip(images[:3], expected, strict=False):
        with Image.open(BytesIO(data)) as image:
            assert (image.format, image.mode, image.size) == ("PNG" if png else "JPEG", "RGB", (24, 24))
        stream = BytesIO()
        Image.fromarray(exact.permute(1, 2, 0).numpy()).save(stream, "JPEG", quality=95)
        assert data == stream.getvalue() or png
    if png:
        assert torch.equal(pixels(images, 3, 24), expected)


def test_catalogue_data_sets_become_png(tmp_path: Path) -> None:
    for size, options in ((8, {}), (16, {"size": 16})):
        manifest = prepared("digits:", tmp_path / str(size), **options)
        digits = open_dataset("digits", None, size=size)
        assert (manifest.made.dataset, manifest.channels, manifest.size) == ("digits", 1, size)
        assert manifest.counts("train") == digits.counts
        assert torch.equal(
            pixels(read(tmp_path / str(size), manifest, "train", 3), 1, size), digits.train([3]).images[3]
        )
        test = digits.test()
        held_out = pixels(read(tmp_path / str(size), manifest, "val", 9), 1, size)
        assert torch.equal(held_out, test.images[test.labels == 9])


def test_a_data_set_of_torchvision_becomes_png(real_data: Path, tmp_path: Path) -> None:
    manifest = prepared(f"fashion_mnist:{real_data}", tmp_path / "dest", classes=("Bag",))
    bags = open_dataset("fashion_mnist", real_data, classes=["Bag"])
    assert (manifest.made.dataset, manifest.size, manifest.counts("train")) == ("fashion_mnist", 28, (6000,))
    assert torch.equal(pixels(read(tmp_path / "dest", manifest, "val", 0), 1, 28), bags.test().images)


@pytest.mark.parametrize("name", ["arrays", "huggingface"])
def test_arrays_and_tables_become_the_same_images(name: str, tmp_path: Path) -> None:
    root = (write_arrays if name == "arrays" else write_table)(tmp_path)
    manifest = prepared(f"{name}:{root}", tmp_path / "dest")
    opened, shards = open_dataset(name, root), open_dataset("image_folder", tmp_path / "dest")
    assert [entry.name for entry in shards.classes] == [entry.name for entry in opened.classes] == ["ant", "bee"]
    assert manifest.made.dataset == name and shards.counts == opened.counts == (4, 3)
    for label, count in enumerate(opened.counts):
        every = torch.arange(count)
        assert torch.equal(shards.train([label]).get(label, every), opened.train([label]).get(label, every))
    assert torch.equal(shards.test().images, opened.test().images)
    assert shards.test().labels.tolist() == opened.test().labels.tolist() == [0, 0, 1]


ROWS = np.random.default_rng(0).integers(0, 256, (10, 9, 9, 3), dtype=np.uint8)
LABELS = np.array([0, 1, 0, 1, 0, 1, 0, 0, 1, 0])


def write_arrays(folder: Path) -> Path:
    """Write ten images of two classes as an .npz file, of which the last three are test images."""
    file, split = folder / "data.npz", slice(7, None)
    train = {"train_images": ROWS[:7], "train_labels": LABELS[:7]}
    np.savez(file, test_images=ROWS[split], test_labels=LABELS[split], classes=np.array(["ant", "bee"]), **train)
    return file


def write_table(folder: Path) -> Path:
    """Write the same images as a data set of Hugging Face."""
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["ant", "bee"]))
    splits = {
        name: datasets.Dataset.from_dict(
            {"image": [Image.fromarray(image) for image in ROWS[rows]], "label": LABELS[rows].tolist()}, features
        )
        for name, rows in (("train", slice(7)), ("test", slice(7, None)))
    }
    datasets.DatasetDict(splits).save_to_disk(folder / "table")
    return folder / "table"


class Command:
    """Object that writes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.file), "w")


def test_no_member_of_a_tar_is_unpickled(tmp_path: Path) -> None:
    given, mark = write_mixed(tmp_path / "tars"), tmp_path / "mark"
    kinds = ("pyd", "pickle", "pkl", "pth", "npy", "json")
    extra = [(f"v3.{kind}", pickle.dumps(Command(mark))) for kind in kinds]
    first, second = ([(f"v{label}.jpg", jpeg(1)), (f"v{label}.cls", b"%d" % label)] for label in (3, 7))
    write_tar(tmp_path / "tars" / "val.tar", [*first, *extra, *second])
    manifest = prepared(given["source"], tmp_path / "dest", val=given["val"])
    assert read(tmp_path / "dest", manifest, "val", 0) == [jpeg(1)] and not mark.exists()
    pickle.loads(extra[0][1]).close()
    assert mark.exists()  # had it been unpickled


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset leaves its files to the collector
def test_plain_webdataset_reads_the_shards(source: Path, tmp_path: Path) -> None:
    prepared(source, tmp_path / "dest")
    reader = webdataset().WebDataset(str(tmp_path / "dest/train/0001-000.tar"), shardshuffle=False)
    samples = list(reader)
    files = sorted((source / "train" / CLASSES[1]).iterdir())
    assert [entry["__key__"] for entry in samples] == ["000000_a", "000001_b_x_y", "000002_c", "000003_d"]
    assert [entry.get("jpg", entry.get("png")) for entry in samples] == [file.read_bytes() for file in files]
    assert {entry["cls"] for entry in samples} == {b"1"}
    assert webdataset().utils.enforce_security


def test_one_corrupt_image_stops_and_finished_classes_are_kept(source: Path, tmp_path: Path) -> None:
    good = (source / "train" / CLASSES[1] / "a.jpg").read_bytes()
    for name, content in (("a.jpg", good[: len(good) // 2]), ("c.png", b"no image")):
        (source / "train" / CLASSES[1] / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        prepared(source, tmp_path / "dest")
    problems = caught.value.problems
    assert f"{CLASSES[1]}/a.jpg: the image cannot be read" in problems[0]
    assert f"{CLASSES[1]}/c.png: the image cannot be read" in problems[1]
    assert "--skip-bad" in problems[2]
    assert [path.name for path in (tmp_path / "dest" / "train").iterdir()] == ["0000-000.tar"]
    (source / "train" / CLASSES[1] / "a.jpg").write_bytes(good)
    photograph(9).save(source / "train" / CLASSES[1] / "c.png")
    assert finished(source, tmp_path / "dest") == [2, 3, 4, 5, 6]  # the first class was not done again
    prepared(source, tmp_path / "afresh")
    assert tree(tmp_path / "dest") == tree(tmp_path / "afresh")


def finished(source: Path, dest: Path) -> list[int]:
    """Prepare; return the reported numbers of finished classes."""
    counts: list[int] = []
    prepared(source, dest, report=lambda done, total, unit: counts.append(done))
    return counts


def test_a_class_whose_files_were_exchanged_is_done_again(source: Path, tmp_path: Path) -> None:
    last = source / "val" / "zebra" / "e.png"
    good = last.read_bytes()
    last.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"e\.png: the image cannot be read"):
        prepared(source, tmp_path / "dest")
    last.write_bytes(good)
    (source / "train" / CLASSES[0] / "a.jpg").rename(source / "train" / CLASSES[0] / "z.jpg")
    assert finished(source, tmp_path / "dest") == [1, 6]  # the first class and the last
    prepared(source, tmp_path / "afresh")
    assert tree(tmp_path / "dest") == tree(tmp_path / "afresh")


@pytest.mark.parametrize(
    "forged",
    [
        {"url": "../outside.tar"},
        {"url": "train/0001-000.tar"},  # of another class
        {"label": 1},
        {"split": "val"},
        None,
    ],
)
def test_a_record_that_names_other_files_is_not_believed(
    forged: dict[str, object] | None, source: Path, tmp_path: Path
) -> None:
    dest = tmp_path / "dest"
    (source / "val" / "zebra" / "e.png").write_bytes(b"")
    with pytest.raises(DataError, match="cannot be read"):
        prepared(source, dest)
    record = dest / ".preparing" / "train-0000.json"
    stored = json.loads(record.read_text())
    shard = stored["shards"][0]
    (dest.parent / "outside.tar").write_bytes((dest / shard["url"]).read_bytes())
    if forged is None:
        record.write_text("[" * 100_000)
    elif "url" in forged:
        size = (dest / str(forged["url"])).stat().st_size
        record.write_text(json.dumps({**stored, "shards": [{**shard, **forged, "bytes": size}]}))
    else:
        record.write_text(json.dumps({**stored, **forged}))
    photograph(1).save(source / "val" / "zebra" / "e.png")
    manifest = prepared(source, dest)
    assert [shard.url for shard in manifest.splits["train"][0]] == ["train/0000-000.tar"]
    assert read_manifest(str(dest)) == manifest


@pytest.mark.parametrize("name", ["train", "val", ".preparing"])
def test_nothing_is_written_through_a_link(name: str, source: Path, tmp_path: Path) -> None:
    (mine := tmp_path / "mine").mkdir()
    (mine / "0000-000.tar").write_text("kept")
    (dest := tmp_path / "dest").mkdir()
    (dest / name).symlink_to(mine)
    with pytest.raises(DataError, match=rf"{dest / name} is a link, through which nothing is written"):
        prepared(source, dest)
    assert tree(mine) == {"0000-000.tar": b"kept"}


def test_bad_images_are_left_out_on_request(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (source / "train" / "zebra" / "a.jpg").write_bytes(b"no image")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40 * 40)  # c.png has 61 x 33
    manifest = prepared(source, tmp_path / "dest", skip_bad=True)
    few, none = (open_dataset("image_folder", tmp_path / "dest", classes=selected) for selected in (["zebra"], None))
    assert [opened.notes for opened in (few, none)] == [
        (f"{tmp_path}/dest/manifest.json: {number} images were left out by --skip-bad; it names them",)
        for number in (2, 4)
    ]
    assert [(entry.split, entry.class_name, entry.name) for entry in manifest.skipped] == [
        ("train", name, str(source / "train" / name / file))
        for name, file in [*((name, "c.png") for name in CLASSES[:2]), ("zebra", "a.jpg"), ("zebra", "c.png")]
    ]
    assert "pixels" in manifest.skipped[0].reason
    files = [source / "train" / "zebra" / name for name in ("b.x y.JPEG", "d.jpg")]
    assert read(tmp_path / "dest", manifest, "train", 2) == [file.read_bytes() for file in files]
    (source / "val" / "zebra" / "e.png").write_bytes(b"")
    with pytest.raises(DataError, match="val, class zebra: no image is left"):
        prepared(source, tmp_path / "other", skip_bad=True)
    with pytest.raises(DataError, match=r"c\.png: the image cannot be read"):
        prepared(source, tmp_path / "other")  # what was skipped before is asked for now


def test_prepared_shards_are_a_source_and_indexed_twice_each(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared(source, tmp_path / "once")
    indexed: list[Path] = []
    monkeypatch.setattr(shards, "index_tar", lambda path: indexed.append(path) or index_tar(path))
    manifest = prepared(tmp_path / "once", tmp_path / "twice")
    assert {name: data for name, data in tree(tmp_path / "once").items() if name.endswith(".tar")} == {
        name: data for name, data in tree(tmp_path / "twice").items() if name.endswith(".tar")
    }
    assert max(Counter(indexed).values()) == 2  # when the store is opened, and for the names
    few = prepared(tmp_path / "once", tmp_path / "few", classes=("zebra",), size=24)
    assert (manifest.counts("train"), few.counts("train")) == ((4, 4, 4), (4,))


@pytest.mark.parametrize(
    ("place", "error", "message"),
    [
        ("read", OSError(errno.ESTALE, "Stale file handle"), "Stale file handle"),
        ("read", MemoryError(), "too little memory"),
        ("read", DataError(["a shard is gone"]), "a shard is gone"),
        ("decode", OSError(errno.EMFILE, "Too many open files"), "Too many open files"),
        ("decode", MemoryError(), "too little memory"),
    ],
)
def test_what_the_machine_is_to_blame_for_is_never_skipped(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, error: Exception, message: str
) -> None:
    def fail(*given: object) -> None:
        raise error

    where = {"read": (FolderStore, "read"), "decode": (classes, "read_image")}[place]
    monkeypatch.setattr(*where, fail)
    with pytest.raises(type(error) if not isinstance(error, OSError) else DataError, match=message) as caught:
        prepared(source, tmp_path / "dest", skip_bad=True)
    assert "gone" in message or f"{CLASSES[0]}/a.jpg" in str(caught.value)


def test_programs_are_not_started_for_an_image(source: Path, tmp_path: Path) -> None:
    (source / "train" / "zebra" / "a.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n")
    with pytest.raises(DataError, match=r"a\.jpg: the image cannot be read \(no image in a known format"):
        prepared(source, tmp_path / "dest")


Place = Callable[[Path], object]
PLACES: list[tuple[Place, str]] = [
    (Path.touch, "dest is no folder"),
    (lambda dest: dest.symlink_to("/nowhere"), "dest is no folder"),
    (lambda dest: (dest.mkdir(), (dest / ".preparing").touch()), r"dest/\.preparing is no folder"),
    (
        lambda dest: (dest / ".preparing/options.json").mkdir(parents=True),
        r"options\.json cannot be read: Is a directory",
    ),
    (lambda dest: ((dest / ".preparing").mkdir(parents=True), os.mkfifo(dest / ".preparing/options.json")), "regular"),
    (
        lambda dest: (dest.mkdir(), os.mkfifo(dest / "manifest.json")),
        r"manifest\.json cannot be read: not a regular file",
    ),
]


@pytest.mark.parametrize(("place", "message"), PLACES)
def test_what_is_no_output_folder_is_refused_and_left_alone(
    place: Place, message: str, source: Path, tmp_path: Path
) -> None:
    place(tmp_path / "dest")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match=message):
        prepared(source, tmp_path / "dest")
    assert sorted(tmp_path.rglob("*")) == before


def test_the_output_is_no_folder_of_the_source_or_below_a_file(source: Path, tmp_path: Path) -> None:
    for folder in (source / "train" / "dest", source / "val" / "zebra" / "dest"):
        for given in (source, f"image_folder:{source}"):
            with pytest.raises(DataError, match="whose folders are classes of images"):
                prepared(given, folder)
    with pytest.raises(DataError, match=r"dest cannot be made, because .*d\.jpg is no folder"):
        prepared(source, source / "train" / CLASSES[0] / "d.jpg" / "dest")
    assert prepared(source, source / "dest") == prepared(source, source / "dest")


def test_other_options_are_refused_and_a_complete_folder_is_left_alone(source: Path, tmp_path: Path) -> None:
    dest = tmp_path / "dest"
    (source / "val" / "zebra" / "e.png").write_bytes(b"")
    with pytest.raises(DataError, match="cannot be read"):
        prepared(source, dest)
    with pytest.raises(DataError, match="size was None, now 8; classes was"):
        prepared(source, dest, size=8, classes=CLASSES[:2])
    photograph(1).save(source / "val" / "zebra" / "e.png")
    manifest = prepared(source, dest)
    assert {path.name for path in dest.iterdir()} == {"manifest.json", "train", "val"}
    before = {path: path.stat().st_mtime_ns for path in dest.rglob("*")}
    assert prepared(source, dest) == manifest
    assert {path: path.stat().st_mtime_ns for path in dest.rglob("*")} == before
    with pytest.raises(DataError, match="png was False, now True"):
        prepared(source, dest, size=8, png=True)
    with pytest.raises(DataError, match="did not make"):
        prepared(source, source)


def start(source: Path, dest: Path, workers: int) -> subprocess.Popen[str]:
    """Start the command at 64 pixels in a process and a process group of its own."""
    command = [sys.executable, "-m", "dist_condense.commands.cli", "prepare", str(source), str(dest), "--size", "64"]
    command += ["--workers", str(workers)]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)


def test_killed_in_the_middle_the_same_command_continues(real_data: Path, tmp_path: Path) -> None:
    source, dest = real_data / "miniimagenet84", tmp_path / "killed"
    records = dest / ".preparing"
    with start(source, dest, workers=2) as process:
        while not list(records.glob("train-*.json")) and process.poll() is None:
            time.sleep(0.002)
        process.kill()
        _, message = process.communicate()  # ends when the workers have ended too: they hold the pipe
    kept = [json.loads(file.read_text())["label"] for file in records.glob("train-*.json")]
    assert process.returncode == -signal.SIGKILL and 0 < len(kept) < 100, message
    assert not (dest / "manifest.json").exists()
    shards = [dest / "train" / f"{label:04d}-000.tar" for label in kept]
    written = [shard.stat().st_mtime_ns for shard in shards]
    with start(source, dest, workers=1) as process:
        _, message = process.communicate()
    assert process.returncode == 0, message
    assert [shard.stat().st_mtime_ns for shard in shards] == written
    prepared(source, tmp_path / "whole", size=64)
    assert tree(dest) == tree(tmp_path / "whole")


def importing(process: subprocess.Popen[str]) -> bool:
    """Return whether a worker of the process is importing torch, which takes a second or more."""
    below = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return any("spawn_main" in proc(child, "cmdline") and "libtorch" in proc(child, "maps") for child in below)


def proc(pid: str, what: str) -> str:
    try:
        return Path(f"/proc/{pid}/{what}").read_text()
    except OSError:  # it has ended
        return ""


@pytest.mark.slow  # starts three processes
def test_interrupted_while_workers_start_it_prints_one_line(real_data: Path, tmp_path: Path) -> None:
    with start(real_data / "miniimagenet84", tmp_path / "dest", workers=2) as process:
        while process.poll() is None and not importing(process):
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does it: to all of them
        _, message = process.communicate()
    assert (process.returncode, message) == (130, "interrupted: the same command continues\n")


@pytest.mark.slow  # starts two processes, as the test above does
def test_the_same_bytes_whatever_the_number_of_workers(source: Path, tmp_path: Path) -> None:
    prepared(source, tmp_path / "one", size=16)
    prepared(source, tmp_path / "two", size=16, mapping=LocalMap(2))
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_tars_of_mixed_classes_with_real_photographs(real_data: Path, tmp_path: Path) -> None:
    root = real_data / "imagenette224"
    wnids = sorted(folder.name for folder in (root / "train").iterdir())[:4]
    for split in ("train", "val"):
        files = {wnid: sorted((root / split / wnid).iterdir())[:6] for wnid in wnids}
        for part in range(3):
            places = [(label, files[wnid][2 * part + half]) for half in range(2) for label, wnid in enumerate(wnids)]
            members = [((file.name, file.read_bytes()), (f"{file.stem}.cls", b"%d" % label)) for label, file in places]
            write_tar(tmp_path / f"{split}-{part:04d}.tar", [member for pair in members for member in pair])
    selected = (wnids[3], "dog")
    options = {"classes": selected, "class_names": ("fish", "dog", "player", "saw")}
    val = f"{tmp_path}/val-{{0000..0002}}.tar"
    manifest = prepared(f"{tmp_path}/train-{{0000..0002}}.tar", tmp_path / "dest", val=val, **options)
    assert [(entry.name, entry.wnid) for entry in manifest.classes] == [("saw", wnids[3]), ("dog", wnids[1])]
    for split in ("train", "val"):
        for label, wnid in enumerate((wnids[3], wnids[1])):
            expected = [file.read_bytes() for file in sorted((root / split / wnid).iterdir())[:6]]
            assert read(tmp_path / "dest", manifest, split, label) == expected


def jpeg(seed: int) -> bytes:
    stream = BytesIO()
    photograph(seed).save(stream, "JPEG")
    return stream.getvalue()


def write_mixed(folder: Path, val_labels: tuple[int, ...] = (3, 7)) -> dict[str, str]:
    """Write two training tars of classes 3 (one WordNet id) and 7 (several), and one validation tar."""
    folder.mkdir(exist_ok=True)
    for part in range(2):
        first = [(f"x/n00000003_{part}.JPG", jpeg(part)), (f"x/n00000003_{part}.cls", b"3")]
        second = [(f"n0000000{part}_q.jpg", jpeg(part + 5)), (f"n0000000{part}_q.cls", b"7")]
        write_tar(folder / f"train-{part}.tar", [*first, *second])
    images = [[(f"v{label}.jpg", jpeg(label)), (f"v{label}.cls", b"%d" % label)] for label in val_labels]
    val = [member for members in images for member in members]
    write_tar(folder / "val.tar", val)
    return {"source": f"{folder}/train-{{0..1}}.tar", "val": f"{folder}/val.tar"}


def test_names_of_labels_in_tars(tmp_path: Path) -> None:
    given = write_mixed(tmp_path / "tars")
    manifest = prepared(given["source"], tmp_path / "dest", val=given["val"])
    assert [(entry.name, entry.wnid) for entry in manifest.classes] == [("n00000003", "n00000003"), ("7", None)]
    assert read(tmp_path / "dest", manifest, "train", 1) == [jpeg(5), jpeg(6)]
    names = tuple("abcdefgh")
    named = prepared(given["source"], tmp_path / "named", val=given["val"], class_names=names)
    assert [(entry.name, entry.wnid) for entry in named.classes] == [("d", "n00000003"), ("h", None)]


def test_ignored_members_of_tars_are_counted(tmp_path: Path) -> None:
    folder = write_mixed(tmp_path / "tars")
    for part in range(2):
        members = [(f"{part}.a.jpg", jpeg(part)), (f"{part}.a.cls", b"3"), (f"{part}.json", b"{}")]
        write_tar(tmp_path / "tars" / f"train-{part}.tar", members)
    options = PrepareOptions(val=folder["val"])
    source = open_source(folder["source"], options, HERE)
    assert source.notes == (
        f"{folder['source']}: 2 images of 1 classes; ignored: 2 .json",
        f"{folder['val']}: 2 images of 2 classes",
    )
    with pytest.raises(DataError, match=r"--class-names: 1 names of classes are not UTF-8: caf\\xe9"):
        open_source(folder["source"], replace(options, class_names=("a", "b", "c", "caf\udce9")), HERE)


def test_relative_paths_are_those_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def elsewhere(function, items):
        for item in items:
            with chdir("/"):
                result = function(item)
            yield result

    monkeypatch.chdir(tmp_path)
    write_folder(Path("source"))
    given = write_mixed(Path("tars"))
    for source, options in (("source", {}), (given["source"], {"val": given["val"]})):
        dest = Path(f"dest of {source[:4]}")
        manifest = prepared(source, dest, mapping=elsewhere, **options)
        assert manifest.made.source == source  # as it was given, so that the same command finds its own folder
        assert prepared(source, dest, **options) == manifest


def test_problems_of_tars_are_reported_before_anything_is_written(tmp_path: Path) -> None:
    given = write_mixed(tmp_path / "tars")
    lacking = write_mixed(tmp_path / "lacking", val_labels=(3,))
    wrong = [
        (given["source"], {}, "--val is missing"),
        (given["source"].replace("1}", "3}"), {"val": given["val"]}, "2 of the 4 tars"),
        (given["source"].replace("1}", "999999999}"), {"val": given["val"]}, "1,000,000,000 tars, more than 100,000"),
        (given["source"].replace("..1}", ",0}"), {"val": given["val"]}, r"names tars more than once: .*train-0\.tar"),
        (given["source"], {"val": "s3://bucket/val.tar"}, "copy them to this machine"),
        (given["source"], {"val": "pipe:cat val.tar"}, "is not opened"),
        (lacking["source"], {"val": lacking["val"]}, "1 classes have no validation image: 7"),
        (given["source"], {"val": given["val"], "class_names": ("a", "b")}, "2 names, but .* label 7"),
        (given["source"], {"val": given["val"], "class_names": ("a",) * 8}, "several labels: a"),
        (given["source"], {"val": given["val"], "classes": ("7", "8")}, "do not exist: 8.* Name others in --classes"),
        (given["source"], {"val": given["val"], "classes": "imagenet10_idc"}, "10 of the 10 requested classes"),
    ]
    for source, options, message in wrong:
        with pytest.raises(DataError, match=message):
            prepared(source, tmp_path / "dest", **options)
    assert not (tmp_path / "dest").exists()
