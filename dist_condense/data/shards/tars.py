"""Index of the samples in a local, uncompressed tar, of which only the headers are read.

As in WebDataset, a sample is a sequence of members that share a key. The key is a member's name up to the first dot of
the last part of its path, and the suffix is the rest of the name. The suffix, in upper or lower case, determines the
kind of a member: `jpg` (png, ...) is the image and `cls` the label. If no member has exactly such a suffix, the only
member whose suffix ends with one (`a.crop.jpg`) is used, as in WebDataset's decoders. All other members are ignored and
never read.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dist_condense.data.reading.store import FILE_BYTES
from dist_condense.data.sets.listing import ENDINGS, HIDDEN, Ignored, ending
from dist_condense.data.shards import tar_headers
from dist_condense.data.shards.tar_headers import DamagedTar, Member
from dist_condense.system.errors import SHOWN, DataError, listed, shortened
from dist_condense.system.files import Descriptor

IMAGE, LABEL = "image", "cls"
MAX_LABEL_BYTES = 12
_KEYED = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)")
_META = re.compile(r"__[^/]*__(/.*)?", re.DOTALL)
"""Names of WebDataset's own metadata members."""
METADATA, FURTHER = "of WebDataset's metadata", "further images or labels of a sample"

Draft = dict[str, dict[str, Member]]
"""Members of a sample by kind (IMAGE or LABEL) and suffix."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """An image in a tar; offsets and lengths are in bytes."""

    key: str
    member: str
    """Name of the member that contains the image."""
    offset: int
    length: int
    label: tuple[int, int] | None
    """Offset and length of the `.cls` member; None where there is none."""


def index_tar(path: Path) -> list[Sample]:
    """Return the samples of a tar in order; see :func:`scan_tar` for errors."""
    return scan_tar(path)[0]


def scan_tar(path: Path) -> tuple[list[Sample], Ignored]:
    """Return the samples of a tar in order, and counts of its ignored members.

    Raises DataError naming the file and the member for

    - a file that is truncated or not a tar;
    - members that are not regular files (except folders, which are ignored), exceed 256 MiB, have no name, or have a
      name that is absolute or contains `..`;
    - repeated keys, samples with ambiguous images or labels, and labels without an image.
    """
    scan = _Scan(path)
    for member in scan.members():
        scan.add(member)
    samples = scan.samples()
    if scan.problems:
        raise DataError(shortened(scan.problems, f"problems in {path}"))
    return samples, scan.ignored


def read_labels(path: Path, samples: Sequence[Sample]) -> list[int]:
    """Read the label of each sample, a number in its `.cls` member. Raises DataError naming samples without a label."""
    problems: list[str] = []
    labels = []
    file = Descriptor(path)
    for sample in samples:
        offset, length = sample.label or (0, 0)
        text = os.pread(file.number, min(length, MAX_LABEL_BYTES + 1), offset).strip()
        if text.isdigit() and len(text) <= MAX_LABEL_BYTES:
            labels.append(int(text))
        elif len(problems) < SHOWN:
            problems.append(f"{path}: {sample.key!r:.200} has no member .{LABEL} with its label as a number.")
    if problems:
        raise DataError(problems)
    return labels


class _Scan:
    """State of one pass over the headers of a tar: samples, ignored members and problems."""

    def __init__(self, path: Path) -> None:
        self.path, self.ignored = path, Ignored()
        self.problems: list[str] = []
        self._drafts: dict[str, Draft] = {}
        self._plain: set[tuple[str, str]] = set()
        self._last_key: str | None = None

    def members(self) -> Iterator[Member]:
        """Yield every member; a damaged tar ends the iteration and adds a problem."""
        last = "its start"
        try:
            for member in tar_headers.members(self.path):
                last = repr(member.name)
                yield member
        except (DamagedTar, OSError) as reason:
            self.problems.append(
                f"{self.path}: no whole, uncompressed tar, from {last:.200} on ({reason}). Copy or make the file again."
            )

    def add(self, member: Member) -> None:
        """Add a member to its sample, or count it as ignored; an invalid member adds a problem."""
        problem = _member_problem(member)
        if problem is None and not member.is_folder:
            key, suffix = key_and_suffix(member.name)
            problem = self._assign(key, suffix, member)
            self._last_key = key or self._last_key
        if problem:
            self.problems.append(f"{self.path}: {member.name!r:.200} {problem}")

    def samples(self) -> list[Sample]:
        """Return the valid samples in order; every other sample adds a problem."""
        samples = [self._sample(key, draft) for key, draft in self._drafts.items()]
        return [sample for sample in samples if sample is not None]

    def _assign(self, key: str | None, suffix: str, member: Member) -> str | None:
        """Add a valid member to its sample, or count it as ignored; return a problem if its key is repeated."""
        final = suffix.rsplit(".", 1)[-1]
        kind = IMAGE if final in ENDINGS else LABEL if final == LABEL else None
        if key is None or kind is None:
            base = member.name.rsplit("/", 1)[-1]
            hidden = HIDDEN if base.startswith(".") else ending(base)
            self.ignored[METADATA if _META.fullmatch(member.name) else hidden] += 1
            return None
        draft = self._drafts.setdefault(key, {IMAGE: {}, LABEL: {}})
        is_plain = "." not in suffix
        is_second = suffix in draft[kind] or (is_plain and (key, kind) in self._plain)
        if is_second or (key != self._last_key and any(draft.values())):
            return "has a key that comes twice; every sample needs its own."
        draft[kind][suffix] = member
        if is_plain:
            self._plain.add((key, kind))
        return None

    def _sample(self, key: str, draft: Draft) -> Sample | None:
        image, label = (self._unambiguous(draft[kind]) for kind in (IMAGE, LABEL))
        for members, member in ((draft[IMAGE], image), (draft[LABEL], label)):
            if len(members) > 1 and member is None:
                names = listed([entry.name for entry in members.values()])
                self.problems.append(
                    f"{self.path}: {key!r:.200} is the key of {names:.300}, as a key ends at the first dot; "
                    f"give each sample a key of its own, without dots."
                )
                return None
        if image is None:
            self.problems.append(f"{self.path}: {key!r:.200} has a label but no image ({', '.join(ENDINGS)}).")
            return None
        return Sample(
            key=key,
            member=image.name,
            offset=image.offset,
            length=image.size,
            label=None if label is None else (label.offset, label.size),
        )

    def _unambiguous(self, members: dict[str, Member]) -> Member | None:
        """Return the only member whose suffix has no dot; if all suffixes have dots, return the only member.

        Returns None if there is no member or no unique one. Further members are counted as ignored.
        """
        plain = [member for suffix, member in members.items() if "." not in suffix]
        candidates = plain or list(members.values())
        if len(candidates) != 1:
            return None
        if len(members) > 1:
            self.ignored[FURTHER] += len(members) - 1
        return candidates[0]


def _member_problem(member: Member) -> str | None:
    if member.name.startswith("/") or ".." in member.name.split("/"):
        return "is an absolute name or has '..'; make the tar from relative names."
    if member.is_folder:
        return None
    if not member.is_file:
        return "is no regular file (a link, a device or a sparse file); make the tar of plain files."
    if not member.name:
        return "is a member without a name; name every member."
    if member.size > FILE_BYTES:
        return f"has {member.size} bytes, more than {FILE_BYTES}; an image is smaller."
    return None


def key_and_suffix(name: str) -> tuple[str | None, str]:
    """Split a member's name into key and lower-case suffix by WebDataset's rule; (None, "") for ignored members.

    Hidden files (`d/.a.jpg`) have no key, whereas WebDataset combines them into one sample `d/`.
    """
    match = None if _META.fullmatch(name) else _KEYED.fullmatch(name)
    return (match[1], match[2].lower()) if match else (None, "")
