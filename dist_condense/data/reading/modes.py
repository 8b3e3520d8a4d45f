"""Pillow's modes: each is converted to 8-bit grey or RGB on purpose, or refused."""

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

MAX_16 = 65535
SCALED_FORMATS = ("PNG", "PPM")
"""Formats whose mode I holds values of 16 bits: PNG in older versions of Pillow; PPM, which Pillow scales to them."""
PHOTOMETRIC, BITS, SAMPLE_FORMAT = 262, 258, 339
"""TIFF tags (TIFF 6.0, sections 8 and 19)."""
WHITE_IS_ZERO, UNSIGNED = 0, 1


class UnknownRange(ValueError):
    """Values of an image that no file says the range of, so that neither black nor white is known."""


Convert = Callable[[Image.Image], Image.Image]
"""To a mode from which Pillow's own conversion to L and RGB is right."""


def check_mode(image: Image.Image) -> None:
    """By the header alone; raises UnknownRange: mode F, 32-bit or signed values, and modes that Pillow may add."""
    unsigned = set(_tags(image).get(SAMPLE_FORMAT, ())) <= {UNSIGNED}
    deep = image.mode == "I" and image.format not in SCALED_FORMATS
    if image.mode not in MODES or deep or not unsigned:
        raise UnknownRange(
            f"Pillow's mode {image.mode}, whose black and white are not known; save it with 8 or 16 unsigned bits"
        )


def is_grey(image: Image.Image) -> bool:
    """By the header alone, whatever colours the pixels have; of a palette, by its colours."""
    if image.mode != "P" or image.palette is None:
        return image.mode in GREY
    colours, step = bytes(image.palette.palette), len(image.palette.rawmode or image.palette.mode)
    return colours[0::step] == colours[1::step] == colours[2::step]


def to_bytes(image: Image.Image, mode: str) -> Image.Image:
    """The image in mode L or RGB.

    As torchvision's loader converts it, which is Pillow's ``convert``: alpha is dropped and the colour below it kept,
    colour becomes grey by ITU-R 601-2, of 16-bit colour Pillow keeps the upper byte. Different are grey images of more
    than 8 bits, which Pillow clips at 255: here 0 .. 2^bits - 1 becomes 0 .. 255, rounded; and modes that Pillow
    converts to one of the two only. Raises UnknownRange; what reading the file raises.
    """
    check_mode(image)
    image.load()
    image.info.pop("transparency", None)  # of a palette: Pillow would look for a colour that means it, and warn
    return MODES[image.mode](image).convert(mode)


def _unchanged(image: Image.Image) -> Image.Image:
    return image


def _through(mode: str) -> Convert:
    return lambda image: image.convert(mode)


def _scaled(image: Image.Image) -> Image.Image:
    """Grey of up to 16 bits to mode L. Pillow leaves such a TIFF whose white is 0 as it is stored."""
    tags = _tags(image)
    white = 2 ** tags[BITS][0] - 1 if BITS in tags else MAX_16
    values = np.asarray(image).astype(np.uint32)
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        values = white - values
    return Image.fromarray(((values * 255 + white // 2) // white).astype(np.uint8))


def _tags(image: Image.Image) -> Any:
    """Of a TIFF; empty for other formats."""
    return getattr(image, "tag_v2", {})


MODES: dict[str, Convert] = {
    **dict.fromkeys(("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"), _unchanged),
    "La": _through("LA"),
    "RGBa": _through("RGBA"),
    "HSV": _through("RGB"),
    "LAB": _through("RGB"),
    **dict.fromkeys(("I", "I;16", "I;16L", "I;16B", "I;16N"), _scaled),
}
"""Those that are converted; all others are refused."""
GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N")
"""Those without colour."""
