"""Door: files of tensors, damaged at random."""

import io
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from hypothesis import strategies as st

from dist_condense.data import DataError, open_dataset
from dist_condense.job.any_set import Stated, read
from tests.doors.fuzzing import door, fuzz, mutated_bytes

X, Y = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(10).repeat(2)


def saved(content: Any, **how: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, **how)
    return stream.getvalue()


PAIR = [X, Y]
MADE = [
    saved(PAIR),
    saved({"data": [PAIR, PAIR]}),
    saved(PAIR, _use_new_zipfile_serialization=False),
]
"""What the published programs write, also with old versions of torch."""
DIGITS = open_dataset("digits", None)


@fuzz(st.one_of(*map(mutated_bytes, MADE)), examples=400)
def test_files_of_tensors(content: bytes) -> None:
    """Whatever is accepted has finite images of the test images' shape and their labels; others are named."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "made.pt"
        file.write_bytes(content)
        with door(DataError) as answer:
            images = read(file, DIGITS, Stated(space="unit")).images
            assert images.images.shape[1:] == DIGITS.shape and images.images.isfinite().all()
            assert len(images.images) == len(images.labels) > 0 and images.labels.max() < 10
        for line in answer.lines or []:
            assert str(file) in line, line
