"""Headers of a local, uncompressed tar: ustar, with the extended headers of GNU tar (long names) and pax.

The standard library parses each block, but this module walks through the file, because ``tarfile`` keeps every header,
needs quadratic time for some damaged ones, and takes a damaged header in the middle of a file for its end.
"""

import errno
import os
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dist_condense.system.files import Descriptor

BLOCK = 512
MAX_EXTENDED = 2**16
"""Maximum size in bytes of an extended header, which precedes a member's own header."""
MAX_EXTENDED_PER_MEMBER = 16
MAX_PADDING = 2**30
"""Maximum number of zero bytes after the last member."""
_ZEROS = bytes(2**20)
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE)
Attributes = dict[str, str]
"""Attributes of a pax header that replace those of the member's own header."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A member of a tar, of any kind; offsets and sizes are in bytes."""

    name: str
    offset: int
    """Offset of its content."""
    size: int
    is_file: bool
    """Whether it is a regular file, and not sparse."""
    is_folder: bool


class DamagedTar(Exception):
    """Error for a file that is not a whole, uncompressed tar."""


def members(path: Path) -> Iterator[Member]:
    """Yield the members of a tar in order; only headers are read.

    Raises OSError, and DamagedTar for a file that is empty or truncated, for an invalid header, for a member of
    negative size or beyond the end of the file, and for anything but zeros after the last member.
    """
    file, position = Descriptor(path), 0
    status = os.fstat(file.number)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    size = status.st_size
    while any(block := os.pread(file.number, BLOCK, position)):
        member, position = _member(file.number, block, position, size)
        yield member
    if len(block) < BLOCK:
        raise DamagedTar("it is truncated: its end mark is missing" if size else "it is empty")
    _check_padding(file.number, position, size)


def _member(file: int, block: bytes, position: int, size: int) -> tuple[Member, int]:
    """Parse a header with the extended headers before it; return its member, and the position of the next header."""
    attributes: Attributes = {}
    for _ in range(MAX_EXTENDED_PER_MEMBER + 1):
        header = _parsed(block)
        position += BLOCK
        if header.type == tarfile.GNUTYPE_SPARSE:
            position = _end_of_map(file, block, position)
        if header.type not in (*_PAX, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
            return _with_attributes(header, attributes, position, size)
        if not 0 <= header.size <= MAX_EXTENDED:
            raise DamagedTar(f"an extended header of {header.size} bytes, which may have {MAX_EXTENDED}")
        content = os.pread(file, header.size, position)
        attributes = _attributes(header.type, content) | attributes  # the first wins, as in tarfile
        position += _padded(header.size)
        block = os.pread(file, BLOCK, position)
    raise DamagedTar(f"more than {MAX_EXTENDED_PER_MEMBER} extended headers for one member")


def _end_of_map(file: int, block: bytes, position: int) -> int:
    """Return the position after the blocks that continue the header of a sparse file, which is refused later."""
    is_continued = block[482] > 0
    while is_continued:
        block = os.pread(file, BLOCK, position)
        position += BLOCK
        is_continued = len(block) == BLOCK and block[504] > 0
    return position


def _parsed(block: bytes) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise DamagedTar(str(error)) from error


def _with_attributes(header: tarfile.TarInfo, attributes: Attributes, position: int, size: int) -> tuple[Member, int]:
    name = attributes.get("path", header.name)
    length = _number(attributes["size"]) if "size" in attributes else header.size
    if length < 0:
        raise DamagedTar(f"{name!r:.200} has a negative size")
    is_file = header.isreg() and header.type != tarfile.GNUTYPE_SPARSE and not _is_sparse(attributes)
    has_content = header.isreg() or header.type not in tarfile.SUPPORTED_TYPES  # a link's size means nothing
    end = position + (_padded(length) if has_content else 0)
    if end > size:
        raise DamagedTar(f"{name!r:.200}, of {length} bytes, ends beyond the file")
    return Member(name=name, offset=position, size=length, is_file=is_file, is_folder=header.isdir()), end


def _attributes(kind: bytes, content: bytes) -> Attributes:
    """Return the attributes of an extended header.

    Raises DamagedTar for an invalid one, and for a global one that would name or measure all members.
    """
    if kind == tarfile.GNUTYPE_LONGLINK:
        return {}
    if kind == tarfile.GNUTYPE_LONGNAME:
        return {"path": _text(content.partition(b"\0")[0])}
    attributes = dict(_pax_records(content))
    if kind != tarfile.XGLTYPE:
        return attributes
    if attributes.keys() & {"path", "size"} or _is_sparse(attributes):
        raise DamagedTar("a global header gives all members one name or size")
    return {}


def _is_sparse(attributes: Attributes) -> bool:
    return any(key.startswith("GNU.sparse.") for key in attributes)


def _pax_records(content: bytes) -> Iterator[tuple[str, str]]:
    """Yield the records ``LENGTH KEY=VALUE`` of a pax header, each of which ends with a newline."""
    start = 0
    while start < len(content) and content[start]:
        length = _number(_text(content[start : start + 8].partition(b" ")[0]))
        record = content[start : start + length]
        key, equals, value = record.partition(b" ")[2].partition(b"=")
        if not (equals and key and value.endswith(b"\n") and len(record) == length):
            raise DamagedTar("a pax header with an invalid record")
        yield _text(key), _text(value[:-1])
        start += length


def _number(text: str) -> int:
    if not (text.isascii() and text.lstrip("-").isdigit() and len(text) <= 20):
        raise DamagedTar(f"a pax header with {text!r:.40} for a size")
    return int(text)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _check_padding(file: int, position: int, size: int) -> None:
    """Check that only zeros follow the end mark at ``position``. Raises DamagedTar."""
    if size - position > MAX_PADDING:
        raise DamagedTar(f"{size - position} bytes follow its last member, more than {MAX_PADDING}")
    while block := os.pread(file, len(_ZEROS), position):
        if block != _ZEROS[: len(block)]:
            raise DamagedTar("what follows is neither a member nor the end")
        position += len(block)
