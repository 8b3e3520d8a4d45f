"""Reader of .npz files, NumPy's archives of named arrays, which are memory-mapped where they are not compressed."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from dist_condense.system.errors import DataError
from dist_condense.system.files import open_regular
from dist_condense.system.memory import memory_and_swap

ENDING = ".npy"
"""Ending of the name of each member of the archive."""
MEMBERS = 1000
"""Largest number of members of an archive."""
REMEDY = "Write the file again, with numpy.savez"
_LOCAL = struct.Struct("<4s22xHH")
"""Local header of a member: its signature, and the lengths of its name and of its extra field."""
_READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


@dataclass(frozen=True, kw_only=True)
class StoredArray:
    """An array of an archive, which is not read before :meth:`read`."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    checksum: int
    """CRC-32 of the member, by the archive's directory; it changes with the values, the shape and the type."""
    start: int | None
    """Position in the file of the first value, if values are stored in C order without compression; None otherwise."""

    @property
    def bytes(self) -> int:
        """Size in bytes of all values."""
        return prod(self.shape) * self.dtype.itemsize

    @property
    def identity(self) -> tuple[tuple[int, ...], str, int]:
        """Shape, type and checksum, which tell arrays apart without reading them."""
        return self.shape, self.dtype.str, self.checksum

    def read(self) -> np.ndarray:
        """Return the array: memory-mapped, so that only the values in use are read, or else in memory.

        Changes to the array are not written to the file.

        :raises DataError: the file was cut or damaged, or this machine has less memory than the array needs.
        """
        if self.start is not None and self.bytes:
            with _refusals(self.file):
                return np.memmap(self.file, self.dtype, mode="c", offset=self.start, shape=self.shape)
        if self.bytes > (memory := memory_and_swap()):
            sizes = f"{self.bytes / 2**30:.1f} GiB, this machine has {memory / 2**30:.1f}"
            raise refused(self.file, f"{self.name} needs {sizes}; without compression it would be read in parts")
        with _refusals(self.file), _archive(self.file) as archive, archive.open(self.name + ENDING) as member:
            return npy.read_array(member, allow_pickle=False)


def arrays(file: Path) -> dict[str, StoredArray]:
    """Return the arrays of an .npz file by name; only the headers are read.

    :raises DataError: the file cannot be read, is not an .npz file, or contains objects, which would be unpickled.
    """
    with _refusals(file), _archive(file) as archive:
        members = [member for member in archive.infolist() if member.filename.endswith(ENDING)]
        if len(members) > MEMBERS:
            raise refused(file, f"it has {len(members)} arrays, more than {MEMBERS}")
        return {entry.name: entry for entry in (_entry(file, archive, member) for member in members)}


def refused(file: Path, problem: str) -> DataError:
    """Return the error for a file that is not what it should be."""
    return DataError([f"{file}: {problem}. {REMEDY}."])


def _entry(file: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> StoredArray:
    name = member.filename.removesuffix(ENDING)
    with archive.open(member) as stream:
        version = npy.read_magic(stream)
        if version not in _READERS:
            raise ValueError(f"{name:.80} is stored in version {version} of the format, which is not read")
        shape, is_fortran, dtype = _READERS[version](stream)
        header = stream.tell()
    if min(shape, default=0) < 0:
        raise ValueError(f"{name:.80} has the shape {shape}")
    if dtype.hasobject:
        raise ValueError(f"{name:.80} contains Python objects, which are not read; store numbers")
    size = prod(shape) * dtype.itemsize
    if header + size != member.file_size:
        raise ValueError(f"{name:.80} has {member.file_size} bytes, its header states {header + size}")
    is_mapped = member.compress_type == zipfile.ZIP_STORED and not is_fortran
    return StoredArray(
        file=file,
        name=name,
        shape=shape,
        dtype=dtype,
        checksum=member.CRC,
        start=_data_of(file, member) + header if is_mapped else None,
    )


def _data_of(file: Path, member: zipfile.ZipInfo) -> int:
    """Return the position in the file at which the data of a member begin."""
    with open_regular(file) as stream:
        stream.seek(member.header_offset)
        _, name, extra = _LOCAL.unpack(stream.read(_LOCAL.size))
    return member.header_offset + _LOCAL.size + name + extra


@contextmanager
def _archive(file: Path) -> Iterator[zipfile.ZipFile]:
    with open_regular(file) as stream, zipfile.ZipFile(stream) as archive:
        yield archive


@contextmanager
def _refusals(file: Path) -> Iterator[None]:
    """Raise DataError, which names the file, for an error of reading within the context."""
    try:
        yield
    except OSError as error:
        raise refused(file, f"it cannot be read ({error.strerror or error})") from error
    except MemoryError as error:
        raise refused(file, "it needs more memory than there is") from error
    except Exception as error:  # damaged archives: zipfile, zlib, struct and NumPy raise any exception
        if isinstance(error, DataError):
            raise
        raise refused(file, f"it is not an intact .npz file ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]
