"""The index of a tar agrees with its content and with WebDataset; damaged and hostile tars are refused by name."""

import io
import random
import re
import tarfile
from pathlib import Path

import pytest

from dist_condense.data import DataError
from dist_condense.data.shards.tar_headers import MAX_EXTENDED
from dist_condense.data.shards.tars import (
    FURTHER,
    MAX_MEMBER,
    METADATA,
    index_tar,
    key_and_suffix,
    read_labels,
    scan_tar,
)
from dist_condense.data.shards.writer import webdataset
from tests.data.shards.shard_cases import special, write_tar

GOOD = [("d/a.jpg", b"one"), ("d/a.cls", b"7"), ("b.png", b"x" * 1000), ("b.cls", b"12\n")]


def test_offsets_lengths_labels_and_ignored_members(tmp_path: Path) -> None:
    others = [
        ("b.pyd", b"import os"),
        ("b.pickle", b"cos"),
        ("notes", b"n"),
        ("c.pyd", b"?"),
        special("d", tarfile.DIRTYPE),
    ]
    path = write_tar(tmp_path / "good.tar", [*GOOD, *others])
    samples = index_tar(path)
    content = path.read_bytes()
    assert [(entry.key, entry.member) for entry in samples] == [("d/a", "d/a.jpg"), ("b", "b.png")]
    assert [content[entry.offset : entry.offset + entry.length] for entry in samples] == [b"one", b"x" * 1000]
    assert read_labels(path, samples) == [7, 12]


NAMES = [
    "a.jpg",
    "a.b.JPG",
    "d/a.b.c.Png",
    "d.e/a.x.jpg",
    "d.e/f",
    "f",
    "__x__",
    "__x__/a.jpg",
    "__x__y/a.jpg",
    "a.",
    "__x.jpg",
]
NAMES += [f"{first}{rest}" for first in ("", "d/", "d.e/f/") for rest in ("x y.JPEG", "ä.b.jpg", "a\nb.jpg", "..jpg")]


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset leaves its files to the collector
def test_keys_and_suffixes_are_those_of_webdataset(tmp_path: Path) -> None:
    draws = random.Random(3)
    names = dict.fromkeys([*NAMES, *("".join(draws.choices("aB./", k=7)) for _ in range(3000))])
    hidden = re.compile(r"(.*/)?\.[^/]*", re.DOTALL)  # of `d/.a.jpg` WebDataset makes a sample `d/`
    kept = [
        name for name in names if name and not hidden.fullmatch(name) and name != "__x__/a.jpg" and "//" not in name
    ]
    theirs = [webdataset.tariterators.base_plus_ext(name) for name in kept]
    ours = [key_and_suffix(name) for name in kept]
    meta = {"__x__"}
    assert len(kept) > 1000
    for name, (key, suffix), (their_key, their_suffix) in zip(kept, ours, theirs, strict=True):
        assert name in meta or (key, suffix) == (their_key, (their_suffix or "").lower()), name
    assert [key_and_suffix(name)[0] for name in ("__x__/a.jpg", "__x__", ".a.jpg", "d/.a.jpg")] == [None] * 4


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_the_samples_are_those_of_webdataset(tmp_path: Path) -> None:
    members = [
        *[("dog.1.jpg", b"1"), ("dog.1.cls", b"1")],  # what follows the first dot is the suffix
        *[("d.e/cat.JPG", b"2"), ("d.e/cat.CLS", b"2"), ("d.e/cat.json", b"{}"), special("d.e", tarfile.DIRTYPE)],
        *[
            ("b.seg.png", b"mask"),
            ("b.jpg", b"3"),
            (".DS_Store", b""),
            ("__m__/b.jpg", b"m"),
            ("b.cls", b"3"),
            ("b", b""),
        ],
        *[("d/é.x.y.WebP", b"4"), ("d/é.cls", b"4")],
    ]
    path = write_tar(tmp_path / "dotted.tar", members)
    samples, ignored = scan_tar(path)
    content = path.read_bytes()
    ours = {entry.key: content[entry.offset : entry.offset + entry.length] for entry in samples}
    theirs = {entry["__key__"]: entry for entry in webdataset.WebDataset(str(path), shardshuffle=False)}
    assert list(ours) == list(theirs) == ["dog", "d.e/cat", "b", "d/é"]
    assert list(ours.values()) == [theirs["dog"]["1.jpg"], *(theirs[k]["jpg"] for k in ("d.e/cat", "b")), b"4"]
    assert read_labels(path, samples) == [1, 2, 3, 4]
    assert ignored == {".json": 1, FURTHER: 1, "hidden": 1, METADATA: 1, "with no or another ending": 1}


def test_images_that_share_a_key_are_refused(tmp_path: Path) -> None:
    members = [("photo.1.jpg", b"1"), ("photo.2.jpg", b"2"), ("photo.cls", b"3")]
    path = write_tar(tmp_path / "dots.tar", members)
    with pytest.raises(
        DataError, match=r"'photo' is the key of photo\.1\.jpg, photo\.2\.jpg, as a key ends at the first"
    ):
        index_tar(path)


@pytest.mark.parametrize("cut", [100, 512 + 100, 512 + 3, 1024, 1024 + 512 + 512, 1024 + 1024 + 700])
def test_a_tar_cut_anywhere_is_named(tmp_path: Path, cut: int) -> None:
    path = write_tar(tmp_path / "torn.tar", GOOD)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match=r"torn\.tar: no whole, uncompressed tar"):
        index_tar(path)


def test_foreign_bytes_between_members_or_after_the_end_are_noticed(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "foreign.tar", GOOD)
    whole = path.read_bytes()
    for damaged in (whole[:1024] + b"!" * 512 + whole[1536:], whole + whole):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"foreign\.tar: no whole, uncompressed tar"):
            index_tar(path)


def test_compressed_and_empty_files_are_no_tars(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "small.tar", "w:gz"):
        pass
    (tmp_path / "empty.tar").touch()
    for name in ("small", "empty", "absent"):
        with pytest.raises(DataError, match=rf"{name}\.tar"):
            index_tar(tmp_path / f"{name}.tar")


def test_an_oversized_member(tmp_path: Path) -> None:
    info = tarfile.TarInfo("big.jpg")
    info.size = MAX_MEMBER + 1
    path = tmp_path / "big.tar"
    path.write_bytes(info.tobuf())
    with path.open("r+b") as stream:
        stream.truncate(512 + MAX_MEMBER + 2048)  # a sparse file of zeros
    with pytest.raises(DataError, match=rf"big\.tar: 'big\.jpg' has {MAX_MEMBER + 1} bytes"):
        index_tar(path)


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE])
@pytest.mark.parametrize("size", [MAX_EXTENDED + 1, -600])
def test_an_extended_header_is_not_read_whatever_its_size(tmp_path: Path, kind: bytes, size: int) -> None:
    info = tarfile.TarInfo("long")
    info.type, info.size = kind, size
    path = tmp_path / "long.tar"
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(2 * MAX_EXTENDED))
    with pytest.raises(DataError, match=rf"long\.tar: .*an extended header of {size} bytes"):
        index_tar(path)


def test_long_names_are_read(tmp_path: Path) -> None:
    names = ["x" * 300 + ".jpg", "ä" * 90 + ".jpg"]
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        with tarfile.open(tmp_path / "long.tar", "w", format=form) as tar:
            for name in names:
                tar.addfile(tarfile.TarInfo(name))
        assert [sample.member for sample in index_tar(tmp_path / "long.tar")] == names


def test_extended_headers_one_upon_the_other(tmp_path: Path) -> None:
    info = tarfile.TarInfo("long")
    info.type = tarfile.GNUTYPE_LONGNAME
    path = tmp_path / "chain.tar"
    path.write_bytes(info.tobuf() * 2000 + bytes(1024))
    with pytest.raises(DataError, match=r"chain\.tar: no whole, uncompressed tar"):
        index_tar(path)


def test_a_member_without_a_name(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "nameless.tar", [*GOOD, ("", b"1")])
    with pytest.raises(DataError, match=r"nameless\.tar: '' is a member without a name"):
        index_tar(path)


@pytest.mark.parametrize(
    "kind",
    [
        *(tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE),
        *(tarfile.GNUTYPE_SPARSE, b"V", b"M"),
    ],
)
def test_links_and_devices(tmp_path: Path, kind: bytes) -> None:
    path = write_tar(tmp_path / "links.tar", [*GOOD, special("e.jpg", kind)])
    with pytest.raises(DataError, match=r"links\.tar: 'e\.jpg' is no regular file"):
        index_tar(path)


PAX = [
    {"path": "../e.jpg"},
    {"path": "/tmp/e.jpg"},
    {"size": str(MAX_MEMBER + 1)},
    {"size": "-600"},
    {"size": "9" * 400},
    {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(2**50), "GNU.sparse.name": "e.jpg"},
    {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(2**50), "GNU.sparse.name": "e.jpg"},
    {"GNU.sparse.numblocks": "1", "GNU.sparse.size": str(2**50)},
]


@pytest.mark.parametrize("headers", PAX, ids=str)
def test_an_extended_header_says_no_more_than_a_plain_one_may(tmp_path: Path, headers: dict[str, str]) -> None:
    info = tarfile.TarInfo("e.jpg")
    header = info.create_pax_global_header(headers)
    local = header[:156] + tarfile.XHDTYPE + header[157:]
    total = sum(local[:148]) + 8 * 32 + sum(local[156:512])
    path = tmp_path / "pax.tar"
    path.write_bytes(local[:148] + b"%06o\0 " % total + local[156:] + info.tobuf(tarfile.USTAR_FORMAT) + bytes(10240))
    with pytest.raises(DataError, match=r"pax\.tar"):
        index_tar(path)


def test_a_compressed_tar_is_not_unpacked(tmp_path: Path) -> None:
    for form in ("gz", "bz2", "xz"):
        with tarfile.open(tmp_path / "bomb.tar", f"w:{form}") as tar:
            info = tarfile.TarInfo("e.jpg")
            info.size = 2**20
            tar.addfile(info, io.BytesIO(bytes(info.size)))
        with pytest.raises(DataError, match=r"bomb\.tar: no whole, uncompressed tar"):
            index_tar(tmp_path / "bomb.tar")


@pytest.mark.parametrize("name", ["../e.jpg", "a/../e.jpg", "/tmp/e.jpg", "../e.txt"])
def test_names_that_leave_the_folder(tmp_path: Path, name: str) -> None:
    path = write_tar(tmp_path / "names.tar", [*GOOD, (name, b"1")])
    with pytest.raises(DataError, match=r"names\.tar: '.*' is an absolute name or has"):
        index_tar(path)


@pytest.mark.parametrize("again", [("d/a.jpg", b"2"), ("b.jpg", b"2"), ("d/a.cls", b"2")])
def test_a_key_that_comes_twice(tmp_path: Path, again: tuple[str, bytes]) -> None:
    path = write_tar(tmp_path / "twice.tar", [*GOOD, again])
    with pytest.raises(DataError, match=rf"twice\.tar: '{again[0]}' has a key that comes twice"):
        index_tar(path)


def test_labels_without_image_and_images_without_label(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "bare.tar", [("a.cls", b"1"), ("b.jpg", b"1")])
    with pytest.raises(DataError, match="'a' has a label but no image"):
        index_tar(path)
    path = write_tar(tmp_path / "bare.tar", [("b.jpg", b"1"), ("c.jpg", b"1"), ("c.cls", b"-1")])
    with pytest.raises(DataError) as caught:
        read_labels(path, index_tar(path))
    assert [problem.split(" has ")[0] for problem in caught.value.problems] == [f"{path}: 'b'", f"{path}: 'c'"]
