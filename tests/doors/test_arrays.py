"""Door: .npz files, damaged at random."""

import io
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from hypothesis import strategies as st

from dist_condense.data import DataError, open_dataset
from tests.doors.fuzzing import door, fuzz, mutated_bytes

X = np.random.default_rng(0).integers(0, 256, (12, 4, 4, 3), dtype=np.uint8)
Y = np.arange(12) % 3


def saved(compressed: bool) -> bytes:
    stream = io.BytesIO()
    names = np.array(["a", "b", "c"])
    save = np.savez_compressed if compressed else np.savez
    save(stream, train_images=X, train_labels=Y, test_images=X, test_labels=Y, classes=names)
    return stream.getvalue()


MADE = [saved(False), saved(True)]


@fuzz(st.one_of(*map(mutated_bytes, MADE)), examples=400)
def test_npz_files(content: bytes) -> None:
    """Whatever is accepted has the images that it states; whatever is refused is named."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "made.npz"
        file.write_bytes(content)
        with door(DataError) as answer:
            opened = open_dataset("arrays", file)
            source, test = opened.train(), opened.test()
            for label, count in enumerate(opened.counts):
                images = source.get(label, torch.arange(count))
                assert count and (images.dtype, images.shape) == (opened.stored, (count, *opened.shape))
            assert len(test.labels) == sum(opened.test_split.counts)
        for line in answer.lines or []:
            assert str(file) in line or line.startswith("arrays:"), line
