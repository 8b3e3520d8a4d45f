"""The user's data in memory, written once as an .npz file that every worker reads.

Data travel as a file and never as pickled code, so that workers need not be able to import the user's program.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from PIL import Image

from dist_condense.data.sets.array_file import CHANNELS, CLASSES, NAMES
from dist_condense.data.sets.npz import ENDING, StoredArray, arrays
from dist_condense.settings.values import ConfigError
from dist_condense.system.conversion import shown
from dist_condense.system.errors import DataError, listed, words_of
from dist_condense.system.files import flush, temporary_beside

CHUNK = 2**26
"""Number of bytes that are written at once."""
LEVELS = 255
DEEP = ("I", "F")
"""Beginnings of the names of Pillow's modes with more than 8 bits per value, which become bytes by saturation."""
FORMS = "arrays (X, y), or a map-style data set with a length, whose items are (image, label)"


@dataclass(frozen=True, eq=False)
class Collected:
    """Images and labels of one split in memory.

    :param images: ``[N, C, H, W]``, uint8 or float32.
    :param labels: integers or names of classes, ``[N]``.
    :param classes: names of the classes by label; None if labels are names, or name themselves.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...] | None = None

    def digest(self) -> bytes:
        """Return a hash of all images, labels and names."""
        digest = sha256(repr((self.images.shape, self.images.dtype, self.labels.dtype, self.classes)).encode())
        for start in range(0, len(self.images), 1024):
            digest.update(np.ascontiguousarray(self.images[start : start + 1024]).data)
        digest.update(np.ascontiguousarray(self.labels).data)
        return digest.digest()


def collected(data: Any, argument: str) -> Collected:
    """Return the images and labels of a data set in memory.

    :param data: arrays or tensors ``(X, y)``; or a map-style data set of torch, torchvision or Hugging Face. Images are
        of PIL, tensors ``[C, H, W]``, or arrays ``[H, W, C]`` or ``[H, W]``; bytes or floats.
    :param argument: name of the argument, for messages.
    :raises DataError: the data have another form; the message names the first image that differs.
    """
    if _are_arrays(data):
        images, labels = (_array(part, argument) for part in data)
        if not images.ndim or not labels.ndim:
            raise DataError([f"{argument} is a single number; give {FORMS}."])
        if len(images) != len(labels):
            raise DataError([f"{argument} has {len(images)} images and {len(labels)} labels."])
        if not len(images):
            raise DataError([f"{argument} is empty."])
        images = _channels_first(images, torch.is_tensor(data[0]), argument)
        return Collected(images, _labels(labels, argument))
    if hasattr(data, "shape") and hasattr(data, "dtype"):
        raise DataError([f"{argument} is an array without labels; give {FORMS}."])
    kind = type(data).__name__
    if isinstance(data, Mapping):  # also a DatasetDict
        raise DataError([f"{argument} is {kind} with {listed(list(map(str, data)))}; give one split, as {FORMS}."])
    if not hasattr(data, "__len__") or not hasattr(data, "__getitem__") or hasattr(data, "iloc"):
        raise DataError([f"{argument} is {kind}, which has no length or no positions; give {FORMS}."])
    return _of_items(data, argument)


def both(train: Any, test: Any) -> tuple[Collected, ...]:
    """Collect training images, and test images unless they are None, in one form. Raises DataError."""
    given = {"train": train} | ({} if test is None else {"test": test})
    splits = as_bytes(*(collected(data, name) for name, data in given.items()))
    if len(splits) > 1:
        compare(*splits)
    return splits


def as_bytes(*splits: Collected) -> tuple[Collected, ...]:
    """Return the splits with bytes for floats that are bytes divided by 255, as ToTensor makes them.

    Where other floats are in one of them, all are returned unchanged.
    """
    converted = [_as_bytes(split.images) for split in splits]
    if any(images.dtype != np.uint8 for images in converted):
        return splits
    return tuple(replace(split, images=images) for split, images in zip(splits, converted, strict=True))


def compare(train: Collected, test: Collected) -> None:
    """Raise DataError, with all problems, if test images have another form or other classes than training images."""
    problems = []
    forms = [f"{split.images.dtype} {list(split.images.shape[1:])}" for split in (train, test)]
    if forms[0] != forms[1]:
        problems.append(f"test: images are {forms[1]}, those of train {forms[0]}; give both in one size and type.")
    if None not in (train.classes, test.classes) and train.classes != test.classes:
        problems.append("test: its classes are not those of train, in their order, so a label has two meanings.")
    known = set(train.labels.tolist())
    if unknown := [shown(label) for label in np.unique(test.labels).tolist() if label not in known]:
        problems.append(f"test: labels without training images: {listed(unknown)}.")
    if problems:
        raise DataError(problems)


def write(train: Collected, test: Collected | None, folder: Path) -> Path:
    """Write the arrays to an .npz file in ``folder``, whose name follows from their content, and return its path.

    The images of a class are written together, in their order, so that a worker reads few parts of the file. If the
    file is there already, it is kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    members = dict(_members(train, NAMES[0][:2]))
    if test is not None:
        members |= _members(test, NAMES[0][2:])
    if train.classes is not None:
        members[CLASSES] = _Member(np.array(train.classes), None)
    with temporary_beside(folder / "data.npz") as stream:
        written = Path(stream.name)
        try:
            with zipfile.ZipFile(stream, "w") as archive:
                for name, member in members.items():
                    member.write(archive, name)
            stream.flush()
            flush(written)
            file = folder / f"{_name(arrays(written))}.npz"
            written.rename(file)
        except BaseException:
            with suppress(OSError):
                written.unlink()
            raise
    return file


@dataclass(frozen=True, eq=False)
class _Member:
    """An array, and the order in which its rows are written; None: its own order."""

    array: np.ndarray
    order: np.ndarray | None

    def write(self, archive: zipfile.ZipFile, name: str) -> None:
        """Write the array in C order without compression, in parts, so that it is in memory only once."""
        with archive.open(name + ENDING, "w", force_zip64=True) as stream:
            header = {"descr": npy.dtype_to_descr(self.array.dtype), "fortran_order": False, "shape": self.array.shape}
            npy.write_array_header_1_0(stream, header)
            for rows in self._parts():
                stream.write(np.ascontiguousarray(self.array[rows]).data)

    def _parts(self) -> Iterator[Any]:
        count = len(self.array)
        size = max(1, CHUNK // max(1, self.array[:1].nbytes))
        order = np.arange(count) if self.order is None else self.order
        return (order[start : start + size] for start in range(0, count, size))


def _members(split: Collected, names: Sequence[str]) -> Iterator[tuple[str, _Member]]:
    order = np.argsort(split.labels, kind="stable")
    return iter([(names[0], _Member(split.images, order)), (names[1], _Member(split.labels, order))])


def _name(stored: Mapping[str, StoredArray]) -> str:
    """Return a name that follows from the content of the arrays."""
    content = repr(sorted((name, entry.identity) for name, entry in stored.items()))
    return f"data_{sha256(content.encode()).hexdigest()[:12]}"


# --- forms of data ------------------------------------------------------------------------------------------------


def _of_items(data: Any, argument: str) -> Collected:
    """Collect the items of a map-style data set, one after the other."""
    columns = _columns(data, argument)
    images: np.ndarray | None = None
    labels: list[Any] = []
    with _readable(f"{argument}: its length"):
        count = len(data)
    for index in range(count):
        with _readable(f"{argument}[{index}]"):
            image, label = _item(data[index], columns, f"{argument}[{index}]")
        if images is None:
            images = np.empty((count, *image.shape), dtype=image.dtype)
        elif (image.shape, image.dtype) != (images.shape[1:], images.dtype):
            found = f"{_form(image)}, {argument}[0] is {_form(images[0])}"
            raise DataError([f"{argument}[{index}] is {found}; transform all images to one size and type."])
        images[index] = image
        labels.append(label)
    if images is None:
        raise DataError([f"{argument} is empty."])
    numbers = _labels(_array(labels, argument), argument)
    return Collected(images, numbers, _names(data, columns) if numbers.dtype.kind != "U" else None)


@contextmanager
def written(train: Collected, test: Collected | None, folder: Path) -> Iterator[Path]:
    """Write training and test data to a file in a folder, and yield the file within the context.

    If the context refuses the data or the settings, the file and the folders that were made for it are removed.

    :raises ConfigError: the data cannot be written.
    """
    before = [place for place in (folder, *folder.parents) if place.exists()]
    known, file = {*folder.glob("*")} if folder in before else set[Path](), None
    try:
        try:
            file = write(train, test, folder)
        except (OSError, ValueError) as error:  # ValueError: a zero byte
            raise ConfigError([f"output: the data cannot be written ({error})"]) from error
        yield file
    except (ConfigError, DataError):
        with suppress(OSError, ValueError):
            if file is not None and file not in known:
                file.unlink()
            for place in (folder, *folder.parents):
                if place in before:
                    break
                place.rmdir()
        raise


@contextmanager
def _readable(what: str) -> Iterator[None]:
    """Raise DataError, which names what was read, for any error of the user's data set within the context."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Exception as error:
        raise DataError([f"{what} cannot be read ({type(error).__name__}: {words_of(error)[:200]})."]) from error


def _form(image: np.ndarray) -> str:
    return f"{image.dtype} {list(image.shape)}"


def _columns(data: Any, argument: str) -> tuple[str, str] | None:
    """Return the columns with images and labels of a data set of Hugging Face; None for others."""
    if not hasattr(data, "features") or not hasattr(data, "column_names"):
        return None
    from dist_condense.data.sets.huggingface import columns_of

    return columns_of(argument, data.features, None)


def _names(data: Any, columns: tuple[str, str] | None) -> tuple[str, ...] | None:
    names = getattr(data.features[columns[1]], "names", None) if columns else getattr(data, "classes", None)
    return tuple(map(str, names)) if names else None


def _item(item: Any, columns: tuple[str, str] | None, where: str) -> tuple[np.ndarray, Any]:
    """Return the image ``[C, H, W]`` and the label of an item."""
    if columns is not None:
        image, label = (item[name] for name in columns)
    elif isinstance(item, tuple | list) and len(item) == 2:
        image, label = item
    else:
        raise DataError([f"{where} is {type(item).__name__}, expected (image, label)."])
    if isinstance(image, Image.Image):
        if image.mode.startswith(DEEP):
            raise DataError([f"{where}: its image has more than 8 bits (mode {image.mode}); give bytes or floats."])
        image = np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
    is_tensor = torch.is_tensor(image)
    pixels = _array(image, where)
    if pixels.ndim not in (2, 3):
        raise DataError([f"{where}: its image is {type(image).__name__} {list(pixels.shape)}, expected [C, H, W]."])
    one = _channels_first(pixels[None], is_tensor, where)[0]
    return one, label.item() if hasattr(label, "item") else label


def _are_arrays(data: Any) -> bool:
    """Return whether data are images and labels of all items: arrays, or an array of images and a list of labels."""
    if not isinstance(data, tuple | list) or len(data) != 2 or not hasattr(data[0], "shape"):
        return False
    return hasattr(data[1], "shape") or isinstance(data[1], tuple | list)


def _array(values: Any, where: str) -> np.ndarray:
    """Return values as an array. Raises DataError for ragged lists, and sparse tensors or those without values."""
    with _readable(f"{where}: {type(values).__name__} is no array and"):
        if not torch.is_tensor(values):
            return np.asarray(values)
        values = values.detach().cpu()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()  # numpy has no bfloat16


def _channels_first(images: np.ndarray, is_tensor: bool, where: str) -> np.ndarray:
    """Return images ``[N, C, H, W]``, bytes or float32; the channels of tensors are first, those of arrays last."""
    if images.dtype.kind == "f":
        images = images.astype(np.float32, copy=False)
    elif images.dtype != np.uint8:
        raise DataError([f"{where}: images are {images.dtype}, expected bytes (uint8, 0 to 255) or floats."])
    if images.ndim == 3:
        return images[:, None]
    axes = [axis for axis in (1, 3) if images.ndim == 4 and images.shape[axis] in CHANNELS]
    if is_tensor and 1 in axes:
        axes = [1]
    if len(axes) != 1:
        expected = "[C, H, W]" if is_tensor else "[H, W, C]"
        raise DataError(
            [f"{where}: an image has the shape {list(images.shape[1:])}, expected {expected} with C = 1 or 3."]
        )
    return np.moveaxis(images, axes[0], 1)


def _as_bytes(images: np.ndarray) -> np.ndarray:
    """Return the bytes of which all floats are the quotients by 255, as ToTensor makes them; otherwise the images."""
    if images.dtype == np.uint8:
        return images
    bytes_ = np.empty(images.shape, dtype=np.uint8)
    size = max(1, CHUNK // max(1, images[:1].nbytes))
    for start in range(0, len(images), size):
        part = images[start : start + size]
        if not ((part >= 0) & (part <= 1)).all():  # also for NaN
            return images
        bytes_[start : start + size] = np.rint(part * LEVELS)
        if not np.array_equal(bytes_[start : start + size].astype(np.float32) / np.float32(LEVELS), part):
            return images
    return bytes_


def _labels(labels: np.ndarray, argument: str) -> np.ndarray:
    if labels.dtype.kind in "OT" and all(isinstance(label, str) for label in labels.flat):  # as pandas stores names
        labels = labels.astype(str)
    if labels.dtype.kind == "b":
        labels = labels.astype(np.int64)
    if labels.dtype.kind not in "iuU" or (labels.ndim != 1 and labels.shape != (len(labels), 1)):
        found = f"{labels.dtype} {list(labels.shape)}"
        raise DataError([f"{argument}: labels are {found}, expected an integer or a name for each image."])
    return labels.reshape(-1)
