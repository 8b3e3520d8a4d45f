"""Images are rotated by their EXIF orientation, by every reader or by none."""

import importlib.util
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from dist_condense.data import DataError, Reading, open_dataset
from dist_condense.data.preparing.tars import DATASET
from dist_condense.data.reading import decode
from dist_condense.data.reading.decode import decode_bytes, read_image
from dist_condense.data.reading.read_ahead import ReadAhead
from dist_condense.data.reading.tiers import TIERS
from dist_condense.data.shards.manifest import Manifest
from dist_condense.data.shards.shards import ShardStore
from tests.conftest import absent
from tests.data.shards.shard_cases import prepared, write_tar

Turn = Callable[[np.ndarray], np.ndarray]


def sides_swapped(pixels: np.ndarray) -> np.ndarray:
    return pixels.swapaxes(0, 1)


# EXIF 2.3, section 4.6.4: row 0 and column 0 of what is stored are these sides of the picture.
STORED: dict[int, Turn] = {
    1: lambda up: up,  # top, left
    2: lambda up: up[:, ::-1],  # top, right
    3: lambda up: up[::-1, ::-1],  # bottom, right
    4: lambda up: up[::-1],  # bottom, left
    5: sides_swapped,  # left, top
    6: lambda up: sides_swapped(up[:, ::-1]),  # right, top
    7: lambda up: sides_swapped(up[::-1, ::-1]),  # right, bottom
    8: lambda up: sides_swapped(up[::-1]),  # left, bottom
}
UPRIGHT: dict[int, Turn] = {
    **STORED,
    6: lambda stored: sides_swapped(stored)[:, ::-1],
    8: lambda stored: sides_swapped(stored)[::-1],
}
"""The way back."""
ALL = sorted(STORED)


def picture(width: int = 30, height: int = 20) -> np.ndarray:
    noise = np.random.default_rng(3).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))


def written(pixels: np.ndarray, kind: str, orientation: int | None, **options: object) -> bytes:
    exif, file = Image.Exif(), BytesIO()
    if orientation is not None:
        exif[ExifTags.Base.Orientation] = orientation
        options["exif"] = exif
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, kind, **options)
    return file.getvalue()


def lying(orientation: int, kind: str = "PNG", **options: object) -> bytes:
    """Return a file whose picture is upright only after rotation."""
    return written(STORED[orientation](picture()), kind, orientation, **options)


def test_the_way_back_is_one() -> None:
    assert all(np.array_equal(UPRIGHT[o](STORED[o](picture())), picture()) for o in ALL)


@pytest.mark.parametrize("orientation", ALL)
@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"})],
)
def test_all_eight_are_the_upright_picture(kind: str, options: dict[str, object], orientation: int) -> None:
    data = lying(orientation, kind, **options)
    assert np.array_equal(np.asarray(read_image(BytesIO(data), 3, upright=True).image), picture())
    plain = decode_bytes(written(picture(), "PNG", None), 3, 12)
    assert torch.equal(decode_bytes(data, 3, 12, upright=True), plain)
    ignored = np.asarray(read_image(BytesIO(data), 3).image)
    turned_by_pillow = kind == "TIFF"
    assert np.array_equal(ignored, picture() if turned_by_pillow else STORED[orientation](picture()))


@pytest.mark.parametrize("orientation", ALL)
@pytest.mark.parametrize("shape", [(30, 20), (16, 16)])
def test_jpegs_also_those_that_go_straight_to_their_place(shape: tuple[int, int], orientation: int) -> None:
    data = written(STORED[orientation](picture(*shape)), "JPEG", orientation, quality=95)
    stored = np.asarray(Image.open(BytesIO(data)))
    turned, as_stored = (decode_bytes(data, 3, 16, upright) for upright in (True, False))
    assert torch.equal(turned, decode_bytes(written(UPRIGHT[orientation](stored), "PNG", None), 3, 16))
    assert torch.equal(as_stored, decode_bytes(written(stored, "PNG", None), 3, 16))


def test_upright_jpegs_still_go_straight_to_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "read_image", None)
    for orientation in (None, 1):
        decode_bytes(written(picture(16, 16), "JPEG", orientation), 3, 16, upright=True)
    with monkeypatch.context() as patch:
        patch.setattr(decode, "opened", None)
        decode_bytes(written(picture(16, 16), "JPEG", None), 3, 16, upright=True)  # without EXIF, not a look at it


def test_an_orientation_in_xmp_counts() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="3"/></x:xmpmeta>'
    data = written(picture(16, 16)[::-1, ::-1], "JPEG", None, xmp=xmp)
    stored = np.asarray(Image.open(BytesIO(data)))
    expected = decode_bytes(written(stored[::-1, ::-1], "PNG", None), 3, 16)
    assert torch.equal(decode_bytes(data, 3, 16, upright=True), expected)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_a_number_that_is_no_orientation_is_upright(value: int) -> None:
    data = written(picture(), "PNG", value)
    assert np.array_equal(np.asarray(read_image(BytesIO(data), 3, upright=True).image), picture())


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0nothing", b"Exif\0\0II*\0\xff\xff\0\0", b"Exif\0\0MM\0*\0\0"])
def test_exif_that_is_damaged_leaves_an_image_as_it_is(exif: bytes) -> None:
    file = BytesIO()
    Image.fromarray(picture(16, 16)).save(file, "JPEG", exif=exif)
    data = file.getvalue()
    assert torch.equal(decode_bytes(data, 3, 16, upright=True), decode_bytes(data, 3, 16))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of eight training images and eight test images, all of one picture, as each orientation stores it."""
    for split in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / "mine" / split / name).mkdir(parents=True)
            for orientation in ALL:
                (tmp_path / "mine" / split / name / f"{orientation}.png").write_bytes(lying(orientation))
    return tmp_path / "mine"


def shows(images: torch.Tensor, upright: bool) -> bool:
    """Return whether these are the eight images, rotated or as they are stored."""
    turned = [picture()] * 8 if upright else [STORED[o](picture()) for o in ALL]
    expected = [decode_bytes(written(pixels, "PNG", None), 3, images.shape[-1]) for pixels in turned]
    return torch.equal(images, torch.stack(expected))


EIGHT = torch.arange(8)


@pytest.mark.parametrize(
    ("name", "given", "upright"),
    [
        ("image_folder", None, True),
        ("imagenet", None, False),
        ("cifar10", None, False),
        ("image_folder", False, False),
        ("imagenet", True, True),
    ],
)
def test_every_reader_follows_the_data_set_or_the_key(root: Path, name: str, given: bool | None, upright: bool) -> None:
    opened = open_dataset(name, root, size=12, orientation=given)
    for tier in TIERS:
        with ReadAhead(opened.train([1], Reading(tier))) as ahead:
            assert shows(ahead.redeem(ahead.announce(1, EIGHT)), upright)
    assert shows(opened.train_split.on_demand(Reading()).get(0, EIGHT), upright)
    for tier in ("ram", "disk"):
        chunks = [images for images, _ in opened.test(Reading(tier)).chunks(8)]
        assert all(shows(chunk, upright) for chunk in chunks)


def test_it_is_part_of_what_a_run_is_known_by(root: Path) -> None:
    def digest(orientation: bool | None) -> str:
        return open_dataset("image_folder", root, orientation=orientation).train_split.digest()

    assert digest(None) == digest(True) != digest(False)


@pytest.mark.parametrize(("source", "upright"), [("image_folder", True), ("imagenet", False)])
@pytest.mark.parametrize("name", ["image_folder", "imagenet"])
def test_what_was_prepared_decides(root: Path, tmp_path: Path, source: str, upright: bool, name: str) -> None:
    prepared(f"{source}:{root}", tmp_path / "kept")
    prepared(f"{source}:{root}", tmp_path / "sized", size=12, png=True)
    kept = open_dataset(name, tmp_path / "kept", size=12)
    assert shows(kept.train([1]).images[1], upright)
    other = open_dataset(name, tmp_path / "kept", size=12, orientation=not upright)
    assert shows(other.train([1]).images[1], not upright)
    assert kept.train_split.digest() != other.train_split.digest()
    assert shows(open_dataset(name, tmp_path / "sized").train([1]).images[1], upright)
    with pytest.raises(DataError, match=r"dataset.orientation: the images of .* leave it out, or prepare again"):
        open_dataset(name, tmp_path / "sized", orientation=True)
    prepared(tmp_path / "kept", tmp_path / "again", size=12, png=True)  # from shards that were kept
    assert shows(open_dataset(name, tmp_path / "again").train([0]).images[0], upright)
    prepared(tmp_path / "sized", tmp_path / "twice")  # and that were not
    assert shows(open_dataset(name, tmp_path / "twice", size=12).train([0]).images[0], upright)


def files(manifest: Manifest, dest: Path) -> list[bytes]:
    store = ShardStore(str(dest), manifest, "train", [0])
    return [store.read(0, index) for index in range(store.count(0))]


def test_images_that_have_the_size_are_rotated_too_and_lose_their_tag(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / "mine" / split / "a").mkdir(parents=True)
        for orientation in ALL:
            data = written(STORED[orientation](picture(16, 16)), "JPEG", orientation)
            (tmp_path / "mine" / split / "a" / f"{orientation}.jpg").write_bytes(data)
    folder = open_dataset("image_folder", tmp_path / "mine", size=16).train([0]).images[0]
    manifest = prepared(tmp_path / "mine", tmp_path / "dest", size=16, png=True)
    assert torch.equal(open_dataset("image_folder", tmp_path / "dest").train([0]).images[0], folder)
    images = map(Image.open, map(BytesIO, files(manifest, tmp_path / "dest")))
    assert [image.getexif().get(ExifTags.Base.Orientation, 1) for image in images] == [1] * 8
    manifest = prepared(f"imagenet:{tmp_path / 'mine'}", tmp_path / "papers", size=16)
    stored = open_dataset("imagenet", tmp_path / "mine", size=16).train([0]).images[0]
    assert torch.equal(
        open_dataset("image_folder", tmp_path / "papers").train([0]).images[0], stored
    )  # kept, with tags


@pytest.mark.parametrize("orientation", [None, True, False])
def test_tars_are_ones_own(tmp_path: Path, orientation: bool | None) -> None:
    members = [[(f"k{o}.png", lying(o)), (f"k{o}.cls", b"0")] for o in ALL]
    tar = str(write_tar(tmp_path / "mine.tar", [member for pair in members for member in pair]))
    prepared(tar, tmp_path / "dest", val=tar, orientation=orientation)
    opened = open_dataset(DATASET, tmp_path / "dest", size=12)
    assert shows(opened.train([0]).images[0], orientation is not False)


def test_a_beton_holds_the_turned_images(root: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("ffcv") is None:
        absent("FFCV is not installed: make install-ffcv")
    prepared(root, tmp_path / "dest", size=12, png=True, ffcv=True)
    source = open_dataset("image_folder", tmp_path / "dest").train([1], Reading("ffcv"))
    assert shows(source.get(1, EIGHT).contiguous(), True)


def test_a_folder_half_made_another_way_is_refused(root: Path, tmp_path: Path) -> None:
    (root / "val" / "b" / "8.png").write_bytes(b"")
    with pytest.raises(DataError, match="cannot be read"):
        prepared(root, tmp_path / "dest")
    with pytest.raises(DataError, match="upright was True, now False"):
        prepared(root, tmp_path / "dest", orientation=False)
