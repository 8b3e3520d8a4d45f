"""Reader of .npz files: what it maps, what it loads, and what it refuses."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.lib import format as npy

from dist_condense.data.sets import npz
from dist_condense.system.errors import DataError

VALUES = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "made.npz"


def test_arrays_are_mapped_where_they_are_not_compressed(file: Path) -> None:
    np.savez(file, a=VALUES, b=np.arange(5))
    found = npz.arrays(file)
    assert list(found) == ["a", "b"] and found["a"].shape == (2, 3, 4) and found["b"].dtype == np.int64
    mapped = found["a"].read()
    assert isinstance(mapped, np.memmap) and np.array_equal(mapped, VALUES)
    mapped[0] = -1  # in memory only
    assert np.array_equal(npz.arrays(file)["a"].read(), VALUES)


def test_compressed_and_transposed_arrays_are_loaded(file: Path) -> None:
    np.savez_compressed(file, a=VALUES, f=np.asfortranarray(VALUES), big=VALUES.astype(">f8"))
    for stored in npz.arrays(file).values():
        assert not isinstance(stored.read(), np.memmap) and np.array_equal(stored.read(), VALUES)
    np.savez(file, f=np.asfortranarray(VALUES))
    assert npz.arrays(file)["f"].start is None and np.array_equal(npz.arrays(file)["f"].read(), VALUES)


def test_the_checksum_changes_with_values_and_type(file: Path) -> None:
    np.savez(file, a=VALUES, same=VALUES.copy(), other=VALUES + 1, wide=VALUES.astype(np.float64))
    sums = {name: stored.checksum for name, stored in npz.arrays(file).items()}
    assert sums["a"] == sums["same"] and len(set(sums.values())) == 3


@pytest.mark.parametrize("shape", [(0,), (0, 3), ()])
def test_empty_arrays_and_single_values(file: Path, shape: tuple[int, ...]) -> None:
    np.savez(file, a=np.zeros(shape))
    assert npz.arrays(file)["a"].read().shape == shape


def member(header: bytes, data: bytes = b"") -> bytes:
    return npy.magic(1, 0) + len(header).to_bytes(2, "little") + header + data


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (member(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n", b"cos\nsystem\n"), "Python objects"),
        (member(b"{'descr': '<f4', 'fortran_order': False, 'shape': (9,), }\n", bytes(8)), "its header states"),
        (member(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -1), }\n", bytes(4)), "shape"),
        (member(b"not a dict\n"), "not an intact .npz file"),
        (b"\x93NUMPY\x09\x00", "version"),
        (b"", "not an intact .npz file"),
    ],
)
def test_damaged_arrays_are_refused_with_the_name_of_the_file(file: Path, content: bytes, problem: str) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.npy", content)
    with pytest.raises(DataError, match=problem) as refusal:
        npz.arrays(file)
    assert str(file) in str(refusal.value) and len(refusal.value.problems) == 1


def test_other_files_are_refused(file: Path, tmp_path: Path) -> None:
    for content in (b"", b"PK\3\4", b"<html>"):
        file.write_bytes(content)
        with pytest.raises(DataError, match="not an intact"):
            npz.arrays(file)
    with pytest.raises(DataError, match="cannot be read"):
        npz.arrays(tmp_path / "none.npz")
    with pytest.raises(DataError, match="cannot be read"):
        npz.arrays(tmp_path)


def test_a_bomb_is_refused_before_it_is_unpacked(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(file, a=np.zeros(2**20, np.uint8))
    stored = npz.arrays(file)["a"]
    monkeypatch.setattr(npz, "memory_and_swap", lambda: 2**20 - 1)
    with pytest.raises(DataError, match="without compression"):
        stored.read()


def test_a_file_that_was_cut_is_refused(file: Path) -> None:
    np.savez(file, a=VALUES)
    stored = npz.arrays(file)["a"]
    file.write_bytes(file.read_bytes()[: stored.start + 8])
    with pytest.raises(DataError, match="not an intact"):
        stored.read()


def test_damaged_values_of_a_compressed_array_are_noticed(file: Path) -> None:
    stream = io.BytesIO()
    np.savez_compressed(stream, a=np.random.default_rng(0).integers(0, 255, 4096, dtype=np.uint8))
    content = bytearray(stream.getvalue())
    content[2000] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match="not an intact"):
        npz.arrays(file)["a"].read()
