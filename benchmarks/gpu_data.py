"""CIFAR-10 in two files of less than 60 MiB each, for machines to which little can be carried at a time.

A file contains five classes as lossless WebP images, which are 0.77 times as large as PNG, in the folders that the
package reads, ``train/CLASS/`` and ``val/CLASS/``.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

from PIL import Image

HALVES = ("cifar10_1of2.zip", "cifar10_2of2.zip")
LARGEST = 60 * 2**20
"""Size of a file in bytes that is not exceeded."""


def pack(folder: Path, output: Path) -> list[Path]:
    """Pack the class folders of CIFAR-10 into two files, and return their paths.

    :param folder: folder with ``train/CLASS/`` and ``val/CLASS/``.
    :raises ValueError: the folder has other classes in ``val`` than in ``train``, or less than two, or a file becomes
        too large.
    """
    classes = [sorted(x.name for x in (folder / split).glob("*/")) for split in ("train", "val")]
    if classes[0] != classes[1] or len(classes[0]) < 2:
        raise ValueError(f"{folder} has no two equal sets of classes, in train/CLASS/ and val/CLASS/")
    output.mkdir(parents=True, exist_ok=True)
    middle = len(classes[0]) // 2
    return [
        _packed(folder, names, output / half)
        for half, names in zip(HALVES, (classes[0][:middle], classes[0][middle:]), strict=True)
    ]


def _packed(folder: Path, classes: list[str], target: Path) -> Path:
    files = [x for split in ("train", "val") for name in classes for x in sorted((folder / split / name).iterdir())]
    with ThreadPoolExecutor(os.cpu_count()) as pool, ZipFile(target, "w") as packed:
        for file, image in zip(files, pool.map(_webp, files), strict=True):
            packed.writestr(str(file.relative_to(folder).with_suffix(".webp")), image)
    if (size := target.stat().st_size) > LARGEST:
        raise ValueError(f"{target} has {size / 2**20:.1f} MiB, more than {LARGEST / 2**20:.0f}")
    return target


def _webp(file: Path) -> bytes:
    with Image.open(file) as image, BytesIO() as packed:
        image.convert("RGB").save(packed, "WEBP", lossless=True, exact=True, method=4)
        return packed.getvalue()


def missing(folder: Path) -> list[str]:
    """Return the names of the files that a folder with one of the two lacks; empty also if it has none."""
    lacking = [half for half in HALVES if not (folder / half).is_file()]
    return lacking if len(lacking) < len(HALVES) else []


def unpacked(folder: Path, work: Path) -> Path | None:
    """Unpack the two files in ``folder``, and return the folder with the classes, in ``work``; None: there are none."""
    if any(not (folder / half).is_file() for half in HALVES):
        return None
    target = work / "cifar10"
    for half in HALVES:
        with ZipFile(folder / half) as packed:
            packed.extractall(target)
    return target
