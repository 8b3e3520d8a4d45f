"""Sets of any origin as training sets of an evaluation: synthetic sets, class folders, tables, files of tensors."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dist_condense.core.parameterisation import MultiFormation, uniform
from dist_condense.data import DataError, ImageSet, Reading
from dist_condense.data.normalise import ChannelStatistics
from dist_condense.data.reading.decode import Form
from dist_condense.data.reading.split import Split
from dist_condense.data.sets.folders import class_folders
from dist_condense.data.sets.huggingface import PARQUET, SAVED, open_huggingface
from dist_condense.data.sets.request import Request
from dist_condense.evaluation.evaluate import TrainingSet
from dist_condense.result.card import CARD
from dist_condense.result.synthetic_set import SyntheticSetError, improbable, load_set
from dist_condense.settings.run_folder import RunFolder
from dist_condense.system.conversion import shown
from dist_condense.system.errors import listed
from dist_condense.system.memory import memory_and_swap

TENSORS = (".pt", ".pth")
"""Endings of files of tensors."""
UNIT, NORMALISED = "unit", "normalised"
SPACES = {
    UNIT: "image values, bytes scaled to [0, 1] (IDC)",
    NORMALISED: "values with the mean and std of networks' inputs (DC, DSA, DM)",
}
"""Spaces of the pixels in a file of tensors, which does not state it."""
WIDEST = 0.7
"""Std above which values are no image values in [0, 1], whose std is at most 0.5; learnt ones may be outside."""
LEVELS = ("", "*/", "*/*/", "*/*/*/")
"""Patterns of the folders in which parquet files are looked for."""
CHUNK = 1024
"""Number of images that are decoded at once."""
FLOAT = 4
DATA = "data"
"""Key under which the programs of DC, DSA and DM store their sets, one for each experiment."""
NUMBERS: list[Any] = [
    np.dtype,
    np.float64(0).__reduce__()[0],
    *(type(np.dtype(x)) for x in ("f8", "f4", "i8", "i4", "b1")),
]
"""Constructors of numpy's numbers, which the programs of DC, DSA and DM store beside their sets."""
FORMS = (
    "the folder of a run or of its synthetic set, a folder with a folder of images for each class, "
    f"a folder of Hugging Face's datasets, or a file of tensors ({', '.join(TENSORS)})"
)


@dataclass(frozen=True, kw_only=True)
class Stated:
    """What files do not say about their images.

    :param space: key of :data:`SPACES`, for files of tensors.
    :param factor: number of tiles of an image along each axis, in files of tensors.
    :param columns: names of the columns with images and labels, of tables; None: the only ones of these types.
    :param orientation: whether image files are rotated by their EXIF orientation; None: as those of the test images.
    """

    space: str | None = None
    factor: int = 1
    columns: Sequence[str] | None = None
    orientation: bool | None = None

    def problems(self, paths: Sequence[Path]) -> Iterator[str]:
        """Yield a problem for each value that is wrong, or that concerns none of the sets at these paths."""
        if self.space not in (None, *SPACES):
            yield f"space: {shown(self.space)} is not one of {', '.join(SPACES)}"
        if not isinstance(self.factor, int) or self.factor < 1:
            yield f"factor: {shown(self.factor)} is not a number of tiles, 1 or more"
        if (self.space, self.factor) != (None, 1) and not any(path.suffix in TENSORS for path in paths):
            yield f"space, factor: they are for files of tensors ({', '.join(TENSORS)}), and none of the sets is one"
        if self.columns is not None and not any(map(_is_table, paths)):
            yield "columns: they are for tables of Hugging Face's datasets, and none of the sets is one"


@dataclass(frozen=True, eq=False)
class AnySet:
    """A training set, and the statistics that normalised its images; None: those of the test images."""

    images: TrainingSet
    statistics: ChannelStatistics | None = None


def read(path: Path, target: ImageSet, stated: Stated) -> AnySet:
    """Read a set whose classes are those of the test images.

    :param target: data set of the test images, with the form that images of folders and tables get.
    :raises DataError: there is no set, its form is unknown or not that of the test images, or it is damaged.
    """
    for is_of, reader in READERS:
        if is_of(path, target):
            return reader(path, target, stated)
    if not os.path.lexists(path):
        raise DataError([f"{path} does not exist; give {FORMS}."])
    raise DataError([f"{path} is no set; give {FORMS}."])


def misplaced(images: Tensor, target: ImageSet, space: str | None = UNIT) -> str | None:
    """Return a problem if floats ``[N, C, H, W]`` cannot be in a space; None if they can, and for other bounds.

    Image values in [0, 1] have a mean in it and a std of at most 1/2, learnt ones a little more. Normalised values have
    a std of about 1 and are on both sides of 0.
    """
    if target.space.bounds != (0.0, 1.0) or target.facts.floats or not images.is_floating_point():
        return None
    std, mean = (float(x) for x in torch.std_mean(images.float()))
    least, most = (float(x) for x in images.aminmax())
    is_unit = 0 <= mean <= 1 and std <= WIDEST
    if space == UNIT and not is_unit:
        return f"its values have the mean {mean:.3g} and the std {std:.3g}, which image values in [0, 1] cannot have"
    if space == NORMALISED and 0 <= least < most <= 1:
        return "all its values are in [0, 1], which normalised values are not; they are image values (unit)"
    return None


# --- synthetic sets -----------------------------------------------------------------------------------------------


def _is_synthetic(path: Path) -> bool:
    return any(os.path.exists(folder / CARD) for folder in (path, RunFolder(path).synthetic_set))


def _synthetic(path: Path, target: ImageSet, stated: Stated) -> AnySet:
    try:
        loaded = load_set(path)
    except SyntheticSetError as error:
        raise DataError([str(error)]) from error
    card = loaded.card
    if not card.complete:
        raise DataError([f"{path} is incomplete (step {card.steps}); finish its run, or copy the set again."])
    names, known = ([(x.name, x.wnid) for x in classes] for classes in (card.classes, target.classes))
    if names != known:
        raise DataError([f"{path} has the classes {listed(loaded.classes)}, {_of_test(target)}."])
    if card.shape != target.shape:
        raise DataError([f"{path} has images {list(card.shape)}, {_of_test(target)}."])
    images = loaded.batch(torch.arange(len(loaded)))
    return AnySet(
        TrainingSet(images, loaded.labels, tiles=card.decoded_per_image),
        ChannelStatistics(tuple(card.mean), tuple(card.std)),
    )


def _of_test(target: ImageSet) -> str:
    return f"the test images are {list(target.shape)} of {listed([x.name for x in target.classes])}"


# --- images in files ----------------------------------------------------------------------------------------------


def _is_table(path: Path) -> bool:
    """Return whether a folder is a table of Hugging Face, by its own files or by parquet files below it."""
    if any(os.path.exists(path / name) for name in SAVED):
        return True
    if not os.path.isdir(path):  # also a path that no folder can have
        return False
    return any(next(path.glob(f"{below}*{PARQUET}"), None) is not None for below in LEVELS)


def _has_classes(path: Path, target: ImageSet) -> bool:
    """Return whether a folder, or its folder ``train``, has a folder for one of the classes of the test images."""
    names = [name for entry in target.classes for name in (entry.name, entry.wnid) if name and "/" not in name]
    return any(os.path.isdir(path / below / name) for below in ("", "train") for name in names)


def _table(path: Path, target: ImageSet, stated: Stated) -> AnySet:
    names, form = tuple(x.name for x in target.classes), _form(path, target, stated)
    request = Request(
        name=str(path),
        root=path,
        size=form.size,
        classes=names,
        channels=form.channels,
        columns=stated.columns,
        orientation=form.upright,
        test=False,
        download=False,
    )
    every = open_huggingface(replace(request, classes=None)).classes
    if others := sorted({x.name for x in every} - set(names)):
        raise DataError([f"{path}: the test images have no class {listed(others)}."])
    return _decoded(path, open_huggingface(request).train_split, target)


def _folder(path: Path, target: ImageSet, stated: Stated) -> AnySet:
    return _decoded(path, class_folders(path, target.classes, _form(path, target, stated)), target)


def _form(path: Path, target: ImageSet, stated: Stated) -> Form:
    channels, height, width = target.shape
    if height != width or target.facts.floats:
        raise DataError([f"{path} has image files, but {_of_test(target)}, which files of images cannot be."])
    upright = target.facts.upright if stated.orientation is None else stated.orientation
    return Form(channels, height, upright)


def _decoded(path: Path, split: Split, target: ImageSet) -> AnySet:
    source, counts = split.on_demand(Reading()), torch.tensor(split.counts)
    shape = int(counts.sum()), *target.shape
    _fits(path, prod(shape))
    images, start = torch.empty(shape, dtype=torch.uint8), 0
    for label, count in enumerate(split.counts):
        for positions in torch.arange(count).split(CHUNK):
            images[start : start + len(positions)] = source.get(label, positions)
            start += len(positions)
    return AnySet(TrainingSet(images, torch.arange(len(counts)).repeat_interleave(counts), stored=True))


def _fits(path: Path, size: int) -> None:
    """Raise DataError if this machine has less memory than ``size`` bytes."""
    if size > (memory := memory_and_swap()):
        needed = f"its images need {size / 2**30:.1f} GiB, this machine has {memory / 2**30:.1f} GiB of memory"
        raise DataError([f"{path}: {needed}."])


# --- files of tensors ---------------------------------------------------------------------------------------------


def _is_tensors(path: Path) -> bool:
    return path.suffix in TENSORS and os.path.isfile(path)


def _tensors(path: Path, target: ImageSet, stated: Stated) -> AnySet:
    """Read ``[images, labels]``, or the dict of DC's program, whose ``data`` lists such a pair per experiment.

    Of several pairs, seed s trains on number s modulo their number.
    """
    if stated.space is None:
        choices = " or ".join(f"--space {name} ({text})" for name, text in SPACES.items())
        raise DataError([f"{path} does not state the space of its pixels; give {choices}."])
    if not 1 <= stated.factor <= (side := min(target.shape[1:])):
        raise DataError([f"--factor is {stated.factor}, expected 1 to {side}, the side of an image."])
    pairs = [_pair(path, entry, target, stated) for entry in _pairs(path, _loaded(path))]
    if len({(len(labels), labels.ndim) for _, labels in pairs}) > 1:
        raise DataError([f"{path}: its {len(pairs)} sets have different sizes or labels; save one of them alone."])
    total = sum(images.numel() for images, _ in pairs)
    _fits(path, 2 * FLOAT * total * stated.factor**2)  # once more while the pairs are joined
    form = MultiFormation(padding=_padding(target, stated))
    decoded = [uniform(images, form, stated.factor) for images, _ in pairs]
    labels = [labels[sources] for (_, labels), (_, sources) in zip(pairs, decoded, strict=True)]
    images = torch.cat([images for images, _ in decoded])
    tiles, is_stored = stated.factor**2, stated.space == UNIT
    return AnySet(TrainingSet(images, torch.cat(labels), draws=len(pairs), tiles=tiles, stored=is_stored))


def _padding(target: ImageSet, stated: Stated) -> tuple[float, ...]:
    return target.space.when_normalised(stated.space == NORMALISED).pixel_padding


def _loaded(path: Path) -> Any:
    if (size := path.stat().st_size) > (memory := memory_and_swap()):
        raise DataError([f"{path} has {size / 2**30:.0f} GiB, this machine has {memory / 2**30:.0f} GiB of memory."])
    try:
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(NUMBERS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the reader does not check what it reads, so that it may be of any kind
        only = "only tensors, lists, dicts and numbers are read"
        raise DataError([f"{path} cannot be read ({type(error).__name__}); {only}: save [images, labels]."]) from error


def _pairs(path: Path, content: Any) -> Sequence[Any]:
    if isinstance(content, dict) and isinstance(content.get(DATA), list) and content[DATA]:
        return content[DATA]
    if isinstance(content, list | tuple):
        return [content]
    raise DataError([f"{path} holds {type(content).__name__}, expected [images, labels]."])


def _pair(path: Path, entry: Any, target: ImageSet, stated: Stated) -> tuple[Tensor, Tensor]:
    if not isinstance(entry, list | tuple) or len(entry) != 2 or not all(map(torch.is_tensor, entry)):
        raise DataError([f"{path} holds {type(entry).__name__}, expected a pair of tensors, [images, labels]."])
    images, labels = (tensor.detach() for tensor in entry)
    if problem := next(_problems(images, labels, target), None) or misplaced(images, target, stated.space):
        raise DataError([f"{path}: {problem}."])
    return images.float(), labels.float() if labels.is_floating_point() else labels.long()


def _problems(images: Tensor, labels: Tensor, target: ImageSet) -> Iterator[str]:
    """Yield what is wrong with the tensors of a pair."""
    classes, memory = len(target.classes), memory_and_swap()
    if any(x.layout != torch.strided or x.is_meta or x.is_quantized for x in (images, labels)):
        yield "its tensors are sparse, quantised or without values"
        return
    if (needed := 4 * (images.numel() + labels.numel())) > memory:
        yield f"it needs {needed / 2**30:.0f} GiB, this machine has {memory / 2**30:.0f} GiB of memory"
        return
    if not images.is_floating_point() or images.shape[1:] != target.shape or not len(images):
        yield f"its images are {images.dtype} {list(images.shape)}, {_of_test(target)}; expected floats [N, C, H, W]"
    elif not images.isfinite().all():
        yield "a pixel is not a finite number"
    if labels.shape not in ((len(images),), (len(images), classes)) or labels.is_complex():
        yield f"its labels are {labels.dtype} {list(labels.shape)} for {len(images)} images of {classes} classes"
    elif labels.ndim == 2 and (not labels.is_floating_point() or improbable(labels.float()).any()):
        yield "its class probabilities are not from 0 with the sum 1"
    elif labels.ndim == 1 and (labels.is_floating_point() or labels.min() < 0 or labels.max() >= classes):
        yield f"its labels are not integers from 0 to {classes - 1}"
    elif labels.ndim == 1 and (lost := sorted({*range(classes)} - {*labels.tolist()})):
        yield f"it has no image of {listed([target.classes[label].name for label in lost])}"


READERS: list[tuple[Callable[[Path, ImageSet], bool], Callable[[Path, ImageSet, Stated], AnySet]]] = [
    (lambda path, target: _is_synthetic(path), _synthetic),
    (lambda path, target: _is_tensors(path), _tensors),
    (_has_classes, _folder),
    (lambda path, target: _is_table(path), _table),
    (lambda path, target: os.path.isdir(path), _folder),
]
"""Tests of what a path holds, in their order, and the readers."""
