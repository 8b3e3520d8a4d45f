"""An encoded image to bytes: shorter side resized, centre cropped, as torchvision does it."""

from io import BytesIO
from pathlib import Path

import numpy as np
import simplejpeg
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import center_crop
from torchvision.transforms.functional import resize as resize_shorter_side

MODES = {1: "L", 3: "RGB"}
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


def decode_bytes(data: bytes, channels: int, size: int) -> torch.Tensor:
    """An encoded image as Resize(size) and CenterCrop(size) give it: uint8 [C, size, size].

    Grey and CMYK images become RGB for three channels, colour becomes grey for one. Raises one of UNREADABLE.
    """
    pixels = np.empty((size, size, channels), dtype=np.uint8)
    decode_into(pixels, data)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def decode_into(pixels: np.ndarray, data: bytes) -> None:
    """The same into uint8 [size, size, C].

    A plain JPEG of just this size goes straight to its place by libjpeg-turbo. That is what Pillow asks, too, so the
    bytes are the same, in 0.4 of the time. All else, and all that is damaged, is Pillow's.
    """
    if not _straight(pixels, data):
        size, _, channels = pixels.shape
        pixels[:] = crop(read_image(BytesIO(data), channels)[0], size).permute(1, 2, 0).numpy()


def _straight(pixels: np.ndarray, data: bytes) -> bool:
    """Whether it was such a JPEG; three channels, as grey and CMYK have a way of their own in Pillow."""
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        if (height, width, 3) != pixels.shape or space != "YCbCr":
            return False
        _refuse_bomb(width, height)
        simplejpeg.decode_jpeg(data, buffer=pixels)
    except ValueError:
        return False
    return True


def read_image(file: Path | BytesIO, channels: int) -> tuple[Image.Image, str]:
    """The whole image, grey or RGB, and the suffix of its format.

    Raises one of UNREADABLE, also for more pixels than Pillow's limit (Image.MAX_IMAGE_PIXELS).
    """
    with Image.open(file, formats=tuple(SUFFIX_OF)) as image:
        _refuse_bomb(image.width, image.height)
        suffix = SUFFIX_OF.get(image.format or "", "jpg")  # Pillow calls a JPEG with more pictures behind it MPO
        return image.convert(MODES[channels]), suffix


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
