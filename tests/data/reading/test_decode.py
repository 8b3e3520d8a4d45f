"""Decoding in place gives Pillow's bytes, and leaves all files but plain JPEGs to Pillow."""

from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image

from dist_condense.data.reading import decode
from dist_condense.data.reading.decode import UNREADABLE, crop, decode_bytes, read_image


def picture(width: int = 40, height: int = 40, mode: str = "RGB") -> Image.Image:
    noise = torch.randint(256, (12, 12, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return Image.fromarray(noise.numpy()).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def written(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def by_pillow(data: bytes, channels: int, size: int) -> torch.Tensor:
    return crop(read_image(BytesIO(data), channels)[0], size)


@pytest.fixture
def without_pillow(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(decode, "read_image", None)
    return monkeypatch


@pytest.mark.parametrize("folder", ["imagenette224", "miniimagenet84"])
def test_photographs_are_those_of_pillow(real_data: Path, folder: str, without_pillow: pytest.MonkeyPatch) -> None:
    files = sorted((real_data / folder / "train").rglob("*.*"))[:: 300 if folder == "imagenette224" else 100]
    images = [(data, Image.open(BytesIO(data))) for data in map(Path.read_bytes, files)]
    plain = [(data, image.width) for data, image in images if image.mode == "RGB" and image.width == image.height]
    assert len(plain) > 5
    for data, size in plain:
        assert torch.equal(decode_bytes(data, 3, size), by_pillow(data, 3, size))


@pytest.mark.parametrize("quality", [10, 75, 95])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_every_kind_of_plain_jpeg(without_pillow, subsampling: str, progressive: bool, quality: int) -> None:
    for size in (16, 37, 64):  # also such that no block ends at the edge
        data = written(picture(size, size), subsampling=subsampling, progressive=progressive, quality=quality)
        assert torch.equal(decode_bytes(data, 3, size), by_pillow(data, 3, size))


OTHERS = {
    "another size": written(picture(60, 50)),
    "grey": written(picture(mode="L")),
    "CMYK": written(picture(mode="CMYK")),
    "no YCbCr": written(picture(), keep_rgb=True),
    "PNG": written(picture(), "PNG"),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("data", OTHERS.values(), ids=OTHERS)
def test_what_is_not_plain_is_left_to_pillow(data: bytes, channels: int) -> None:
    assert torch.equal(decode_bytes(data, channels, 40), by_pillow(data, channels, 40))


def test_colour_becomes_grey_as_pillow_does_it() -> None:
    data = written(picture())
    assert torch.equal(decode_bytes(data, 1, 40), by_pillow(data, 1, 40))


@pytest.mark.parametrize("kept", [0, 1, 300, 700, -2])
def test_a_damaged_file_is_refused_in_the_words_of_pillow(kept: int) -> None:
    data = written(picture(), quality=95)[:kept]
    with pytest.raises(UNREADABLE) as expected:
        by_pillow(data, 3, 40)
    with pytest.raises(UNREADABLE) as caught:
        decode_bytes(data, 3, 40)
    assert type(caught.value) is type(expected.value)


def test_the_limit_of_pixels_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1599)
    with pytest.raises(Image.DecompressionBombError):
        decode_bytes(written(picture()), 3, 40)
