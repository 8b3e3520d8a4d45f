"""IDX files are read as torchvision reads them, or refused by name before anything is allocated."""

import struct
from pathlib import Path

import pytest
import torch
from torchvision.datasets.mnist import read_image_file, read_label_file

from dist_condense.data import DataError
from dist_condense.data.sets import idx
from dist_condense.data.sets.idx import read_idx, read_labelled
from tests.data.sets.idx_cases import idx_file, write_fashion

HUGE = 10**9


def refusal(path: Path, *item: int) -> str:
    with pytest.raises(DataError) as caught:
        read_idx(path, item)
    [line] = caught.value.problems
    assert line.startswith(str(path)) and "\n" not in line
    return line


def test_the_values_are_those_of_torchvision(tmp_path: Path) -> None:
    raw = write_fashion(tmp_path)
    images, labels = raw / "train-images-idx3-ubyte", raw / "train-labels-idx1-ubyte"
    pixels, numbers = read_labelled(images, labels, 28, 10)
    assert torch.equal(pixels, read_image_file(str(images))[:, None]) and pixels.dtype == torch.uint8
    assert torch.equal(numbers, read_label_file(str(labels))) and numbers.dtype == torch.int64


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "this is not an IDX file of bytes in 3 dimensions"),
        (b"\0\0\x08\x03\0\0\0\x02", "this is not an IDX file of bytes in 3 dimensions"),
        (b"<html>Gateway Timeout</html>", "this is not an IDX file"),
        (idx_file((2, 2, 2), bytes(32), kind=13), "this is not an IDX file"),  # float
        (idx_file((2, 4), bytes(8)), "this is not an IDX file"),
        (idx_file((2, 1, 4), bytes(8)), "its items are 1 x 4, expected 2 x 2"),
        (idx_file((2, HUGE, HUGE), bytes(8)), "its items are 1000000000 x 1000000000, expected 2 x 2"),
        (idx_file((HUGE, 2, 2), bytes(8)), "its header states 1000000000 items, but it has 24 bytes"),
        (idx_file((2**32 - 1, 2, 2), bytes(8)), "its header states 4294967295 items"),
        (idx_file((2, 2, 2), bytes(7)), "its header states 2 items, but it has 23 bytes"),
        (idx_file((2, 2, 2), bytes(9)), "its header states 2 items, but it has 25 bytes"),
        (idx_file((0, 2, 2), b""), "its header states 0 items"),
    ],
)
def test_what_is_no_such_file(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "x").write_bytes(data)
    line = refusal(tmp_path / "x", 2, 2)
    assert reason in line and line.endswith("Replace it, or remove it and set dataset.download=true.")


def test_labels_that_do_not_belong_to_the_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "long", None)  # eight times the memory of the file
    images, labels = tmp_path / "i", tmp_path / "l"
    images.write_bytes(idx_file((3, 2, 2), bytes(12)))
    for numbers, reason in ((b"\0\1", "2 labels for the 3 images of i"), (b"\0\x0a\1", "label 10 at position 1")):
        labels.write_bytes(idx_file((len(numbers),), numbers))
        with pytest.raises(DataError, match=f"{labels}: .*{reason}"):
            read_labelled(images, labels, 2, 10)


def test_a_file_is_measured_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_bytes(idx_file((2, 2, 2), bytes(8)))
    monkeypatch.setattr(idx, "BYTES", 24)
    assert read_idx(tmp_path / "x", (2, 2)).shape == (2, 2, 2)
    monkeypatch.setattr(idx, "BYTES", 23)
    assert "cannot be read: 24 bytes, expected at most 23" in refusal(tmp_path / "x", 2, 2)


def test_the_header_is_big_endian(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(struct.pack(">BBBBI", 0, 0, 8, 1, 3) + b"\1\2\3")
    assert read_idx(tmp_path / "x").tolist() == [1, 2, 3]
