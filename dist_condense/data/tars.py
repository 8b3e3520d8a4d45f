"""What a local, uncompressed tar of samples holds, by its headers alone.

A sample is a run of members that share a key (the name up to the first dot of its last part, as WebDataset has it):
one image, and perhaps its label in `.cls`. All other members are passed over and never read.
"""

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from dist_condense.data.errors import SHOWN, DataError

IMAGES = ("jpg", "jpeg", "png", "ppm", "bmp", "pgm", "tif", "tiff", "webp", "gif")
LABEL = "cls"
MAX_MEMBER = 64 * 2**20
MAX_LABEL_BYTES = 12
MAX_EXTENDED = 2**16
"""Bytes of a header that precedes a member's own (a long name, pax)."""
BLOCK = 512
_EXTENDED = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
_KEYED = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)")


@dataclass(frozen=True)
class Sample:
    """An image in a tar; offsets and lengths are bytes of the tar."""

    key: str
    member: str
    offset: int
    length: int
    label: tuple[int, int] | None
    """Offset and length of its `.cls` member."""


class _Header(tarfile.TarInfo):
    """A header as tarfile has it, which however reads an extended one into memory whatever its size."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        header = super().frombuf(buf, encoding, errors)
        if header.type in _EXTENDED and not 0 <= header.size <= MAX_EXTENDED:
            raise tarfile.ReadError(f"an extended header of {header.size} bytes, which may have {MAX_EXTENDED}")
        return header


def index_tar(path: Path) -> list[Sample]:
    """The samples of a tar in order.

    Raises DataError naming file and member: truncated or no tar, members that are no regular files (folders are
    passed over), are larger than 64 MiB or have no name, an absolute one or `..`, keys that come twice, labels
    without image.
    """
    drafts: dict[str, dict[str, tarfile.TarInfo]] = {}
    problems: list[str] = []
    last = None
    for info in _headers(path, problems):
        what = _member_problem(info) or _add(drafts, last, info)
        if what:
            problems.append(f"{path}: {info.name!r:.200} {what}")
        last = _key_and_kind(info)[0]
    bare = [key for key, parts in drafts.items() if "image" not in parts]
    problems += [f"{path}: {key!r:.200} has a label but no image ({', '.join(IMAGES)})." for key in bare]
    if problems:
        more = len(problems) - SHOWN
        raise DataError(problems[:SHOWN] + ([f"... and {more} more problems in {path}."] if more > 0 else []))
    return [_sample(key, parts) for key, parts in drafts.items()]


def read_labels(path: Path, samples: list[Sample]) -> list[int]:
    """The number in each sample's `.cls`; DataError naming the samples that have none."""
    problems: list[str] = []
    labels = []
    with path.open("rb") as stream:
        for sample in samples:
            offset, length = sample.label or (0, 0)
            stream.seek(offset)
            text = stream.read(min(length, MAX_LABEL_BYTES + 1)).strip()
            if text.isdigit() and len(text) <= MAX_LABEL_BYTES:
                labels.append(int(text))
            elif len(problems) < SHOWN:
                problems.append(f"{path}: {sample.key!r:.200} has no member .{LABEL} with its label as a number.")
    if problems:
        raise DataError(problems)
    return labels


def _headers(path: Path, problems: list[str]) -> Iterator[tarfile.TarInfo]:
    """Every header; what is wrong with the tar as such ends it."""
    end, last = 0, "its start"
    try:
        with tarfile.open(path, "r:", tarinfo=_Header) as tar:
            while (info := tar.next()) is not None:
                if info.size < 0:
                    raise tarfile.TarError(f"{info.name!r:.200} has a negative size")
                end = info.offset_data + (-(-info.size // BLOCK) * BLOCK if info.isreg() else 0)
                last = repr(info.name)
                yield info
        _check_end(path, end)
    except (tarfile.TarError, OSError, ValueError, EOFError, RecursionError) as reason:
        problems.append(
            f"{path}: no whole, uncompressed tar, from {last:.200} on ({reason}). Copy or make the file again."
        )


def _check_end(path: Path, end: int) -> None:
    """tarfile takes a torn or foreign header for the end; only zeros, one block at least, are the end."""
    with path.open("rb") as stream:
        stream.seek(end)
        if len(block := stream.read(BLOCK)) < BLOCK:
            raise tarfile.TarError("it is truncated: its end mark is missing")
        while block:
            if block.count(0) != len(block):
                raise tarfile.TarError("what follows is neither a member nor the end")
            block = stream.read(2**20)


def _member_problem(info: tarfile.TarInfo) -> str | None:
    if info.name.startswith("/") or ".." in info.name.split("/"):
        return "is an absolute name or has '..'; make the tar from relative names."
    if info.isdir():
        return None
    if not info.isreg() or info.issparse():
        return "is no regular file (a link, a device or a sparse file); make the tar of plain files."
    if not info.name:
        return "is a member without a name; name every member."
    if info.size > MAX_MEMBER:
        return f"has {info.size} bytes, more than {MAX_MEMBER}; an image is smaller."
    return None


def _key_and_kind(info: tarfile.TarInfo) -> tuple[str | None, str | None]:
    """The key, and "image" or "cls"; None for what is passed over."""
    found = _KEYED.fullmatch(info.name)
    if info.isdir() or found is None:
        return None, None
    suffix = found[2].lower()
    kind = "image" if suffix in IMAGES else LABEL if suffix == LABEL else None
    return found[1], kind


def _add(drafts: dict[str, dict[str, tarfile.TarInfo]], last: str | None, info: tarfile.TarInfo) -> str | None:
    """Put the member to its sample; what is wrong with that."""
    key, kind = _key_and_kind(info)
    if key is None or kind is None:
        return None
    if kind in drafts.get(key, ()) or (key in drafts and key != last):
        return "has a key that comes twice; every sample needs its own."
    drafts.setdefault(key, {})[kind] = info
    return None


def _sample(key: str, parts: dict[str, tarfile.TarInfo]) -> Sample:
    image, label = parts["image"], parts.get(LABEL)
    where = None if label is None else (label.offset_data, label.size)
    return Sample(key, image.name, image.offset_data, image.size, where)
