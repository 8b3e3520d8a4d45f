"""preview.png: the stored images of a synthetic set on one sheet."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

CLASSES, COLUMNS, STRIP = 100, 10, 20
"""Largest number of classes on a sheet; largest number of images per class; number of classes above which several
classes may share a row."""
GAP, BLOCK_GAP, GREY = 2, 10, 128
"""Pixels between images, and between blocks; colour between the images of :func:`picture`, light or dark around."""
SIDES, WIDTH, WIDEST = (64, 128), 960, 3200
"""Range of the side to which small images are enlarged; width that a sheet should have; largest width of a sheet, to
which large images are reduced. All in pixels."""
CAPTION = 16
"""Height of the caption's letters in pixels."""
ASPECTS = (0.8, 3.0)
"""Least and largest ratio of width to height; a sheet outside this range is considered a narrow strip."""


def sheet(images_of: Callable[[int], Tensor], counts: Sequence[int]) -> Image.Image:
    """Draw a sheet of the images of all classes, in label order from left to right and from top to bottom.

    Each class is a row. Classes share rows where there are many of them, or one image per class, so that the sheet is
    not a narrow strip. A caption states what is omitted.

    :param images_of: returns the images ``[n, C, H, W]`` of class 0, 1, ..., in [0, 1]; called once per class.
    :param counts: number n of images of each class.
    """
    caption = left_out(counts)
    classes, ipc = min(len(counts), CLASSES), min(max(counts), COLUMNS)
    blocks, between = blocks_of(classes, ipc), BLOCK_GAP if ipc > 1 else 0
    own = [_resized(images_of(c)[:ipc], ipc * blocks) for c in range(classes)]
    cells = torch.cat([F.pad(x, (0, 0, 0, 0, 0, 0, 0, ipc - len(x)), value=1) for x in own])
    cells = F.pad((cells * 255).round(), (0, GAP, 0, GAP), value=255).unflatten(0, (classes, ipc))
    cells = cells.permute(0, 2, 3, 1, 4).flatten(3)  # [classes, C, height, width] of a class
    cells = F.pad(cells, (0, between), value=255)
    empty = -classes % blocks
    cells = torch.cat([cells, cells.new_full((empty, *cells.shape[1:]), 255)]).unflatten(0, (-1, blocks))
    grid = cells.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)[:-GAP, : -GAP - between].to(torch.uint8)  # H W C
    return _captioned(_image(grid), caption) if caption else _image(grid)


def picture(images: Tensor, side: int) -> Image.Image:
    """Draw images ``[n, C, H, W]``, in [0, 1], side by side on grey, each with at most ``side`` pixels along a side.

    Small images are enlarged by an integer factor, and large ones are reduced by averaging.
    """
    size = max(images.shape[-2:])
    if size <= side:
        images = images.repeat_interleave(side // size, -1).repeat_interleave(side // size, -2)
    else:
        images = F.avg_pool2d(images, min(*images.shape[-2:], math.ceil(size / side)))
    cells = F.pad((images.nan_to_num(0) * 255).round(), (0, GAP), value=GREY)  # [n, C, height, width]
    return _image(cells.permute(2, 0, 3, 1).flatten(1, 2)[:, :-GAP].to(torch.uint8))


def left_out(counts: Sequence[int]) -> str:
    """Return a caption that states which classes and images a sheet omits; empty if the sheet shows everything.

    :param counts: number of images of each class.

    Example: ``first 100 of 1,000 classes, first 10 of 50 images of each class``.
    """
    parts = [
        f"first {CLASSES:,} of {len(counts):,} classes" if len(counts) > CLASSES else "",
        first_images(COLUMNS, counts),
    ]
    return ", ".join(part for part in parts if part)


def first_images(shown: int, counts: Sequence[int]) -> str:
    """Return a text that ``shown`` images of each class are shown; empty if no class has more."""
    if max(counts) <= shown:
        return ""
    return f"first {shown:,} of {max(counts):,} images of {'each class' if len({*counts}) == 1 else 'a class'}"


def blocks_of(classes: int, ipc: int) -> int:
    """Return the number of classes in each row of a sheet.

    The number is 1 unless the sheet would be a narrow strip; then it is the number that leaves the fewest cells empty
    and makes the sheet most nearly square.
    """
    if ipc > 1 and classes <= STRIP:
        return 1

    def cost(blocks: int) -> tuple[bool, int, float]:
        aspect = ipc * blocks / math.ceil(classes / blocks)
        return not ASPECTS[0] <= aspect <= ASPECTS[1], -classes % blocks, abs(math.log(aspect))

    return min(range(classes, 0, -1), key=cost)


def _image(pixels: Tensor) -> Image.Image:
    """Return uint8 pixels ``[H, W, C]`` as an image: grey for one channel, else of at most the first three."""
    return Image.fromarray((pixels[..., 0] if pixels.shape[2] == 1 else pixels[..., :3]).contiguous().numpy())


def _captioned(picture: Image.Image, text: str) -> Image.Image:
    sheet = Image.new(picture.mode, (picture.width, picture.height + 2 * CAPTION), "white")
    sheet.paste(picture)
    position = (GAP, picture.height + CAPTION // 2)
    ImageDraw.Draw(sheet).text(position, text, fill="black", font=ImageFont.load_default(CAPTION))
    return sheet


def _resized(images: Tensor, columns: int) -> Tensor:
    """Resize images by an integer factor: enlarge them by repeating pixels, or reduce them by averaging."""
    size = max(images.shape[-2:])
    target = min(max(WIDTH // columns, SIDES[0]), SIDES[1])
    if size <= target:
        return images.repeat_interleave(target // size, -1).repeat_interleave(target // size, -2)
    return F.avg_pool2d(images, min(*images.shape[-2:], math.ceil(columns * size / WIDEST)))
