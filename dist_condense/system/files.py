"""Local files: reading of regular files, atomic writes, hashes, and open descriptors."""

import errno
import hashlib
import os
import re
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

PATH_LENGTH = 1024
"""Maximum length of an untrusted path."""
_REFUSED = re.compile(r"[\x00-\x1f\x7f\\]")


def stays_below(name: str) -> bool:
    """Return whether an untrusted relative path with ``/`` as separator stays below its folder.

    A path with control characters, or of more than 1024 characters, is refused as well.
    """
    return len(name) <= PATH_LENGTH and not ({"", ".", ".."} & set(name.split("/")) or _REFUSED.search(name))


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it contains either all of ``data`` or its old content, even if the process is killed.

    A symbolic link at ``path`` is replaced, not followed. On failure, for example on a full disk, the temporary file is
    removed, and the OSError names ``path``.
    """
    stream = temporary_beside(path)
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
        if isinstance(error, OSError):  # a failed write has no file name, a failed rename has two
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def temporary_beside(path: Path) -> BinaryIO:
    """Create and open ``.NAME.RANDOM.tmp`` beside ``path``, which the caller renames to ``path``.

    Raises OSError, with ``path`` as its file, rather than opening an existing file or a link.
    """
    try:
        return open(path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp"), "xb", opener=_unfollowed)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _unfollowed(name: str, flags: int) -> int:
    return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)


def read_regular(path: Path, limit: int | None = None, first: int = -1) -> bytes:
    """Read all bytes of a regular file, or at most the first ``first`` bytes; links are followed.

    Raises OSError as :func:`open_regular`.

    :param first: number of bytes; -1 for all.
    """
    with open_regular(path, limit) as stream:
        return stream.read(first)


def open_regular(path: Path | str, limit: int | None = None) -> BinaryIO:
    """Open a regular file for reading; links are followed.

    Raises OSError for a folder, a named pipe or a device, and for a file of more than ``limit`` bytes.
    """
    stream = open(path, "rb", opener=_unblocked)
    try:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        if limit is not None and status.st_size > limit:
            raise OSError(errno.EFBIG, f"{status.st_size} bytes, expected at most {limit}", str(path))
    except OSError:
        stream.close()
        raise
    return stream


def _unblocked(name: str, flags: int) -> int:
    """Open a file without blocking, because a named pipe would wait for its writer."""
    return os.open(name, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def flush(path: Path) -> None:
    """Flush a file to the disk, so that a power cut after a rename does not leave an empty file."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_names(folder: Path) -> None:
    """Flush the directory entries of a folder to the disk, if its file system supports it."""
    with suppress(OSError):
        flush(folder)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class Descriptor:
    """File descriptor for ``os.pread``, closed when the last reference to this object is gone."""

    def __init__(self, path: Path) -> None:
        self.number = _unblocked(str(path), os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)
