"""Door: class folders of image files, damaged at random in their bytes and as a tree."""

import os
import shutil
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import strategies as st

from dist_condense.data import DataError, Reading, open_dataset
from dist_condense.data.reading.decode import UNREADABLE, decode_bytes, why_unreadable
from dist_condense.data.reading.headers import check_headers
from dist_condense.data.reading.tiers import TIERS
from dist_condense.system.terminal import printable
from tests.data.shards.shard_cases import photograph
from tests.doors.fuzzing import door, fuzz, mutated_bytes

pytestmark = pytest.mark.filterwarnings("ignore::Warning:PIL")
"""As `terminal.silence_pillow` does outside pytest."""
SIZE = 8


def encoded(kind: str, mode: str = "RGB", side: int = 12, **options: object) -> bytes:
    file = BytesIO()
    photograph(3, mode, side, side).save(file, kind, **options)
    return file.getvalue()


IMAGES = {
    "plain.jpg": encoded("JPEG", side=SIZE),
    "exif.jpg": encoded("JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"),
    "progressive.jpg": encoded("JPEG", progressive=True),
    "cmyk.jpg": encoded("JPEG", "CMYK"),
    "a.png": encoded("PNG", "RGBA"),
    "palette.png": encoded("PNG", "P"),
    "deep.png": encoded("PNG", "I;16"),
    "a.gif": encoded("GIF", "L"),
    "a.bmp": encoded("BMP"),
    "a.webp": encoded("WEBP"),
    "a.ppm": encoded("PPM"),
    "raw.tif": encoded("TIFF"),
    "deflate.tif": encoded("TIFF", compression="tiff_deflate"),
}


@fuzz(st.sampled_from(sorted(IMAGES)).flatmap(lambda name: mutated_bytes(IMAGES[name])), examples=300)
def test_images(data: bytes) -> None:
    with door(DataError):
        try:
            image = decode_bytes(data, 3, SIZE, upright=True)
            assert (image.dtype, image.shape) == (torch.uint8, (3, SIZE, SIZE))
        except UNREADABLE as error:
            raise DataError([why_unreadable(error)]) from error


FILES = [f"{split}/{name}/{file}" for split in ("train", "val") for name in "ab" for file in ("1.jpg", "2.png")]
PLACES = ["train", "val", "train/a", "train/b", "val/a", "val/b", "train/c", "train/a/c", *FILES]
NAMES = ["a", "B", ".hidden", "__MACOSX", "Thumbs.db", "x\ny.png", "\u202ex.jpg", "\x1b[31m", os.fsdecode(b"\xe9.jpg")]


def change_tree(root: Path, draw: st.DataObject) -> None:
    """Replace, move, remove or add something at a random place of the tree."""
    place = root / draw.draw(st.sampled_from(PLACES))
    what = draw.draw(
        st.sampled_from(["remove", "pipe", "folder", "link", "device", "sparse", "bytes", "name", "twice"])
    )
    other = root / draw.draw(st.sampled_from([*PLACES, ".", "..", "gone"]))
    is_small = place.is_file() and place.stat().st_size < 2**20
    old = place.read_bytes() if is_small else b""
    if what in ("name", "twice"):
        target = place.parent / draw.draw(st.sampled_from(NAMES))
        if os.path.lexists(place) and not os.path.lexists(target):
            if what == "name":
                place.rename(target)
            elif is_small:
                target.write_bytes(old)
        return
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    elif os.path.lexists(place):
        place.unlink()
    if what == "remove" or not place.parent.is_dir():
        return
    if what == "pipe":
        os.mkfifo(place)
    elif what == "folder":
        place.mkdir()
    elif what in ("link", "device"):
        place.symlink_to(other if what == "link" else "/dev/zero")
    else:
        place.write_bytes(draw.draw(mutated_bytes(old)) if what == "bytes" else old)
        if what == "sparse":
            os.truncate(place, 20 * 2**30)


def read_whole(root: Path, tier: str, classes: str | list[str] | None) -> None:
    """Check the headers as a run does before it starts, and read all images. Raises DataError."""
    opened = open_dataset("image_folder", root, size=SIZE, classes=classes)
    broken = check_headers([*opened.train_split.unread, *opened.test_split.unread])
    if broken is not None:
        raise DataError([broken])
    source, test = opened.train(None, Reading(tier)), opened.test()
    assert len(opened.classes) and min(opened.counts) and opened.train_split.digest()
    for label, count in enumerate(opened.counts):
        images = source.get(label, torch.arange(count))
        assert (images.dtype, images.shape) == (torch.uint8, (count, opened.channels, SIZE, SIZE))
    for images, labels in test.chunks(3):
        assert images.shape == (len(labels), opened.channels, SIZE, SIZE)
        assert 0 <= int(labels.min()) <= int(labels.max()) < len(opened.classes)


@fuzz(st.data(), examples=150)
def test_trees(draw: st.DataObject) -> None:
    with TemporaryDirectory() as folder:
        root = Path(folder)
        for file in FILES:
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).write_bytes(IMAGES["exif.jpg" if file.endswith(".jpg") else "palette.png"])
        for _ in range(draw.draw(st.integers(1, 3))):
            change_tree(root, draw)
        tier = draw.draw(st.sampled_from(sorted(TIERS)))
        classes = draw.draw(st.sampled_from([None, None, ["a"], ["b", "a"], ["c"], ["a", "a"], ["../train/a"], "a"]))
        with door(DataError):
            try:
                read_whole(root, tier, classes)
            except DataError as error:
                raise DataError([printable(problem) for problem in error.problems]) from error  # as commands print it
