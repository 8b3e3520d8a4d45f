"""Division of the images of a class into training and test images, by a hash of their names."""

import os
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from dist_condense.data.reading.store import ClassFolder
from dist_condense.system.errors import listed

OF_A_RUN = ("config.yaml", "mlartifacts")
"""Names in the folder of a run, or beside it, by which it is recognised."""


def divided(folder: ClassFolder, fraction: float) -> tuple[ClassFolder, ClassFolder]:
    """Return the training images and the test images of a class of at least two images, each in the order of `folder`.

    The test images are those whose hashes are smallest. A hash is that of the names of the class and of the file below
    the class folder, so the division depends on no other class, and a new file moves at most one other image.

    :param fraction: share of the images that are test images, above 0 and below 1. Their number is rounded, and is at
        least one; at least one image is left for training.
    """
    count = min(max(int(len(folder.files) * fraction + 0.5), 1), len(folder.files) - 1)
    held_out = set(sorted(folder.files, key=lambda file: (_hash(folder.folder.name, file), file))[:count])
    train = tuple(file for file in folder.files if file not in held_out)
    test = tuple(file for file in folder.files if file in held_out)
    return replace(folder, files=train), replace(folder, files=test)


def indivisible(folders: Sequence[ClassFolder], where: str) -> list[str]:
    """Return a problem if classes have a single image, which cannot be divided; otherwise an empty list."""
    single = [entry.folder.name for entry in folders if len(entry.files) == 1]
    if not single:
        return []
    counted = "1 class has" if len(single) == 1 else f"{len(single)} classes have"
    return [
        f"{where}: {counted} one image, which dataset.test_fraction cannot divide into training and "
        f"test images: {listed(single)}. Add images, or name the other classes in dataset.classes."
    ]


def of_runs(folders: Sequence[ClassFolder], where: str) -> list[str]:
    """Return a problem if folders are, or hold, those of runs or of MLflow's files; otherwise an empty list.

    Only folders with images are examined, because others are no classes.
    """
    found = [entry.folder.name for entry in folders if _is_of_run(entry)]
    if not found:
        return []
    return [
        f"{where}: these folders are of runs of this package and no classes of images: {listed(found)}. Move "
        f"them out of dataset.root, or name the classes in dataset.classes."
    ]


def _is_of_run(entry: ClassFolder) -> bool:
    parts = {Path(file).parent for file in entry.files}
    below = {folder for part in parts for folder in (part, *part.parents)}
    return entry.folder.name in OF_A_RUN or any(
        os.path.lexists(entry.folder / folder / name) for folder in below for name in OF_A_RUN
    )


def _hash(name: str, file: str) -> bytes:
    return sha256(os.fsencode(f"{name}/{file}")).digest()
