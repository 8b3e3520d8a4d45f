"""The store returns the bytes of the tars, and refuses shards that contradict the manifest."""

import errno
import os
import pickle
import resource
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from fsspec.registry import _registry
from fsspec.spec import AbstractFileSystem

from dist_condense.data import DataError, open_dataset
from dist_condense.data.shards import shards
from dist_condense.data.shards.manifest import Manifest, write_manifest
from dist_condense.data.shards.shards import ShardStore
from dist_condense.data.shards.writer import ClassShardWriter
from dist_condense.system.files import sha256_of
from tests.data.shards.shard_cases import CLASSES, prepared, write_folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    """Prepared folder and manifest, shared by all tests and not to be changed."""
    dest = tmp_path_factory.mktemp("prepared") / "dest"
    return dest, prepared(source, dest)


def files(source: Path, label: int) -> list[bytes]:
    return [path.read_bytes() for path in sorted((source / "train" / CLASSES[label]).iterdir())]


def read_all(store: ShardStore, label: int) -> list[bytes]:
    return [store.read(label, index) for index in range(store.count(label))]


def test_selected_classes_by_position(source: Path, whole: tuple[Path, Manifest]) -> None:
    store = ShardStore(str(whole[0]), whole[1], "train", [2, 0])
    assert store.labels == (2, 0)
    assert (read_all(store, 2), read_all(store, 0)) == (files(source, 2), files(source, 0))
    assert store.encoded_bytes(2) == sum(map(len, files(source, 2))) == whole[1].image_bytes("train")[2]
    assert store.where(2, 1) == f"{whole[0]}/train/0002-000.tar: 000001_b_x_y.jpg"
    assert ShardStore(str(whole[0]), whole[1], "val", [1]).count(1) == 1
    with pytest.raises(KeyError):
        store.count(1)
    for position in (-1, 4):
        with pytest.raises(IndexError, match="of a class of 4 images"):
            store.read(0, position)
    with pytest.raises(ValueError, match=r"labels 0\.\.2"):
        ShardStore(str(whole[0]), whole[1], "train", [3])


def test_pickled_it_reads_the_same(whole: tuple[Path, Manifest]) -> None:
    store = ShardStore(str(whole[0]), whole[1], "train", [1])
    first = read_all(store, 1)
    assert read_all(pickle.loads(pickle.dumps(store)), 1) == first


def test_few_files_open_and_many_threads(
    source: Path, whole: tuple[Path, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "OPEN_FILES", 1)
    store = ShardStore(str(whole[0]), whole[1], "train", [0, 1, 2])
    before = len(os.listdir("/proc/self/fd"))
    with ThreadPoolExecutor(8) as pool:
        places = [(label, index) for _ in range(50) for index in range(4) for label in range(3)]
        results = list(pool.map(lambda place: store.read(*place), places))
    expected = [files(source, label) for label in range(3)]
    assert results == [expected[label][index] for label, index in places]
    assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_a_class_of_several_shards(tmp_path: Path, whole: tuple[Path, Manifest]) -> None:
    images = [bytes([number]) * 100 for number in range(7)]
    with ClassShardWriter(tmp_path, "train", 0, part_bytes=250) as writer:
        for image in images:
            writer.add("x", "jpg", image)
    assert [shard.count for shard in writer.shards] == [2, 2, 2, 1]
    manifest = replace(whole[1], splits={"train": (tuple(writer.shards),) * 3, "val": whole[1].splits["val"]})
    store = ShardStore(str(tmp_path), manifest, "train", [0])
    assert read_all(store, 0) == images
    assert store.where(0, 6).endswith("0000-003.tar: 000006_x.jpg")


def test_a_shard_is_opened_once_and_by_the_first_who_reads_it(
    whole: tuple[Path, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(shards, "sha256_of", lambda path: opened.append(path.name) or sha256_of(path))
    store = ShardStore(str(whole[0]), whole[1], "train", [0, 1, 2])
    assert (store.count(2), store.encoded_bytes(2)) == (4, whole[1].image_bytes("train")[2])
    assert opened == []
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda index: store.read(2, index), [0, 1, 2, 3] * 8))
    assert opened == ["0002-000.tar"]
    assert sorted(read_all(store.opened(), 2)) == sorted(read_all(store, 2))
    assert sorted(opened) == ["0000-000.tar", "0001-000.tar", "0002-000.tar"]


def flip(path: Path) -> None:
    """Change a byte in the middle of the first image."""
    content = bytearray(path.read_bytes())
    content[512 * 3 + 20] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "is missing": Path.unlink,
    r"has \d+ bytes, the manifest says": lambda path: path.write_bytes(path.read_bytes()[:-512]),
    "has the sha256": flip,
}


@pytest.mark.parametrize("message", DAMAGES)
def test_damaged_shards_are_named(whole: tuple[Path, Manifest], tmp_path: Path, message: str) -> None:
    dest = Path(shutil.copytree(whole[0], tmp_path / "copy"))
    for name in ("0000-000.tar", "0002-000.tar"):
        DAMAGES[message](dest / "train" / name)
    store = ShardStore(str(dest), whole[1], "train", [0, 1, 2])
    with pytest.raises(DataError) as caught:
        store.opened()
    assert len(caught.value.problems) == 2
    for _ in range(2):
        with pytest.raises(DataError, match=rf"0002-000\.tar: .*{message}"):
            store.read(2, 0)
    assert len(read_all(store, 1)) == 4
    assert ShardStore(str(dest), whole[1], "train", [1]).opened().count(1) == 4


def test_another_count_and_a_file_cut_later(whole: tuple[Path, Manifest], tmp_path: Path) -> None:
    dest = Path(shutil.copytree(whole[0], tmp_path / "copy"))
    shard = replace(whole[1].splits["train"][0][0], count=5)
    miscounted = replace(whole[1], splits={"train": ((shard,),) * 3, "val": ()})
    with pytest.raises(DataError, match="holds 4 images, the manifest says 5"):
        ShardStore(str(dest), miscounted, "train", [0]).opened()
    store = ShardStore(str(dest), whole[1], "train", [0, 1], verify=False).opened()
    os.truncate(dest / "train" / "0000-000.tar", 700)
    (dest / "train" / "0001-000.tar").unlink()
    for label, message in ((0, "it ends before image 3"), (1, "it cannot be read any more")):
        with pytest.raises(DataError, match=rf"000{label}-000\.tar: {message}"):
            store.read(label, 3)


def test_a_shard_that_contradicts_its_entry(whole: tuple[Path, Manifest], tmp_path: Path) -> None:
    train, val = (whole[1].splits[split] for split in ("train", "val"))
    bytes_more = replace(train[0][0], image_bytes=train[0][0].image_bytes + 1)
    for changed, message in (
        (replace(whole[1], splits={"train": ((bytes_more,), *train[1:]), "val": val}), "bytes of images, the manifest"),
        (
            replace(whole[1], splits={"train": train[::-1], "val": val}),
            r"0002-000\.tar: it is of class 2, the manifest says 0",
        ),
        (replace(whole[1], size=25), "holds images of 40 x 40 pixels, the manifest says 25"),
    ):
        with pytest.raises(DataError, match=message):
            ShardStore(str(whole[0]), changed, "train", [0]).opened()
    reordered = replace(whole[1], splits={"train": train[::-1], "val": val})
    assert ShardStore(str(whole[0]), reordered, "train", [0], numbers=(2, 1, 0)).opened().count(0) == 4


def test_images_beyond_all_memory_are_refused_by_the_shards(whole: tuple[Path, Manifest], tmp_path: Path) -> None:
    dest = Path(shutil.copytree(whole[0], tmp_path / "copy"))
    shard = replace(whole[1].splits["val"][0][0], count=10**12, image_bytes=10**12, bytes=10**15)
    write_manifest(dest, replace(whole[1], splits={**whole[1].splits, "val": ((shard,), *whole[1].splits["val"][1:])}))
    with pytest.raises(DataError, match=r"0000-000\.tar: it has 10240 bytes, the manifest says 10{15}"):
        open_dataset("image_folder", dest).test()


def test_a_full_disk_is_named_and_leaves_no_unfinished_shard(tmp_path: Path) -> None:
    """A limit of the size of files stands for the disk: the kernel writes a part, then refuses."""

    def write() -> None:
        with ClassShardWriter(tmp_path, "train", 3) as writer:
            for number in range(20):
                writer.add(str(number), "jpg", bytes(1000))

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        with pytest.raises(OSError, match=r"File too large: '.*/train/0003-000\.tar'"):
            write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list((tmp_path / "train").iterdir()) == []


class Bucket(AbstractFileSystem):
    """File system with the prepared folder as s3://bucket."""

    protocol = "s3"
    cachable = False
    folder = Path()

    def _open(self, path: str, mode: str = "rb", **options: object) -> BytesIO:
        return BytesIO((self.folder / path.removeprefix("bucket/")).read_bytes())


def test_remote_shards_are_read_from_the_cache(
    source: Path, whole: tuple[Path, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_registry, "s3", Bucket)
    monkeypatch.setattr(Bucket, "folder", whole[0])
    store = ShardStore("s3://bucket", whole[1], "train", [0], cache=tmp_path)
    assert read_all(store, 0) == files(source, 0)
    monkeypatch.setattr(Bucket, "folder", Path("/nowhere"))
    assert read_all(ShardStore("s3://bucket", whole[1], "train", [0], cache=tmp_path), 0) == files(source, 0)
    monkeypatch.setattr(Bucket, "folder", whole[0])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert read_all(ShardStore("s3://bucket", whole[1], "train", [0]), 0) == files(source, 0)
    own = tmp_path / f"dist_condense-{os.getuid()}"
    assert own.stat().st_mode & 0o777 == 0o700 and list(own.glob("*-0000-000.tar"))


def test_a_shard_that_the_disk_does_not_give_is_named(
    whole: tuple[Path, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(path: Path) -> str:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(shards, "sha256_of", broken)
    with pytest.raises(DataError, match=r"0002-000\.tar: the shard cannot be read \(.*Input/output error"):
        ShardStore(str(whole[0]), whole[1], "train", [2]).opened()
