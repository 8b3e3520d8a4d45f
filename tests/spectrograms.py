"""A data set like no other: float "spectrograms" [1, 16, 40] with values from 0 up, loud in rows of their class."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dist_condense.data import catalogue
from dist_condense.data.image_set import Facts, ImageSet
from dist_condense.data.reading.source import LabelledImages
from dist_condense.data.sets.arrays import from_arrays
from dist_condense.data.sets.request import Request

NAMES = ("yes", "no", "stop")
SHAPE = (1, 16, 40)
FACTS = Facts(
    channels=1,
    size=16,
    mean=(0.0,),
    std=(1.0,),
    flip=False,
    family="made up spectrograms",
    own=True,
    width=40,
    floats=True,
    upper=None,
    padding=0.0,
)


def made(per_class: int, seed: int) -> LabelledImages:
    """Exponential noise, ten times as loud in five rows of each class."""
    noise = torch.rand(len(NAMES), per_class, *SHAPE, generator=torch.Generator().manual_seed(seed))
    values = -torch.log1p(-noise)
    for label, of_class in enumerate(values):
        of_class[:, :, 5 * label : 5 * label + 5] *= 10
    return LabelledImages(values.flatten(0, 1), torch.arange(len(NAMES)).repeat_interleave(per_class))


def opened(request: Request) -> ImageSet:
    """What the catalogue calls."""
    return from_arrays(request, FACTS, made(20, 1), made(10, 2), NAMES)


def known(patch: pytest.MonkeyPatch) -> None:
    """The line of the catalogue by which a data set is added."""
    patch.setitem(catalogue.KNOWN, "spectrograms", catalogue.Known(FACTS, opened))


def training_values() -> Tensor:
    """[N, 1, 16, 40]"""
    return made(20, 1).images
