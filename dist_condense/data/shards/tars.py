"""What a local, uncompressed tar of samples holds, by its headers alone.

A sample is a run of members that share a key, as WebDataset has it: the name up to the first dot of its last part. What
follows that dot says what a member is, in any case of letters: `jpg` (png, ...) is the image and `cls` the label; where
a sample has none that is called just so, the one whose last part is (`a.crop.jpg`), as WebDataset's decoders take it.
All other members are passed over and never read.
"""

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from dist_condense.data.sets.listing import ENDINGS, HIDDEN, PassedOver, ending
from dist_condense.system.errors import SHOWN, DataError, listed

IMAGE, LABEL = "image", "cls"
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
_META = re.compile(r"__[^/]*__(/.*)?", re.DOTALL)
"""Members that WebDataset keeps for itself."""
METADATA, FURTHER = "of WebDataset's metadata", "further images or labels of a sample"

Draft = dict[str, dict[str, tarfile.TarInfo]]
"""Of a sample: the members that are an image, and those that are a label, by what follows the key."""


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
    """The samples of a tar in order; see :func:`scan_tar`."""
    return scan_tar(path)[0]


def scan_tar(path: Path) -> tuple[list[Sample], PassedOver]:
    """The samples of a tar in order, and what was passed over.

    Raises DataError naming file and member: truncated or no tar, members that are no regular files (folders are
    passed over), are larger than 64 MiB or have no name, an absolute one or `..`, keys that come twice, samples in
    which it is open which image or label is meant, labels without image.
    """
    drafts: dict[str, Draft] = {}
    passed = PassedOver()
    problems: list[str] = []
    last = None
    for info in _headers(path, problems):
        what = _member_problem(info)
        if what is None and not info.isdir():
            key, suffix = key_and_suffix(info.name)
            what = _add(drafts, last, key, suffix, info, passed)
            last = key or last
        if what:
            problems.append(f"{path}: {info.name!r:.200} {what}")
    samples = [_sample(path, key, draft, passed, problems) for key, draft in drafts.items()]
    if problems:
        more = len(problems) - SHOWN
        raise DataError(problems[:SHOWN] + ([f"... and {more} more problems in {path}."] if more > 0 else []))
    return [sample for sample in samples if sample is not None], passed


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


def key_and_suffix(name: str) -> tuple[str | None, str]:
    """What a member belongs to and what it is in lower case, by WebDataset's rule; no key for what it passes over.

    Hidden files (`d/.a.jpg`) have none, where WebDataset makes one sample `d/` of them.
    """
    found = None if _META.fullmatch(name) else _KEYED.fullmatch(name)
    return (found[1], found[2].lower()) if found else (None, "")


def _add(
    drafts: dict[str, Draft], last: str | None, key: str | None, suffix: str, info: tarfile.TarInfo, passed: PassedOver
) -> str | None:
    """Put the member to its sample; what is wrong with that."""
    final = suffix.rsplit(".", 1)[-1]
    kind = IMAGE if final in ENDINGS else LABEL if final == LABEL else None
    if key is None or kind is None:
        base = info.name.rsplit("/", 1)[-1]
        passed[METADATA if _META.fullmatch(info.name) else HIDDEN if base.startswith(".") else ending(base)] += 1
        return None
    draft = drafts.setdefault(key, {IMAGE: {}, LABEL: {}})
    second = suffix in draft[kind] or ("." not in suffix and any("." not in other for other in draft[kind]))
    if second or (key != last and any(draft.values())):
        return "has a key that comes twice; every sample needs its own."
    draft[kind][suffix] = info
    return None


def _sample(path: Path, key: str, draft: Draft, passed: PassedOver, problems: list[str]) -> Sample | None:
    """The sample of a draft; None where it has a problem."""
    image, label = (_meant(draft[kind], passed) for kind in (IMAGE, LABEL))
    for members, meant in ((draft[IMAGE], image), (draft[LABEL], label)):
        if len(members) > 1 and meant is None:
            names = listed([info.name for info in members.values()])
            problems.append(
                f"{path}: {key!r:.200} is the key of {names:.300}, as a key ends at the first dot; "
                f"give each sample a key of its own, without dots."
            )
            return None
    if image is None:
        problems.append(f"{path}: {key!r:.200} has a label but no image ({', '.join(ENDINGS)}).")
        return None
    where = None if label is None else (label.offset_data, label.size)
    return Sample(key, image.name, image.offset_data, image.size, where)


def _meant(members: dict[str, tarfile.TarInfo], passed: PassedOver) -> tarfile.TarInfo | None:
    """The member whose suffix has no dot, else the only one; None where there is none, or it is open which."""
    plain = [info for suffix, info in members.items() if "." not in suffix]
    candidates = plain or list(members.values())
    if len(candidates) != 1:
        return None
    if len(members) > 1:
        passed[FURTHER] += len(members) - 1
    return candidates[0]
