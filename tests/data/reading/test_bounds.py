"""No image file takes time or memory out of proportion: it is refused before its pixels are decoded."""

import os
import struct
import warnings
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image

from dist_condense.data import DataError, Reading
from dist_condense.data.reading import decode, headers, modes, store
from dist_condense.data.reading.decode import MARKERS, READS, SCANS, UNREADABLE, Form, decode_bytes, read_image
from dist_condense.data.reading.headers import channels_of, check_headers
from dist_condense.data.reading.store import ClassFolder, FolderStore
from dist_condense.data.reading.tiers import TIERS
from dist_condense.data.sets.request import LARGEST_SIDE
from dist_condense.system.terminal import silence_pillow
from tests.data.reading.test_decode import picture, written
from tests.data.shards.shard_cases import prepared, write_folder


def refused(data: bytes, size: int = 40) -> str:
    with pytest.raises(UNREADABLE) as caught:
        decode_bytes(data, 3, size)
    return str(caught.value)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, body: bytes = b"", more: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + more + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


def with_scans(number: int, size: int = 40) -> bytes:
    """Return a progressive JPEG whose last scan is repeated until there are `number` scans."""
    data = written(picture(size, size), progressive=True)
    last = data.rindex(decode.SOS)
    return data[:-2] + data[last:-2] * (number - data.count(decode.SOS)) + decode.EOI


@pytest.mark.parametrize("size", [40, 24])  # decoded in place, and by Pillow
def test_a_jpeg_has_few_scans(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = written(picture(), progressive=True)
    assert with_scans(plain.count(decode.SOS)) == plain
    assert decode_bytes(with_scans(SCANS), 3, size).shape == (3, size, size)
    trailer = plain + bytes(2) + (decode.SOS + bytes(9)) * 10 * SCANS  # a video after the image, as phones write it
    assert torch.equal(decode_bytes(trailer, 3, size), decode_bytes(plain, 3, size))
    monkeypatch.setattr(simplejpeg, "decode_jpeg", None)  # not reached
    assert refused(with_scans(SCANS + 1), size) == f"a JPEG of more than {SCANS} scans"


def test_a_jpeg_has_few_markers(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = written(picture(80, 80), subsampling=0, restart_marker_blocks=1)
    assert decode._scans(plain[:2] + b"\xff\xd0\0\2" * MARKERS + decode.EOI + decode.SOS * 2 * SCANS) == 0
    segments = plain[:2] + (decode.APP1 + b"\0\2") * MARKERS + plain[2:] + decode.SOS * 2 * SCANS
    assert refused(segments) == f"a JPEG of more than {SCANS} scans"
    monkeypatch.setattr(decode, "MARKERS", 20)
    assert decode_bytes(plain + decode.SOS * 2 * SCANS, 3, 40).shape == (3, 40, 40)  # restart markers do not count


ENDLESS = {
    "PNG": png(4, 4, bytes(20), chunk(b"abCd", b"") * (READS // 2)),
    "PPM": b"P6\n#" + b"a" * 2 * READS + b"\n4 4\n255\n" + bytes(48),
}


@pytest.mark.parametrize("data", ENDLESS.values(), ids=ENDLESS)
def test_a_header_without_end(data: bytes) -> None:
    assert refused(data) == f"more than {READS} parts, or a header without end"


def test_a_tile_larger_than_any_image_is_not_allocated() -> None:
    tags = {256: 10, 257: 10, 258: 8, 259: 8, 262: 1, 277: 1, 322: 40_000, 323: 40_000, 324: 8, 325: 20}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    data = struct.pack("<2sHI20sH", b"II", 42, 28, zlib.compress(bytes(100)), len(tags)) + entries + bytes(4)
    assert refused(data) == f"40000 x 40000 are more than {Image.MAX_IMAGE_PIXELS} pixels"
    small = Image.open(BytesIO(written(picture(), "TIFF")))
    assert modes.tile_of(small) == (0, 0)


def test_an_elongated_image_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "to_bytes", None)
    assert refused(png(1, 10_000_000)).startswith("40 x 400000000 are more than")


def test_the_largest_side_is_that_of_pillows_limit() -> None:
    assert Image.MAX_IMAGE_PIXELS is not None
    assert LARGEST_SIDE**2 <= Image.MAX_IMAGE_PIXELS < (LARGEST_SIDE + 1) ** 2


def test_scaling_by_blocks_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    deep = Image.fromarray(np.arange(9000, dtype=np.uint16).reshape(90, 100) * 7)
    whole = np.asarray(read_image(BytesIO(written(deep, "PNG")), 1).image)
    monkeypatch.setattr(modes, "BLOCK", 250)
    assert np.array_equal(np.asarray(read_image(BytesIO(written(deep, "PNG")), 1).image), whole)
    assert whole.max() > 200


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ClassFolder:
    """A good image, one that is too large, a pipe and a link to a device, as they may replace listed files."""
    data = written(picture(), "PNG")
    (tmp_path / "a.png").write_bytes(data)
    (tmp_path / "b.png").write_bytes(data + b"\0")
    os.mkfifo(tmp_path / "c.png")
    (tmp_path / "d.png").symlink_to("/dev/zero")
    for module in (store, headers):
        monkeypatch.setattr(module, "FILE_BYTES", len(data))
    return ClassFolder(tmp_path, ("a.png", "b.png", "c.png", "d.png"))


def test_the_headers_of_regular_files_of_limited_size_are_read(odd: ClassFolder) -> None:
    size = (odd.folder / "a.png").stat().st_size
    assert check_headers([odd]) == (
        f"3 image files cannot be read: {odd.folder}/b.png ({size + 1} bytes, expected at most {size}); "
        f"{odd.folder}/c.png (not a regular file); {odd.folder}/d.png (not a regular file). Replace or remove them, or "
        "leave them out by `dist-condense prepare SOURCE DEST --skip-bad`."
    )
    assert channels_of(headers.paths([odd]), str) == 3


@pytest.mark.parametrize("tier", TIERS)
def test_every_tier_names_what_is_no_regular_file(odd: ClassFolder, tier: str) -> None:
    with pytest.raises(DataError) as caught:
        TIERS[tier](FolderStore({0: odd}), Form(3, 8), Reading(tier)).get(0, torch.arange(4))
    assert caught.value.problems[0].startswith(f"{odd.folder}/b.png: the image cannot be read (")
    assert caught.value.problems[0].endswith("). Replace or remove it.")


def test_prepare_skips_them_as_bad_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_folder(tmp_path / "images")
    large = root / "train" / "zebra" / "c.png"
    monkeypatch.setattr(store, "FILE_BYTES", large.stat().st_size - 1)
    with pytest.raises(DataError, match=r"zebra/c\.png: the image cannot be read \(\d+ bytes, expected at most \d+\)"):
        prepared(root, tmp_path / "dest", classes=("zebra",))
    skipped = prepared(root, tmp_path / "dest", classes=("zebra",), skip_bad=True).skipped
    assert [entry.name for entry in skipped] == [str(large)]


def test_pillow_prints_nothing(caplog: pytest.LogCaptureFixture) -> None:
    junk = chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff\xff" + bytes(range(256)) * 9)
    tags = {256: 4, 257: 4, 277: 60_000}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    samples = struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        silence_pillow()
        decode_bytes(png(4, 4, bytes(20), junk), 3, 8, upright=True)
        for data in (png(10_000, 10_000), samples):
            refused(data)
    assert (warned, caplog.messages) == ([], [])
