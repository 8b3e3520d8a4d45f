"""An encoded image to bytes: shorter side resized, centre cropped, as torchvision does it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import simplejpeg
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import center_crop
from torchvision.transforms.functional import resize as resize_shorter_side

from dist_condense.data.reading.modes import check_mode, to_bytes

MODE_OF = {1: "L", 3: "RGB"}
"""Pillow's mode for a number of channels."""
SUFFIX_OF = {"JPEG": "jpg", "PNG": "png", "PPM": "ppm", "BMP": "bmp", "TIFF": "tif", "WEBP": "webp", "GIF": "gif"}
"""The formats that are read, whatever a file's name says, and their suffix; others of Pillow's start programs (EPS)."""
UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
"""What reading a file that is no whole image raises."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""From an EXIF orientation (EXIF 2.3, section 4.6.4) to the upright image; 1 is upright, 5 to 8 swap the sides."""
APP1 = b"\xff\xe1"
"""The marker of a JPEG's segment that holds EXIF or XMP. In compressed data, 0xFF is never followed by 0xE1."""


@dataclass(frozen=True)
class Form:
    """What encoded images become: uint8 [channels, size, size]."""

    channels: int
    size: int
    upright: bool = False
    """Whether they are turned by their EXIF orientation before they are resized."""

    @property
    def key(self) -> tuple[int | str, ...]:
        """For digests; images that are not turned keep those of before there was `upright`."""
        return self.channels, self.size, *(["upright"] if self.upright else [])


class Decoded(NamedTuple):
    """An image read whole, and what is known of its file."""

    image: Image.Image
    """Grey or RGB."""
    suffix: str
    turned: bool
    """Whether its pixels were turned by its EXIF orientation."""


def decode_bytes(data: bytes, channels: int, size: int, upright: bool = False) -> torch.Tensor:
    """An encoded image as Resize(size) and CenterCrop(size) give it: uint8 [C, size, size].

    Modes become grey or RGB as :func:`dist_condense.data.reading.modes.to_bytes` says. Raises one of UNREADABLE.

    :param upright: see :class:`Form`.
    """
    pixels = np.empty((size, size, channels), dtype=np.uint8)
    decode_into(pixels, data, upright)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def decode_into(pixels: np.ndarray, data: bytes, upright: bool = False) -> None:
    """The same into uint8 [size, size, C].

    A plain JPEG of just this size goes straight to its place by libjpeg-turbo. That is what Pillow asks, too, so the
    bytes are the same, in 0.4 of the time. All else, and all that is damaged or has to be turned, is Pillow's.
    """
    if not _straight(pixels, data, upright):
        size, _, channels = pixels.shape
        pixels[:] = crop(read_image(BytesIO(data), channels, upright).image, size).permute(1, 2, 0).numpy()


def _straight(pixels: np.ndarray, data: bytes, upright: bool) -> bool:
    """Whether it was such a JPEG; three channels, as grey and CMYK have a way of their own in Pillow."""
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        if (height, width, 3) != pixels.shape or space != "YCbCr" or (upright and _is_turned(data)):
            return False
        _refuse_bomb(width, height)
        simplejpeg.decode_jpeg(data, buffer=pixels)
    except ValueError:
        return False
    return True


def _is_turned(data: bytes) -> bool:
    """Whether a JPEG has to be turned; its segments are only read where there is one for EXIF or XMP."""
    if APP1 not in data:
        return False
    try:
        with opened(BytesIO(data)) as image:
            return _orientation(image) in TURNS
    except UNREADABLE:
        return True  # so that Pillow says what is wrong


@contextmanager
def opened(file: str | Path | BytesIO) -> Iterator[Image.Image]:
    """The image by its header; its pixels are read when they are asked for.

    Raises one of UNREADABLE, also for more pixels than Pillow's limit (Image.MAX_IMAGE_PIXELS) and for modes that are
    refused (UnknownRange).
    """
    with Image.open(file, formats=tuple(SUFFIX_OF)) as image:
        _refuse_bomb(image.width, image.height)
        check_mode(image)
        yield image


def read_image(file: Path | BytesIO, channels: int, upright: bool = False) -> Decoded:
    """The whole image, grey or RGB. Raises as :func:`opened` does.

    :param upright: turned by its EXIF orientation. Pillow itself turns TIFFs, always.
    """
    with opened(file) as image:
        suffix = SUFFIX_OF.get(image.format or "", "jpg")  # Pillow calls a JPEG with more pictures behind it MPO
        pixels = to_bytes(image, MODE_OF[channels])
        turn = TURNS.get(_orientation(image)) if upright else None
        return Decoded(pixels if turn is None else pixels.transpose(turn), suffix, turn is not None)


def _orientation(image: Image.Image) -> int:
    """In EXIF or XMP; of PNGs, which may have it behind the pixels, once those are read."""
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Pillow raises anything on EXIF that is damaged; the image itself may be whole
        return 1
    return found if isinstance(found, int) else 1


def why_unreadable(error: Exception) -> str:
    """What an error of reading says, for a message that names the file."""
    if isinstance(error, UnidentifiedImageError):  # its text holds a memory address
        return f"no image in a known format ({', '.join(SUFFIX_OF)})"
    kind, text = type(error).__name__, getattr(error, "strerror", None) or str(error)
    return (text if text and isinstance(error, UNREADABLE) else f"{kind}: {text}")[:300]


def crop(image: Image.Image, size: int) -> torch.Tensor:
    """torchvision's Resize(size) and CenterCrop(size), on Pillow: uint8 [C, size, size].

    Raises DecompressionBombError for a strip that would have more pixels than Pillow's limit once its shorter side is
    resized.
    """
    shorter, longer = sorted(image.size)
    _refuse_bomb(size, size * longer // shorter)
    resized = resize_shorter_side(image, [size], InterpolationMode.BILINEAR, antialias=True)
    pixels = np.array(center_crop(resized, [size, size])).reshape(size, size, -1)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _refuse_bomb(width: int, height: int) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise Image.DecompressionBombError(f"{width} x {height} are more than {limit} pixels")
