"""Conversion of images from Pillow's modes to 8-bit grey or RGB; unsupported modes are refused."""

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

MAX_16 = 65535
SCALED_FORMATS = ("PNG", "PPM")
"""Formats whose mode I has 16-bit values: PNG in older versions of Pillow, and PPM, which Pillow scales to 16 bits."""
PHOTOMETRIC, BITS, SAMPLE_FORMAT = 262, 258, 339
TILE_WIDTH, TILE_HEIGHT = 322, 323
"""TIFF tags (TIFF 6.0, sections 8, 15 and 19)."""
BLOCK = 2**20
"""Number of pixels scaled at once."""
WHITE_IS_ZERO, UNSIGNED = 0, 1


class UnknownRange(ValueError):
    """Error for an image whose file does not define the range of its values, so that black and white are unknown."""


Convert = Callable[[Image.Image], Image.Image]
"""Conversion to a mode that Pillow converts correctly to L and RGB."""


def check_mode(image: Image.Image) -> None:
    """Check an image's mode by its header alone.

    Raises UnknownRange for mode F, 32-bit or signed values, and modes that are not listed in MODES.
    """
    unsigned = set(_tags(image).get(SAMPLE_FORMAT, ())) <= {UNSIGNED}
    deep = image.mode == "I" and image.format not in SCALED_FORMATS
    if image.mode not in MODES or deep or not unsigned:
        raise UnknownRange(
            f"Pillow's mode {image.mode}, whose black and white are not known; save it with 8 or 16 unsigned bits"
        )


def tile_of(image: Image.Image) -> tuple[int, int]:
    """Return the width and height of the tiles of a TIFF, which libtiff decodes as a whole; (0, 0) without tiles."""
    width, height = (_tags(image).get(tag, 0) for tag in (TILE_WIDTH, TILE_HEIGHT))
    return (width, height) if isinstance(width, int) and isinstance(height, int) else (0, 0)


def is_grey(image: Image.Image) -> bool:
    """Return whether the header declares a grey image: a mode without colour, or a palette of grey tones only."""
    if image.mode != "P" or image.palette is None:
        return image.mode in GREY
    colours, step = bytes(image.palette.palette), len(image.palette.rawmode or image.palette.mode)
    return colours[0::step] == colours[1::step] == colours[2::step]


def to_bytes(image: Image.Image, mode: str) -> Image.Image:
    """Convert an image to mode L or RGB.

    The conversion is Pillow's ``convert``, as in torchvision's loader: alpha is dropped and the colour below it is
    kept, colours become grey by ITU-R 601-2, and only the upper byte of 16-bit colours is kept. There are two
    deviations:

    - Grey images of more than 8 bits are scaled from 0 .. 2^bits - 1 to 0 .. 255 and rounded; Pillow would clip them at
      255.
    - Modes that Pillow converts to only one of L and RGB are first converted to an intermediate mode.

    Raises UnknownRange, and errors of reading the pixels.
    """
    check_mode(image)
    image.load()
    image.info.pop("transparency", None)  # for a palette, Pillow would search its transparent colour and warn
    return MODES[image.mode](image).convert(mode)


def _unchanged(image: Image.Image) -> Image.Image:
    return image


def _through(mode: str) -> Convert:
    return lambda image: image.convert(mode)


def _scaled(image: Image.Image) -> Image.Image:
    """Scale a grey image of up to 16 bits to mode L.

    A TIFF in which 0 means white is inverted here, because Pillow does not invert it.
    """
    tags = _tags(image)
    white = 2 ** tags[BITS][0] - 1 if BITS in tags else MAX_16
    values = np.asarray(image)
    scaled = np.empty(values.shape, dtype=np.uint8)
    rows = max(1, BLOCK // values.shape[1])
    for first in range(0, len(values), rows):  # in blocks, because of the memory of the intermediate integers
        block = values[first : first + rows].astype(np.uint32)
        if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
            block = white - block
        scaled[first : first + rows] = (block * 255 + white // 2) // white
    return Image.fromarray(scaled)


def _tags(image: Image.Image) -> Any:
    """Return the tags of a TIFF image; empty for other formats."""
    return getattr(image, "tag_v2", {})


MODES: dict[str, Convert] = {
    **dict.fromkeys(("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"), _unchanged),
    "La": _through("LA"),
    "RGBa": _through("RGBA"),
    "HSV": _through("RGB"),
    "LAB": _through("RGB"),
    **dict.fromkeys(("I", "I;16", "I;16L", "I;16B", "I;16N"), _scaled),
}
"""Conversion of each supported mode; all other modes are refused."""
GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N")
"""Modes without colour."""
