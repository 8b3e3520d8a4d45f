"""Image files to bytes: shorter side resized, centre cropped; on threads (Pillow releases the lock)."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import center_crop
from torchvision.transforms.functional import resize as resize_shorter_side

from dist_condense.data.errors import SHOWN, DataError

MODES = {1: "L", 3: "RGB"}
"""Pillow's mode for a number of channels."""
MAX_THREADS = 32


def decode(paths: Sequence[Path], channels: int, size: int) -> torch.Tensor:
    """Decode files, in order: uint8 [n, C, size, size]; DataError naming the files that cannot be read."""
    images = torch.empty(len(paths), channels, size, size, dtype=torch.uint8)

    def fill(index: int) -> str | None:
        try:
            images[index] = decode_file(paths[index], channels, size)
        except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as reason:
            return f"{paths[index]}: the image cannot be read ({reason}). Replace or remove the file."
        return None

    with ThreadPoolExecutor(_threads()) as pool:
        problems = [problem for problem in pool.map(fill, range(len(paths))) if problem]
    if problems:
        rest = [f"... and {len(problems) - SHOWN} more files."] if len(problems) > SHOWN else []
        raise DataError(problems[:SHOWN] + rest)
    return images


def decode_file(path: Path, channels: int, size: int) -> torch.Tensor:
    """One file as torchvision's Resize(size) and CenterCrop(size) give it: uint8 [C, size, size].

    Grey and CMYK files become RGB for three channels, colour becomes grey for one.
    """
    with Image.open(path) as file:
        image = file.convert(MODES[channels])
    resized = resize_shorter_side(image, [size], InterpolationMode.BILINEAR, antialias=True)
    pixels = np.array(center_crop(resized, [size, size])).reshape(size, size, channels)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _threads() -> int:
    cpu_count: Callable[[], int | None] = getattr(os, "process_cpu_count", os.cpu_count)  # the former from Python 3.13
    return min(cpu_count() or 1, MAX_THREADS)
