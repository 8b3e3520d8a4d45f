"""Mutated manifests, tars, brace patterns and options of prepare give the original images, or a clear refusal."""

import hashlib
import json
import shutil
import tarfile
from dataclasses import replace
from io import BytesIO
from itertools import islice
from pathlib import Path

import pytest
import torch
from braceexpand import braceexpand
from hypothesis import strategies as st

from dist_condense.data import DataError, open_dataset
from dist_condense.data.preparing.prepare import IDENTITY
from dist_condense.data.preparing.tars import number_of_tars
from dist_condense.data.shards.manifest import FILE, write_manifest
from dist_condense.data.shards.manifest_reader import read_manifest
from dist_condense.data.shards.tar_headers import BLOCK
from dist_condense.data.shards.tars import scan_tar
from tests.data.preparing.test_prepare import write_mixed
from tests.data.shards.shard_cases import prepared, tree, write_folder
from tests.doors.fuzzing import door, fuzz, mutated_bytes, mutated_json, unchanged

SIZE = 24
SHARD = "train/0001-000.tar"
Images = dict[tuple[str, int], set[bytes]]
"""Pixels of each image, by split and label."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared folder, not to be changed."""
    root = tmp_path_factory.mktemp("whole")
    prepared(write_folder(root / "source"), root / "dest", size=SIZE, png=True)
    return root / "dest"


@pytest.fixture(scope="module")
def original(whole: Path) -> Images:
    return images_of(whole)


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    """Copy of the prepared folder, in which each example replaces a file."""
    return Path(shutil.copytree(whole, tmp_path / "copied"))


def images_of(folder: Path) -> Images:
    opened = open_dataset("image_folder", folder, size=SIZE)
    source, test = opened.train(), opened.test()
    pixels = {("train", c): source.get(c, torch.arange(count)) for c, count in enumerate(opened.counts)}
    pixels |= {("val", c): test.images[test.labels == c] for c in range(len(opened.classes))}
    return {place: {image.numpy().tobytes() for image in stack} for place, stack in pixels.items()}


@fuzz(st.data(), examples=150)
def test_a_manifest(whole: Path, original: Images, copied: Path, data: st.DataObject) -> None:
    (copied / FILE).write_bytes(data.draw(mutated_json(json.loads((whole / FILE).read_bytes()))))
    with unchanged(copied), door(DataError) as answer:
        images = images_of(copied)
    if answer.is_accepted and read_manifest(str(copied)).channels == 3:
        assert all(found <= original[place] for place, found in images.items())


@fuzz(st.data(), examples=100)
def test_a_shard(whole: Path, original: Images, copied: Path, data: st.DataObject) -> None:
    """The manifest has the number of bytes and the hash of the changed shard, as an attacker would write it."""
    manifest, content = read_manifest(str(whole)), data.draw(mutated_bytes((whole / SHARD).read_bytes()))
    (copied / SHARD).write_bytes(content)
    shutil.copy(whole / FILE, copied / FILE)
    with door(DataError) as answer:
        assert images_of(copied) == original
    assert answer.is_accepted == (content == (whole / SHARD).read_bytes())
    [shard] = manifest.splits["train"][1]
    if len(content) < shard.image_bytes + BLOCK * shard.count:
        return
    forged = replace(shard, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    train = tuple((forged,) if label == 1 else shards for label, shards in enumerate(manifest.splits["train"]))
    write_manifest(copied, replace(manifest, splits={**manifest.splits, "train": train}))
    with unchanged(copied), door(DataError):
        images_of(copied)


FIELDS = {"name": (0, 100), "mode": (100, 108), "size": (124, 136), "type": (156, 157), "prefix": (345, 500)}
"""First byte of the fields of a tar's header, and the byte after the last."""
TYPES = [bytes([kind]) for kind in b"01234567LKxgXSVMND\0\xff"]
CONTENTS = [b"00000001000\0", b"\x80" + bytes(10) + b"\x01", b"\x80" + b"\x7f" * 11, b"\xff" * 12, b" " * 12]
NAMES = [b"/etc/x.jpg", b"../x.jpg", b"a.jpg", b"\xff.jpg", b"a\n.jpg", b"", b"d/", b".jpg", b"a.b.c.jpg", b"b.cls"]


@st.composite
def mutated_headers(draw: st.DrawFn, valid: bytes) -> bytes:
    """Return a tar with another field in one to three headers, whose sums are correct, some of which come twice."""
    content, position = valid, 0
    headers = []
    while any(block := valid[position : position + BLOCK]):
        headers.append(position)
        size = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape").size
        position += BLOCK + -(-size // BLOCK) * BLOCK
    for position in sorted(draw(st.sets(st.sampled_from(headers), min_size=1, max_size=3)), reverse=True):
        header = bytearray(valid[position : position + BLOCK])
        start, end = FIELDS[draw(st.sampled_from([*FIELDS]))]
        odd = draw(st.sampled_from([*TYPES, *CONTENTS, *NAMES]) | st.binary(max_size=12))
        header[start:end] = odd[: end - start].ljust(end - start, b"\0")
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        content = content[:position] + header * draw(st.integers(1, 2)) + content[position + BLOCK :]
    return content


@fuzz(st.data(), examples=150)
def test_the_headers_of_a_tar(whole: Path, tmp_path: Path, data: st.DataObject) -> None:
    """A tar that is accepted has the members that Python's tarfile finds in it."""
    pax = tmp_path / "pax.tar"
    with tarfile.open(pax, "w", format=data.draw(st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))) as tar:
        for name in (f"{'ä' * 90}.jpg", f"{'x/' * 80}b.cls", "c.jpg"):
            info = tarfile.TarInfo(name)
            info.mtime = 0.5  # a second record of the pax header
            info.size = BLOCK * data.draw(st.integers(0, 2))
            tar.addfile(info, BytesIO(bytes(info.size)))
    valid = pax.read_bytes() if data.draw(st.booleans()) else (whole / SHARD).read_bytes()
    path = tmp_path / "mutated.tar"
    path.write_bytes(data.draw(mutated_headers(valid)))
    with door(DataError) as answer:
        samples, _ = scan_tar(path)
    if answer.is_accepted:
        with tarfile.open(path, "r:") as tar:
            theirs = {(member.name, member.offset_data, member.size) for member in tar}
        assert {(sample.member, sample.offset, sample.length) for sample in samples} <= theirs


PARTS = ["{", "}", ",", "a", "..", "0..3", "b..d", "9..2..3", "\\", "{0..9}", "{x,y}", "c..a", "-1..1", "{01..12}"]


@fuzz(st.lists(st.sampled_from(PARTS), max_size=10).map("".join), examples=300)
def test_the_number_of_tars_of_a_pattern(pattern: str) -> None:
    try:
        expected = len(list(islice(braceexpand(pattern), 10_000)))
        number = number_of_tars(pattern)
    except ValueError:
        return
    assert number == expected or min(number, expected) == 10_000


@fuzz(st.data(), examples=60)
def test_tars_to_prepare(tmp_path: Path, data: st.DataObject) -> None:
    given = write_mixed(tmp_path / "tars")
    file = tmp_path / "tars" / data.draw(st.sampled_from(["train-0.tar", "val.tar"]))
    file.write_bytes(data.draw(st.one_of(mutated_headers(file.read_bytes()), mutated_bytes(file.read_bytes()))))
    dest = tmp_path / "dest"
    shutil.rmtree(dest, ignore_errors=True)
    with unchanged(tmp_path / "tars"), door(DataError) as answer:
        prepared(given["source"], dest, val=given["val"])
    if answer.is_accepted:
        assert images_of(dest)


@fuzz(st.data(), examples=60)
def test_options_of_an_unfinished_preparation(whole: Path, tmp_path: Path, data: st.DataObject) -> None:
    source, dest = whole.parent / "source", tmp_path / "dest"
    shutil.rmtree(dest, ignore_errors=True)
    (dest / ".preparing").mkdir(parents=True)
    options = {"source": str(source), "val": None, "size": SIZE, "png": True, "classes": None, "channels": 3}
    (dest / ".preparing" / IDENTITY).write_bytes(data.draw(mutated_json(options)))
    with door(DataError) as answer:
        prepared(source, dest, size=SIZE, png=True)
    if answer.is_accepted:
        assert tree(dest) == tree(whole)
