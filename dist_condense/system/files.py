"""Local files: read where they are regular, written whole or not at all, hashed, held open."""

import errno
import hashlib
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO


def stays_below(name: str) -> bool:
    """Whether a relative path with ``/``, of a file that others may have made, leads to no place but below its
    folder."""
    return not ({"", ".", ".."} & set(name.split("/")) or "\\" in name or "\0" in name)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that, whenever the process ends, it holds either all of `data` or what it held before.

    A link of its name is replaced. Where it fails (a full disk), what was begun is removed, and the OSError names the
    file.
    """
    stream = begun(path)
    writing = Path(stream.name)
    try:
        with stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(writing, path)
    except BaseException as error:
        with suppress(OSError):
            writing.unlink()
        if isinstance(error, OSError):  # that of a write names no file, that of a rename two
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def begun(path: Path) -> BinaryIO:
    """A new file beside `path`, ``.NAME.RANDOM.tmp``, that is to take its name. Never what somebody else has put there,
    such as a link to a file of ours.
    """
    try:
        return open(path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp"), "xb", opener=_unfollowed)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _unfollowed(name: str, flags: int) -> int:
    return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)


def read_regular(path: Path, limit: int | None = None, first: int = -1) -> bytes:
    """All bytes of a regular file, which a link may lead to, or at most the `first` ones. OSError for a folder, a named
    pipe or a device, which are not read from, and for a file of more bytes than `limit`.
    """
    with open(path, "rb", opener=_unblocked) as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        if limit is not None and status.st_size > limit:
            raise OSError(errno.EFBIG, f"{status.st_size} bytes, expected at most {limit}", str(path))
        return stream.read(first)


def _unblocked(name: str, flags: int) -> int:
    """Without waiting for a writer of a named pipe."""
    return os.open(name, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def flush(path: Path) -> None:
    """To the disk, so that a power cut after a rename does not leave an empty file."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_names(folder: Path) -> None:
    """What a folder holds, where its file system can."""
    with suppress(OSError):
        flush(folder)


def sha256_of(path: Path) -> str:
    """The hash of a file's bytes, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class Descriptor:
    """A file open for os.pread; closed when nobody refers to it any more."""

    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)
