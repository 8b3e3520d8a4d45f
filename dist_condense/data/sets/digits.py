"""scikit-learn's handwritten digits: 1797 images of 8x8 pixels that need no download."""

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from dist_condense.data.image_set import Facts, ImageSet, Licence
from dist_condense.data.reading.source import LabelledImages
from dist_condense.data.sets.arrays import from_arrays
from dist_condense.data.sets.request import Request

DIGITS = Facts(
    channels=1,
    size=8,
    mean=(0.3052,),  # over all pixels of the training images, see tests/data/sets/test_digits.py
    std=(0.3760,),
    flip=False,
    family="handwritten digits (UCI, scikit-learn)",
    # archive.ics.uci.edu/dataset/80
    licence=Licence("CC-BY-4.0", "The UCI Machine Learning Repository distributes the images under CC BY 4.0."),
)
LEVELS = 16
"""Largest stored value; values are 0..16."""
FILE = "datasets/data/digits.csv.gz"
"""File in scikit-learn's package, one image per row: 64 values, then the label. It is read directly, because importing
scikit-learn takes two seconds in each process of a run."""
TEST_EVERY = 5
"""Stride of test images: the last of every five images of a class is a test image."""


def open_digits(request: Request) -> ImageSet:
    """Open the digits with their fixed split; `root` and `download` are not used."""
    spec = find_spec("sklearn")  # found, not imported
    assert spec is not None and spec.origin is not None
    with gzip.open(Path(spec.origin).parent / FILE) as file:
        rows = np.loadtxt(file, delimiter=",")
    images = torch.from_numpy(rows[:, :-1].reshape(-1, 1, 8, 8) * 255 / LEVELS).round().to(torch.uint8)
    labels = torch.from_numpy(rows[:, -1]).long()
    held_out = _rank_in_class(labels) % TEST_EVERY == TEST_EVERY - 1
    train = LabelledImages(images[~held_out], labels[~held_out])
    test = LabelledImages(images[held_out], labels[held_out])
    return from_arrays(request, DIGITS, train=train, test=test, names=tuple(str(digit) for digit in range(10)))


def _rank_in_class(labels: torch.Tensor) -> torch.Tensor:
    """Return, for every image, the number of earlier images of its class, int64 [N]."""
    rank = torch.empty_like(labels)
    for label in range(10):
        members = (labels == label).nonzero().flatten()
        rank[members] = torch.arange(len(members))
    return rank
