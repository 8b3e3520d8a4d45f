"""preview.png: the held images of a synthetic set on one sheet, for people."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

CLASSES, COLUMNS, STRIP = 100, 10, 20
"""At most so many classes and images of each; more classes than STRIP stand in blocks side by side."""
GAP, BLOCK_GAP = 2, 10
SIDES, WIDTH, WIDEST = (64, 128), 960, 3200
"""Pixels: small images are enlarged to these sides so that the sheet is about WIDTH wide; large ones are reduced
where it would be wider than WIDEST."""
CAPTION = 16
"""Pixels: the height of its letters."""
ASPECTS = (0.8, 3.0)
"""Width by height of a sheet that is not a strip."""


def sheet(held: Callable[[int], Tensor], classes: int, ipc: int) -> Image.Image:
    """A row per class; one image per class, or many classes, fill a sheet that is not a strip. In label order, from
    left to right and then down. What is not shown is said below it.

    :param held: the images ``[ipc, C, H, W]`` of class 0, 1, ..., asked for one class at a time; in [0, 1].
    """
    caption = left_out(classes, ipc)
    classes, ipc = min(classes, CLASSES), min(ipc, COLUMNS)
    blocks, between = blocks_of(classes, ipc), BLOCK_GAP if ipc > 1 else 0
    cells = torch.cat([_resized(held(c)[:ipc], ipc * blocks) for c in range(classes)])
    cells = F.pad((cells * 255).round(), (0, GAP, 0, GAP), value=255).unflatten(0, (classes, ipc))
    cells = cells.permute(0, 2, 3, 1, 4).flatten(3)  # [classes, C, height, width] of a class
    cells = F.pad(cells, (0, between), value=255)
    empty = -classes % blocks
    cells = torch.cat([cells, cells.new_full((empty, *cells.shape[1:]), 255)]).unflatten(0, (-1, blocks))
    grid = cells.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)[:-GAP, : -GAP - between].to(torch.uint8)  # H W C
    picture = Image.fromarray((grid[..., 0] if grid.shape[2] == 1 else grid[..., :3]).contiguous().numpy())
    return _captioned(picture, caption) if caption else picture


def left_out(classes: int, ipc: int) -> str:
    """``first 100 of 1,000 classes, first 10 of 50 images of each class`` where a sheet shows no more; else empty."""
    parts = [
        f"first {CLASSES:,} of {classes:,} classes" if classes > CLASSES else "",
        f"first {COLUMNS:,} of {ipc:,} images of each class" if ipc > COLUMNS else "",
    ]
    return ", ".join(part for part in parts if part)


def blocks_of(classes: int, ipc: int) -> int:
    """How many classes stand side by side: one, unless that makes a strip; then a full, nearly square sheet."""
    if ipc > 1 and classes <= STRIP:
        return 1

    def cost(blocks: int) -> tuple[bool, int, float]:
        aspect = ipc * blocks / math.ceil(classes / blocks)
        return not ASPECTS[0] <= aspect <= ASPECTS[1], -classes % blocks, abs(math.log(aspect))

    return min(range(classes, 0, -1), key=cost)


def _captioned(picture: Image.Image, text: str) -> Image.Image:
    sheet = Image.new(picture.mode, (picture.width, picture.height + 2 * CAPTION), "white")
    sheet.paste(picture)
    place = (GAP, picture.height + CAPTION // 2)
    ImageDraw.Draw(sheet).text(place, text, fill="black", font=ImageFont.load_default(CAPTION))
    return sheet


def _resized(images: Tensor, columns: int) -> Tensor:
    """By a whole factor: enlarged without blur, or averaged."""
    size = max(images.shape[-2:])
    wanted = min(max(WIDTH // columns, SIDES[0]), SIDES[1])
    if size <= wanted:
        return images.repeat_interleave(wanted // size, -1).repeat_interleave(wanted // size, -2)
    return F.avg_pool2d(images, min(*images.shape[-2:], math.ceil(columns * size / WIDEST)))
