"""Every mode of Pillow gives the picture of the same image with 8 bits, or is refused by name."""

import struct
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import BmpImagePlugin, Image, PngImagePlugin, PpmImagePlugin, TiffImagePlugin

from dist_condense.data import DataError, open_dataset
from dist_condense.data.reading.decode import decode_bytes, read_image
from dist_condense.data.reading.modes import MODES, UnknownRange, to_bytes
from tests.data.shards.shard_cases import CLASSES, prepared, write_folder

SIDE = 16
GREY = (np.arange(SIDE * SIDE, dtype=np.uint8) * 37).reshape(SIDE, SIDE)
"""Every byte once."""
COLOUR = np.stack([GREY, GREY.T, GREY[::-1]], -1)
OPAQUE = np.full_like(GREY, 255)
ALPHA = GREY[:, ::-1]


def image(pixels: np.ndarray, mode: str) -> Image.Image:
    return Image.frombytes(mode, (SIDE, SIDE), pixels.tobytes())


def with_palette(mode: str) -> Image.Image:
    made = image(GREY if mode == "P" else np.stack([GREY, ALPHA], -1), mode)
    made.putpalette(np.stack([np.arange(256), np.arange(256)[::-1], np.full(256, 7)], -1).astype(np.uint8).tobytes())
    return made


PALETTED = np.stack([GREY, 255 - GREY, np.full_like(GREY, 7)], -1)
DEEP = GREY.astype(np.uint16) * 257
COLOURED = Image.fromarray(COLOUR)

# mode: an image of it, its 8-bit truth, and by how much a colour space of its own may be off
CASES: dict[str, tuple[Image.Image, np.ndarray, int]] = {
    "1": (Image.fromarray(GREY > 99), np.where(GREY > 99, 255, 0).astype(np.uint8), 0),
    "L": (image(GREY, "L"), GREY, 0),
    "LA": (image(np.stack([GREY, ALPHA], -1), "LA"), GREY, 0),
    "La": (image(np.stack([GREY, OPAQUE], -1), "La"), GREY, 0),
    "P": (with_palette("P"), PALETTED, 0),
    "PA": (with_palette("PA"), PALETTED, 0),
    "RGB": (COLOURED, COLOUR, 0),
    "RGBA": (image(np.dstack([COLOUR, ALPHA]), "RGBA"), COLOUR, 0),
    "RGBa": (image(np.dstack([COLOUR, OPAQUE]), "RGBa"), COLOUR, 0),
    "RGBX": (image(np.dstack([COLOUR, ALPHA]), "RGBX"), COLOUR, 0),
    "CMYK": (image(np.dstack([255 - COLOUR, np.zeros_like(GREY)]), "CMYK"), COLOUR, 0),
    "YCbCr": (COLOURED.convert("YCbCr"), COLOUR, 4),
    "HSV": (COLOURED.convert("HSV"), COLOUR, 8),
    "LAB": (COLOURED.convert("LAB"), COLOUR, 32),
    "I": (image(DEEP.astype(np.int32), "I"), GREY, 0),
    "I;16": (image(DEEP.astype("<u2"), "I;16"), GREY, 0),
    "I;16L": (image(DEEP.astype("<u2"), "I;16L"), GREY, 0),
    "I;16B": (image(DEEP.astype(">u2"), "I;16B"), GREY, 0),
    "I;16N": (image(DEEP.astype("=u2"), "I;16N"), GREY, 0),
}
REFUSED = {"F"}


def truth(pixels: np.ndarray, channels: int) -> np.ndarray:
    """Return the expected picture by Pillow's own conversion between 8-bit grey and colour."""
    return np.asarray(Image.fromarray(pixels).convert("L" if channels == 1 else "RGB")).reshape(SIDE, SIDE, channels)


def is_near(result: np.ndarray, pixels: np.ndarray, channels: int, off: int) -> bool:
    expected = truth(pixels, channels).astype(int)
    return bool(np.abs(result.reshape(expected.shape).astype(int) - expected).max() <= off)


def written(made: Image.Image, kind: str, **options: object) -> bytes:
    file = BytesIO()
    made.save(file, kind, **options)
    return file.getvalue()


def tiff(pixels: np.ndarray, bits: int, photometric: int = 1, kind: int = 1, order: str = "<") -> bytes:
    """Return an uncompressed grey TIFF; ``kind`` is its tag SampleFormat: 1 unsigned, 2 signed, 3 float."""
    tags = [(256, SIDE), (257, SIDE), (258, bits), (259, 1), (262, photometric), (273, 8 + 2 + 10 * 12 + 4)]
    tags += [(277, 1), (278, SIDE), (279, pixels.nbytes), (339, kind)]
    entries = b"".join(struct.pack(f"{order}HHI", tag, 4, 1) + struct.pack(f"{order}I", value) for tag, value in tags)
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, 8)
    return head + struct.pack(f"{order}H", len(tags)) + entries + struct.pack(f"{order}I", 0) + pixels.tobytes()


def twelve_bits(values: np.ndarray) -> np.ndarray:
    """Pack two values into three bytes."""
    first, second = values.reshape(-1, 2).astype(int).T
    return np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], -1).astype(np.uint8)


def test_every_mode_of_pillow_is_decided() -> None:
    assert set(Image.MODES) == set(MODES) | REFUSED == set(CASES) | REFUSED


def test_every_mode_that_a_format_gives_is_decided() -> None:
    given = {mode for mode, _ in TiffImagePlugin.OPEN_INFO.values()} | {"L", "P", "RGB", "RGBA", "RGBX"}  # GIF, WebP
    given |= {mode for mode, _ in PngImagePlugin._MODES.values()} | {
        mode for mode, _ in BmpImagePlugin.BIT2MODE.values()
    }
    given |= {"I", *(mode for mode in PpmImagePlugin.MODES.values() if mode), "CMYK"}  # JPEG
    assert given <= set(MODES) | REFUSED


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", CASES)
def test_a_mode_gives_its_8_bit_truth(mode: str, channels: int) -> None:
    made, pixels, off = CASES[mode]
    assert made.mode == mode
    if mode == "I":
        made.format = "PPM"
    result = to_bytes(made, "L" if channels == 1 else "RGB")
    assert result.mode == ("L" if channels == 1 else "RGB")
    assert is_near(np.asarray(result), pixels, channels, off)


SAVED = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "PPM": ("1", "L", "RGB", "I", "I;16"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "GIF": ("1", "L", "P"),
    "TIFF": ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "I;16"),
    "WEBP": ("RGB", "RGBA", "L"),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("kind", "mode"), [(kind, mode) for kind, modes in SAVED.items() for mode in modes])
def test_a_file_gives_its_8_bit_truth(kind: str, mode: str, channels: int) -> None:
    made, pixels, off = CASES[mode]
    data = written(made, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
    result = decode_bytes(data, channels, SIDE).permute(1, 2, 0).numpy()
    assert is_near(result, pixels, channels, off)


DEEP_TIFFS = {
    "little-endian": tiff(DEEP.astype("<u2"), 16),
    "big-endian": tiff(DEEP.astype(">u2"), 16, order=">"),
    "white is zero": tiff((65535 - DEEP).astype("<u2"), 16, photometric=0),
    "12 bits": tiff(twelve_bits((GREY * 4095.0 / 255).round()), 12),
}


@pytest.mark.parametrize("data", DEEP_TIFFS.values(), ids=DEEP_TIFFS)
def test_tiffs_are_scaled_by_their_own_range(data: bytes) -> None:
    assert np.array_equal(decode_bytes(data, 1, SIDE)[0].numpy(), GREY)


def test_values_between_two_bytes_are_rounded() -> None:
    made = image(np.arange(SIDE * SIDE, dtype="<u2") * 256 + 130, "I;16")
    exact = np.asarray(made) / 257
    assert np.abs(np.asarray(to_bytes(made, "L")) - exact).max() <= 0.5


def test_a_palette_with_transparency_keeps_its_colours() -> None:
    data = written(with_palette("P"), "PNG", transparency=bytes(range(256)))
    assert is_near(decode_bytes(data, 3, SIDE).permute(1, 2, 0).numpy(), PALETTED, 3, 0)


UNKNOWN = {
    "float": tiff(GREY.astype("<f4"), 32, kind=3),
    "float PFM": written(Image.fromarray(GREY.astype(np.float32)), "PPM"),
    "32 bits": tiff(DEEP.astype("<u4"), 32),
    "32 bits signed": tiff(DEEP.astype("<i4"), 32, kind=2),
    "16 bits signed": tiff(GREY.astype("<i2"), 16, kind=2),
    "8 bits signed": tiff(GREY.view(np.int8), 8, kind=2),
}


@pytest.mark.parametrize("data", UNKNOWN.values(), ids=UNKNOWN)
def test_values_of_an_unknown_range_are_refused(data: bytes) -> None:
    with pytest.raises(UnknownRange, match="save it with 8 or 16 unsigned bits"):
        read_image(BytesIO(data), 1)


@pytest.fixture
def deep(tmp_path: Path) -> Path:
    """Return a folder whose training images exist with 16 bits and, as the same pictures, with 8."""
    root = write_folder(tmp_path / "deep")
    for name in CLASSES:
        for file in (root / "train" / name).iterdir():
            file.unlink()
        (root / "train" / name / "a.png").write_bytes(written(CASES["I;16"][0], "PNG"))
        (root / "train" / name / "b.tif").write_bytes(DEEP_TIFFS["big-endian"])
        (root / "train" / name / "c.pgm").write_bytes(written(CASES["I"][0], "PPM"))
        (root / "train" / name / "d.png").write_bytes(written(image(GREY, "L"), "PNG"))
    return root


@pytest.mark.parametrize("name", ["image_folder", "mnist"])
@pytest.mark.parametrize("size", [SIDE, 8])
def test_folders_and_what_is_prepared_of_them_show_the_picture(
    deep: Path, tmp_path: Path, name: str, size: int
) -> None:
    folder = open_dataset(name, deep, size=size).train([1]).images[1]
    prepared(f"{name}:{deep}", tmp_path / "sized", size=size, png=True)
    prepared(f"{name}:{deep}", tmp_path / "kept")
    sized = open_dataset(name, tmp_path / "sized").train([1]).images[1]
    kept = open_dataset(name, tmp_path / "kept", size=size).train([1]).images[1]
    assert len(folder[0].unique()) > 1
    for images in (folder, sized, kept):
        assert all(torch.equal(one, folder[3]) for one in images)


def test_a_mode_that_is_refused_is_named_by_prepare(deep: Path, tmp_path: Path) -> None:
    (deep / "train" / CLASSES[0] / "a.tif").write_bytes(UNKNOWN["float"])
    with pytest.raises(DataError, match=r"a\.tif: the image cannot be read \(Pillow's mode F, whose black and white"):
        prepared(deep, tmp_path / "dest", size=8)
    with pytest.raises(DataError, match=r"a\.tif: the image cannot be read \(Pillow's mode F"):
        open_dataset("image_folder", deep, size=8).train([0])
