"""The user's own arrays of images and labels in an .npz file, by the names of MedMNIST's files or of Keras'."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from dist_condense.data.image_set import Facts, ImageSet
from dist_condense.data.reading.source import LabelledImages
from dist_condense.data.sets.arrays import from_arrays
from dist_condense.data.sets.folders import IMAGE_FOLDER
from dist_condense.data.sets.labels import of_classes
from dist_condense.data.sets.npz import StoredArray, arrays, refused
from dist_condense.data.sets.request import LARGEST_SIDE, Request
from dist_condense.system.errors import DataError, listed
from dist_condense.system.files import PATH_LENGTH

ARRAYS = replace(IMAGE_FOLDER, family="images in arrays", upright=False)
NAMES = (("train_images", "train_labels", "test_images", "test_labels"), ("x_train", "y_train", "x_test", "y_test"))
"""Names of the arrays, as in MedMNIST's files and as in Keras'."""
CLASSES = "classes"
"""Name of an optional array with the names of the classes; label i is that of name i."""
CHANNELS = (1, 3)
LAYOUTS = "[N, H, W], [N, H, W, C] or [N, C, H, W] with C = 1 or 3"


def open_arrays(request: Request) -> ImageSet:
    """Open an .npz file, of which only the labels are read now.

    Images are bytes, or floats, which keep their values; labels are integers, or the names of classes. The order of
    classes is that of the labels. Raises DataError with all problems.
    """
    problems = request.problems() + _root_problems(request)
    if problems or request.root is None:
        raise DataError(problems)
    file, stored = request.root, arrays(request.root)
    names = next((names for names in NAMES if names[0] in stored), NAMES[0])
    needed = names if request.test else names[:2]
    if lacking := [name for name in needed if name not in stored]:
        hint = "" if names[0] in stored else f", or {', '.join(NAMES[1][: len(needed)])}"
        without = " (without evaluation, evaluation.epochs=0, no test images)" if request.test else ""
        raise refused(
            file, f"it has {listed(list(stored)) or 'no arrays'}, and lacks {', '.join(lacking)}{hint}{without}"
        )
    train = _Split.opened(file, stored[names[0]], stored[names[1]])
    test = _Split.opened(file, stored[names[2]], stored[names[3]]) if request.test else None
    if test is not None and (test.shape, test.kind) != (train.shape, train.kind):
        raise refused(file, f"training images are {train}, test images are {test}")
    if request.channels not in (None, train.shape[0]):
        raise DataError([f"dataset.channels is {request.channels}, and {file} has {train.shape[0]}; leave it out."])
    labels = {"training images": train.labels, **({"test images": test.labels} if test else {})}
    classes, positions = of_classes(labels, _names(file, stored), str(file))
    return from_arrays(
        request,
        _facts(train),
        train=LabelledImages(train.images(), positions[0]),
        test=LabelledImages(test.images(), positions[1]) if test else None,
        names=classes,
        identities=[tuple(stored[name].identity for name in part) for part in (needed[:2], needed[2:])],
        notes=_notes(file, stored, [*needed, CLASSES]),
    )


@dataclass(frozen=True, kw_only=True)
class _Split:
    """Arrays of one split."""

    file: Path
    stored: StoredArray
    labels: np.ndarray
    """Labels as stored, ``[N]``."""
    axis: int | None
    """Axis of the channels in the array; None: there is none, because images are grey."""

    @classmethod
    def opened(cls, file: Path, images: StoredArray, labels: StoredArray) -> _Split:
        """Check types and shapes, and read the labels. Raises DataError."""
        axis = _channel_axis(file, images)
        if images.dtype != np.uint8 and images.dtype.kind != "f":
            kinds = "bytes (uint8, 0 to 255) or floats"
            raise refused(file, f"{images.name} are {images.dtype}, expected {kinds}")
        count = images.shape[0]
        if labels.dtype.kind not in "iuU" or labels.shape not in ((count,), (count, 1)):
            text = f"{labels.name} are {labels.dtype} {list(labels.shape)}"
            raise refused(file, f"{text}, expected an integer or a name for each of {count} images")
        return cls(file=file, stored=images, labels=labels.read().reshape(-1), axis=axis)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of an image."""
        sides = list(self.stored.shape[1:])
        channels = 1 if self.axis is None else sides.pop(self.axis - 1)
        return channels, sides[0], sides[1]

    @property
    def kind(self) -> str:
        """Description of the values."""
        return "bytes" if self.stored.dtype == np.uint8 else "floats"

    def __str__(self) -> str:
        return f"{self.kind} {' x '.join(map(str, self.shape))}"

    def images(self) -> torch.Tensor:
        """Return the images ``[N, C, H, W]``, uint8 or float32; memory-mapped where the file stores them like that."""
        values = self.stored.read()
        if values.dtype not in (np.uint8, np.float32):
            values = values.astype(np.float32)  # floats of another size or byte order
        return torch.from_numpy(values[:, None] if self.axis is None else np.moveaxis(values, self.axis, 1))


def _channel_axis(file: Path, images: StoredArray) -> int | None:
    """Return the axis of the channels; None if there is none. Raises DataError if the shape leaves it open."""
    axes = [axis for axis in (1, 3) if images.shape[axis : axis + 1] and images.shape[axis] in CHANNELS]
    is_grey = len(images.shape) == 3
    if min(images.shape, default=0) < 1 or not (is_grey or (len(images.shape) == 4 and len(axes) == 1)):
        open_ = " (which axis has the channels?)" if len(images.shape) == 4 and len(axes) == 2 else ""
        raise refused(file, f"{images.name} has the shape {list(images.shape)}{open_}, expected {LAYOUTS}")
    axis = None if is_grey else axes[0]
    if max(side for number, side in enumerate(images.shape) if number not in (0, axis)) > LARGEST_SIDE:
        raise refused(file, f"{images.name} has sides of more than {LARGEST_SIDE} pixels")
    return axis


def _root_problems(request: Request) -> list[str]:
    remedy = "Set dataset.root to an .npz file with arrays of images and labels, as numpy.savez writes it."
    if request.root is None:
        return [f"{request.name}: no file was given. {remedy}"]
    try:
        is_file = stat.S_ISREG(request.root.stat().st_mode)
    except (OSError, ValueError) as error:  # no file, or a name that is none
        reason = f"cannot be read ({getattr(error, 'strerror', None) or error})"
    else:
        reason = "" if is_file else "is not a file"
    return [f"{request.name}: {request.root!s:.{PATH_LENGTH}} {reason}. {remedy}"] if reason else []


def _names(file: Path, stored: Mapping[str, StoredArray]) -> list[str] | None:
    """Return the names of the classes; None if the file does not state them. Raises DataError."""
    if (names := stored.get(CLASSES)) is None:
        return None
    if names.dtype.kind != "U" or len(names.shape) != 1:
        raise refused(file, f"{CLASSES} is {names.dtype} {list(names.shape)}, expected names [number of classes]")
    return [str(name) for name in names.read()]


def _facts(images: _Split) -> Facts:
    channels, height, width = images.shape
    facts = replace(ARRAYS.with_channels(channels), size=height, width=width if width != height else None)
    return facts if images.kind == "bytes" else replace(facts, floats=True, lower=None, upper=None)


def _notes(file: Path, stored: Mapping[str, StoredArray], used: list[str]) -> tuple[str, ...]:
    others = [name for name in stored if name not in used]
    return (f"{file}: arrays that are not read: {listed(others)}",) if others else ()
