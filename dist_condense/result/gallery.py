"""The stored images of a set for a page: a small PNG of each class, beside which the page writes the class's name."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from dist_condense.result.preview import GAP, first_images, picture
from dist_condense.result.synthetic_set import SyntheticDataset

BYTES = 6_000_000
"""Largest number of bytes of all pictures before compression; a page has 4/3 of it, because it has them in base64."""
IMAGES, SIDE, SMALL_SIDE = 10, 64, 32
"""Largest number of images of a class; side of an image in pixels, and for more than :data:`MANY` classes."""
MANY = 100
GROUP = 50
"""Number of classes that a page shows or hides together."""


@dataclass(frozen=True)
class Strip:
    """Images of a class side by side.

    :param name: name of the class.
    :param png: the picture in base64.
    """

    name: str
    png: str


@dataclass(frozen=True)
class Gallery:
    """Images of the classes, in label order.

    :param groups: strips of at most :data:`GROUP` classes each.
    :param width: width of a strip in pixels.
    :param omitted: which classes and images are left out; empty if all are shown.
    """

    groups: Sequence[Sequence[Strip]]
    width: int
    omitted: str


def gallery(dataset: SyntheticDataset) -> Gallery:
    """Draw the first images of each class of a set, so many that the pictures have at most :data:`BYTES`."""
    card, positions = dataset.card, dataset.positions()
    classes, side = len(card.classes), SIDE if len(card.classes) <= MANY else SMALL_SIDE
    each = side**2 * min(card.channels, 3)
    images = max(1, min(IMAGES, max(card.counts), BYTES // (each * classes)))
    shown = min(classes, BYTES // (each * images))
    strips = [
        Strip(name, base64_of(picture(dataset.shown(positions[label][:images]), side)))
        for label, name in enumerate(dataset.classes[:shown])
    ]
    parts = [
        f"first {shown:,} of {classes:,} classes" if shown < classes else "",
        first_images(images, card.counts),
    ]
    groups = [strips[start : start + GROUP] for start in range(0, shown, GROUP)]
    return Gallery(groups, images * (side + GAP) - GAP, ", ".join(filter(None, parts)))


def base64_of(image: Image.Image) -> str:
    """Return an image as PNG in base64."""
    return base64.b64encode(png_of(image)).decode()


def png_of(image: Image.Image) -> bytes:
    """Return an image as PNG."""
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return stream.getvalue()
