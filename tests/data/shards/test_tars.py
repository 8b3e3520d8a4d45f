"""The index of a tar agrees with its content and with WebDataset; damaged and hostile tars are refused by name."""

import io
import os
import random
import re
import tarfile
import time
from contextlib import suppress
from itertools import product
from pathlib import Path

import pytest

from dist_condense.data import DataError
from dist_condense.data.reading.store import FILE_BYTES
from dist_condense.data.shards.tar_headers import BLOCK, MAX_EXTENDED, MAX_PADDING, members
from dist_condense.data.shards.tars import (
    FURTHER,
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
    theirs = [webdataset().tariterators.base_plus_ext(name) for name in kept]
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
    theirs = {entry["__key__"]: entry for entry in webdataset().WebDataset(str(path), shardshuffle=False)}
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
    info.size = FILE_BYTES + 1
    path = tmp_path / "big.tar"
    path.write_bytes(info.tobuf())
    with path.open("r+b") as stream:
        stream.truncate(512 + FILE_BYTES + 2048)  # a sparse file of zeros
    with pytest.raises(DataError, match=rf"big\.tar: 'big\.jpg' has {FILE_BYTES + 1} bytes"):
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
                info = tarfile.TarInfo(name)
                info.mtime = 0.5  # a second record of the pax header
                tar.addfile(info)
        assert [sample.member for sample in index_tar(tmp_path / "long.tar")] == names


def test_extended_headers_one_upon_the_other(tmp_path: Path) -> None:
    info = tarfile.TarInfo("long")
    info.type = tarfile.GNUTYPE_LONGNAME
    path = tmp_path / "chain.tar"
    path.write_bytes(info.tobuf() * 2000 + bytes(1024))
    with pytest.raises(DataError, match=r"chain\.tar: no whole, uncompressed tar"):
        index_tar(path)


@pytest.mark.parametrize("size", [20 * 2**30, 10**18, 2**80])
def test_a_member_beyond_the_end_of_the_file_is_one_problem(tmp_path: Path, size: int) -> None:
    info = tarfile.TarInfo("e.jpg")
    info.size = size
    (tmp_path / "long.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(DataError, match=rf"'e\.jpg', of {size} bytes, ends beyond the file") as caught:
        index_tar(tmp_path / "long.tar")
    assert len(caught.value.problems) == 1


def test_gigabytes_of_zeros_after_the_end_are_not_read(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "zeros.tar", GOOD)
    os.truncate(path, 20 * 2**30)
    with pytest.raises(DataError, match=rf"zeros\.tar: .*bytes follow its last member, more than {MAX_PADDING}"):
        index_tar(path)


def test_zeros_after_the_end_are_compared_fast(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "zeros.tar", GOOD)
    os.truncate(path, 300 * 2**20)  # as by tar -b 262144, but sparse
    before = time.process_time()
    assert index_tar(path) == index_tar(write_tar(tmp_path / "plain.tar", GOOD))
    assert time.process_time() - before < 1.5
    with path.open("ab") as stream:
        stream.write(b"1")
    with pytest.raises(DataError, match="what follows is neither a member nor the end"):
        index_tar(path)


def pax(kind: bytes, records: bytes) -> bytes:
    """Return an extended header with these records."""
    info = tarfile.TarInfo("pax")
    info.type, info.size = kind, len(records)
    return info.tobuf(tarfile.USTAR_FORMAT) + records + bytes(-len(records) % BLOCK)


def record(key: str, value: str) -> bytes:
    rest = f" {key}={value}\n".encode()
    return next(f"{n}".encode() + rest for n in range(len(rest), len(rest) + 9) if len(f"{n}") + len(rest) == n)


def long_name(name: str) -> bytes:
    """Return GNU tar's header of a long name."""
    info = tarfile.TarInfo("L")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, len(name) + 1
    return info.tobuf(tarfile.GNU_FORMAT) + name.encode() + bytes(BLOCK - len(name))


EMPTY = tarfile.TarInfo("x.txt").tobuf(tarfile.USTAR_FORMAT)


@pytest.mark.parametrize("records", [b"9" * MAX_EXTENDED, record("comment", "9" * 65_000)], ids=["damaged", "valid"])
def test_long_numbers_in_a_pax_header_take_linear_time(tmp_path: Path, records: bytes) -> None:
    """tarfile's search for a character set takes 2.6 s for each of these headers in Python 3.11.7."""
    (tmp_path / "slow.tar").write_bytes((pax(tarfile.XHDTYPE, records) + EMPTY) * 20 + bytes(1024))
    before = time.process_time()
    with suppress(DataError):
        assert index_tar(tmp_path / "slow.tar") == []
    assert time.process_time() - before < 3


@pytest.mark.parametrize(
    "records",
    [b"0 a=b\n", b"99999999999999999999 a=b\n", b"-6 a=b\n", b"6 a=b", b"5 =b\n", b"\xff a=b\n", b"7 size=9\n"],
)
def test_records_of_a_pax_header_that_are_damaged(tmp_path: Path, records: bytes) -> None:
    (tmp_path / "pax.tar").write_bytes(pax(tarfile.XHDTYPE, records) + EMPTY + bytes(1024))
    with pytest.raises(DataError, match=r"pax\.tar: no whole, uncompressed tar, from its start on \(a pax header with"):
        index_tar(tmp_path / "pax.tar")


@pytest.mark.parametrize("headers", [*product("xL", repeat=2)], ids="".join)
def test_the_first_of_headers_that_conflict_counts_as_in_tarfile(tmp_path: Path, headers: tuple[str, str]) -> None:
    makers = {"x": lambda name: pax(tarfile.XHDTYPE, record("path", name)), "L": long_name}
    data = b"".join(makers[kind](name) for kind, name in zip(headers, ("first.txt", "second.txt"), strict=True))
    (tmp_path / "pax.tar").write_bytes(data + EMPTY + bytes(1024))
    with tarfile.open(tmp_path / "pax.tar") as tar:
        assert [member.name for member in members(tmp_path / "pax.tar")] == tar.getnames() == ["first.txt"]


@pytest.mark.parametrize("key", ["path", "size", "GNU.sparse.size"])
def test_a_global_header_neither_names_nor_measures_members(tmp_path: Path, key: str) -> None:
    (tmp_path / "pax.tar").write_bytes(pax(tarfile.XGLTYPE, record(key, "0")) + EMPTY + bytes(1024))
    with pytest.raises(DataError, match=r"pax\.tar: .*a global header gives all members one name or size"):
        index_tar(tmp_path / "pax.tar")


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
    {"size": str(FILE_BYTES + 1)},
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
