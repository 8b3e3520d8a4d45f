"""Decoding of image files to uint8 tensors, with torchvision's Resize (of the shorter side) and CenterCrop."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import IO, BinaryIO, NamedTuple, cast

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError

from dist_condense.data.reading.modes import check_mode, tile_of, to_bytes

MODE_OF = {1: "L", 3: "RGB"}
"""Pillow mode by number of channels."""
SUFFIX_OF = {"JPEG": "jpg", "PNG": "png", "PPM": "ppm", "BMP": "bmp", "TIFF": "tif", "WEBP": "webp", "GIF": "gif"}
"""Suffix of each supported format; a file's own suffix is ignored. Other formats are refused, because Pillow runs
programs to decode some of them (EPS).
"""
UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
"""Exceptions that Pillow raises for a file that is not a complete image."""
ROTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Rotation or flip that makes the image upright, by EXIF orientation (EXIF 2.3, section 4.6.4); 1 is upright, 5 to 8
swap width and height.
"""
READS = 200_000
"""Maximum number of times that Pillow may read from a file, which it reads in large blocks, except for parts of the
header that are read byte by byte or chunk by chunk.
"""
SCANS = 100
"""Maximum number of scans of a JPEG, each of which may take as long as decoding a whole image; encoders write about 10.
"""
MARKERS = 10_000
"""Maximum number of markers of a JPEG, without restart markers; encoders write at most about 1,000."""
SOS, EOI = b"\xff\xda", b"\xff\xd9"
"""Markers of a scan and of the end of a JPEG."""
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
APP1 = b"\xff\xe1"
"""Marker of a JPEG segment with EXIF or XMP; these bytes never occur in compressed data."""


@dataclass(frozen=True)
class Form:
    """Shape and orientation of decoded images, uint8 [channels, size, size]."""

    channels: int
    size: int
    upright: bool = False
    """Whether images are rotated by their EXIF orientation before they are resized."""

    @property
    def key(self) -> tuple[int | str, ...]:
        """Values that become part of digests.

        `upright` is only included if it is true, so that digests of versions without this field remain valid.
        """
        return self.channels, self.size, *(["upright"] if self.upright else [])


class Decoded(NamedTuple):
    """A decoded image in its original size, with facts about its file."""

    image: Image.Image
    """Image in mode L (grey) or RGB."""
    suffix: str
    """Suffix of the file's format, such as `jpg`."""
    rotated: bool
    """Whether the pixels were rotated or flipped according to the EXIF orientation."""


def decode_bytes(data: bytes, channels: int, size: int, upright: bool = False) -> torch.Tensor:
    """Decode an image, apply Resize(size) and CenterCrop(size), and return a tensor uint8 [C, size, size].

    Modes are converted to grey or RGB by :func:`dist_condense.data.reading.modes.to_bytes`. Raises one of UNREADABLE.

    :param upright: whether the image is rotated by its EXIF orientation before it is resized.
    """
    pixels = np.empty((size, size, channels), dtype=np.uint8)
    decode_into(pixels, data, upright)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def decode_into(pixels: np.ndarray, data: bytes, upright: bool = False) -> None:
    """Decode an image like :func:`decode_bytes` into an array, uint8 [size, size, C].

    A plain JPEG of exactly this size is decoded in place by libjpeg-turbo, in 40 % of Pillow's time. Pillow uses the
    same library, so the pixels are identical. All other files, including damaged and rotated ones, are decoded by
    Pillow.
    """
    if not _decoded_in_place(pixels, data, upright):
        size, _, channels = pixels.shape
        pixels[:] = crop(read_image(BytesIO(data), channels, upright, size).image, size).permute(1, 2, 0).numpy()


def _decoded_in_place(pixels: np.ndarray, data: bytes, upright: bool) -> bool:
    """Decode a plain JPEG with three channels into `pixels`; return False for any other file.

    Grey and CMYK JPEGs are excluded, because Pillow decodes them differently.
    """
    import simplejpeg  # only where a file is decoded, so that arrays are read where it is not installed

    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        if (height, width, 3) != pixels.shape or space != "YCbCr" or (upright and _needs_rotation(data)):
            return False
        if _scans(data) > SCANS:
            return False
        _refuse_bomb(width, height)
        simplejpeg.decode_jpeg(data, buffer=pixels)
    except ValueError:
        return False
    return True


def _scans(data: bytes) -> int:
    """Count the scans of a JPEG, only as far as is needed to see whether there are more than SCANS; 0 for others.

    Scans behind MARKERS markers are not counted, and more than SCANS are returned.
    """
    if not data.startswith(b"\xff\xd8") or data.count(SOS) <= SCANS:
        return 0
    position = scans = 0
    for _ in range(MARKERS):
        marker = _MARKER.search(data, position + 2)
        if scans > SCANS or marker is None or marker[0] == EOI:
            return scans
        scans += marker[0] == SOS
        position = marker.start() + int.from_bytes(data[marker.end() : marker.end() + 2])  # to the end of its header
    return SCANS + 1


def _needs_rotation(data: bytes) -> bool:
    """Return whether a JPEG must be rotated according to its EXIF orientation; also True for an unreadable file.

    A file that contains neither EXIF nor XMP is not parsed.
    """
    if APP1 not in data:
        return False
    try:
        with opened(BytesIO(data)) as image:
            return _orientation(image) in ROTATIONS
    except UNREADABLE:
        return True  # so that Pillow reports the problem


class _Bounded:
    """Stream for Pillow that raises ValueError after READS reads."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._reads = stream, 0
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int = -1) -> bytes:
        self._reads += 1
        if self._reads > READS:
            raise ValueError(f"more than {READS} parts, or a header without end")
        return self._stream.read(size)


@contextmanager
def opened(stream: BinaryIO) -> Iterator[Image.Image]:
    """Open an image and read its header; pixels are read on first use.

    Raises one of UNREADABLE. These include errors for images with more pixels than Pillow's limit
    (Image.MAX_IMAGE_PIXELS) and for modes that are refused (UnknownRange).
    """
    with Image.open(cast(IO[bytes], _Bounded(stream)), formats=tuple(SUFFIX_OF)) as image:
        _refuse_bomb(image.width, image.height)
        _refuse_bomb(*tile_of(image))
        check_mode(image)
        yield image


def read_image(stream: BytesIO, channels: int, upright: bool = False, size: int | None = None) -> Decoded:
    """Decode a whole image, in its original size, to grey (1 channel) or RGB (3).

    Raises the errors of :func:`opened`, and DecompressionBombError for an image so elongated that it would exceed
    Pillow's limit of pixels after its shorter side is resized to ``size``.

    :param upright: whether to rotate the image by its EXIF orientation. Pillow itself always rotates TIFFs.
    """
    if _scans(stream.getvalue()) > SCANS:
        raise ValueError(f"a JPEG of more than {SCANS} scans")
    with opened(stream) as image:
        if size is not None:
            shorter, longer = sorted(image.size)
            _refuse_bomb(size, size * longer // shorter)
        suffix = SUFFIX_OF.get(image.format or "", "jpg")  # Pillow calls a JPEG with several pictures MPO
        pixels = to_bytes(image, MODE_OF[channels])
        rotation = ROTATIONS.get(_orientation(image)) if upright else None
        return Decoded(pixels if rotation is None else pixels.transpose(rotation), suffix, rotation is not None)


def _orientation(image: Image.Image) -> int:
    """Return the orientation stored in EXIF or XMP; 1 if there is none.

    The pixels must be read before, because a PNG may store its orientation after them.
    """
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Pillow raises any exception for damaged EXIF; the image itself may be intact
        return 1
    return orientation if isinstance(orientation, int) else 1


def why_unreadable(error: Exception) -> str:
    """Describe a decoding error in a few words, for a message that names the file."""
    if isinstance(error, UnidentifiedImageError):  # its text contains a memory address
        return f"no image in a known format ({', '.join(SUFFIX_OF)})"
    kind, text = type(error).__name__, getattr(error, "strerror", None) or str(error)
    return (text if text and isinstance(error, UNREADABLE) else f"{kind}: {text}")[:300]


def crop(image: Image.Image, size: int) -> torch.Tensor:
    """Resize the shorter side to ``size`` and cut out the centre of a Pillow image; return uint8 [C, size, size].

    The pixels are those of torchvision's Resize(size) and CenterCrop(size), which call Pillow. They are not used,
    because torchvision takes a second to import.
    """
    shorter = min(image.size)
    width, height = (size * side // shorter for side in image.size)
    if (width, height) != image.size:  # otherwise Pillow would copy the image, as it would below
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (round((side - size) / 2) for side in (width, height))
    if width != height:
        image = image.crop((left, top, left + size, top + size))
    return torch.from_numpy(np.array(image).reshape(size, size, -1)).permute(2, 0, 1)


def _refuse_bomb(width: int, height: int) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise Image.DecompressionBombError(f"{width} x {height} are more than {limit} pixels")
