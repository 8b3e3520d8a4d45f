"""Labels as data sets store them, integers or names of classes, and the positions of their classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from dist_condense.data.sets.listing import is_utf8
from dist_condense.system.errors import DataError, listed


def of_classes(
    stored: Mapping[str, np.ndarray], names: Sequence[str] | None, where: str
) -> tuple[tuple[str, ...], list[torch.Tensor]]:
    """Return the names of all classes, and for each split the position of each image's class in them, int64 ``[N]``.

    Without ``names``, the classes are the sorted labels of the first split, and a label is the name of its class.

    :param stored: labels of each split, integers or texts ``[N]``, by the split's name.
    :param names: name of the class of each label, from 0.
    :raises DataError: a label has no name, or names are empty, not in UTF-8 or occur more than once.
    """
    first, *_ = stored.values()
    is_text = first.dtype.kind == "U"
    if names is None or is_text:
        values = np.unique(first)
        names = [str(value) for value in values.tolist()]
    else:
        values = np.arange(len(names))
    if len(set(names)) < len(names) or not all(name and is_utf8(name) for name in names):
        problem = "names of classes are empty, no text in UTF-8, or occur more than once"
        raise DataError([f"{where}: {problem}: {listed(names)}."])
    return tuple(names), [_positions(values, labels, f"{where}: {split}") for split, labels in stored.items()]


def _positions(values: np.ndarray, labels: np.ndarray, where: str) -> torch.Tensor:
    """Return the position in the sorted ``values`` of each label."""
    if (labels.dtype.kind == "U") != (values.dtype.kind == "U"):
        raise DataError([f"{where}: the labels are not of the type of the training images' labels."])
    if not len(values):
        raise DataError([f"{where}: there are no classes."])
    positions = np.searchsorted(values, labels).clip(max=len(values) - 1)
    is_unknown = values[positions] != labels
    if is_unknown.any():
        unknown = listed(np.unique(labels[is_unknown]).astype(str).tolist())
        raise DataError([f"{where}: labels of {is_unknown.sum():,} images are no class: {unknown}."])
    return torch.from_numpy(positions.astype(np.int64))
