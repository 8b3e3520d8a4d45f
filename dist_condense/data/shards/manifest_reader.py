"""Reading manifest.json: nothing in it is believed before it was checked."""

import json
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, TypeVar, get_origin, get_type_hints

from dist_condense.data.image_set import ClassName, ambiguous
from dist_condense.data.sets.listing import not_text
from dist_condense.data.shards.manifest import FILE, FORMAT, HASH, SPLITS, Beton, Made, Manifest, Shard, Skipped
from dist_condense.system.credentials import address, masked
from dist_condense.system.errors import SHOWN, DataError, listed
from dist_condense.system.remote import entry_problem, join, read_bytes

Record = TypeVar("Record")
KEYS = ("format", *(field.name for field in fields(Manifest)))


def read_manifest(root: str) -> Manifest:
    """The manifest in a folder, or below a url s3://, gs://, https://.

    Raises DataError naming the file and every key that is wrong: another format, missing or unknown keys, wrong
    types, numbers that cannot be, names of several classes, addresses outside the folder or of another scheme.
    """
    file = join(root, FILE)
    text = read_bytes(file)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as reason:  # ValueError also for an integer of thousands of digits
        raise DataError([f"{file}: it is no JSON ({reason}). Prepare the data again."]) from reason
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else None
        raise DataError([f"{file}: format is {found!r}, not {FORMAT!r}. Prepare the data again with this version."])
    return _Checked(file).manifest({"upright": False, **content})  # manifests of 0.1.0 do not have it


class _Checked:
    """Collects the problems of one file while its parts are made."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[str] = []

    def manifest(self, content: dict[str, Any]) -> Manifest:
        if not self._has_keys(content, KEYS, "the file"):
            raise DataError(self.problems)
        classes = self._records(ClassName, content["classes"], "classes")
        made = self._record(Made, content["made"], "made")
        made = made and replace(made, source=address(made.source))  # of a version that stored it whole
        splits = {split: self._split(content["splits"], split, len(classes)) for split in SPLITS}
        skipped = self._records(Skipped, content["skipped"], "skipped")
        ffcv = self._ffcv(content["ffcv"])
        self._numbers(content, classes)
        if self.problems or made is None:
            rest = [f"... and {len(self.problems) - SHOWN} more problems."] if len(self.problems) > SHOWN else []
            raise DataError(self.problems[:SHOWN] + rest)
        size, channels, upright = (content[key] for key in ("size", "channels", "upright"))
        return Manifest(classes, size, channels, made, splits, skipped, ffcv, upright)

    def _wrong(self, key: str, what: str) -> None:
        self.problems.append(f"{self.file}: {key} {what}")

    def _numbers(self, content: dict[str, Any], classes: tuple[ClassName, ...]) -> None:
        if content["channels"] not in (1, 3):
            self._wrong("channels", f"is {content['channels']!r}; it must be 1 or 3.")
        if not isinstance(content["upright"], bool):
            self._wrong("upright", f"is {content['upright']!r}; it must be true or false.")
        if content["size"] is not None and not _is_positive(content["size"]):
            self._wrong("size", f"is {content['size']!r}; it must be null or pixels of a side.")
        if not classes:
            self._wrong("classes", "names none.")
        if twice := ambiguous(classes):
            self._wrong("classes", f"has names or WordNet ids that stand for several: {listed(twice)}.")
        self.problems += not_text([entry.name for entry in classes], f"{self.file}: classes")

    def _split(self, splits: Any, split: str, classes: int) -> tuple[tuple[Shard, ...], ...]:
        if not isinstance(splits, dict) or not isinstance(splits.get(split), list):
            self._wrong(f"splits.{split}", "is missing or no list.")
            return ()
        if len(splits[split]) != classes:
            self._wrong(f"splits.{split}", f"has {len(splits[split])} entries for {classes} classes.")
        return tuple(self._shards(entry, f"splits.{split}[{label}]") for label, entry in enumerate(splits[split]))

    def _shards(self, entries: Any, where: str) -> tuple[Shard, ...]:
        shards = tuple(replace(shard, url=address(shard.url)) for shard in self._records(Shard, entries, where))
        if isinstance(entries, list) and not entries:
            self._wrong(where, "has no shard; every class needs images.")
        for index, shard in enumerate(shards):
            self._file(f"{where}[{index}]", "url", shard.url, shard.sha256)
            for key in ("count", "bytes", "image_bytes"):
                if not _is_positive(getattr(shard, key)):
                    self._wrong(f"{where}[{index}].{key}", f"is {getattr(shard, key)}; it must be at least 1.")
        return shards

    def _ffcv(self, entries: Any) -> dict[str, Beton] | None:
        if entries is None:
            return None
        if not isinstance(entries, dict) or not set(entries) <= set(SPLITS):
            self._wrong("ffcv", f"must be null or files by split ({', '.join(SPLITS)}).")
            return None
        made = {split: self._record(Beton, entry, f"ffcv.{split}") for split, entry in entries.items()}
        found = {split: beton for split, beton in made.items() if beton is not None}
        for split, beton in found.items():
            self._file(f"ffcv.{split}", "file", beton.file, beton.sha256)
            if "://" in beton.file:
                self._wrong(f"ffcv.{split}.file", f"is {beton.file!r}; it must lie in the manifest's folder.")
        return found

    def _file(self, where: str, key: str, url: str, sha256: str) -> None:
        problem = entry_problem(url)
        if problem:
            self._wrong(f"{where}.{key}", problem)
        if not HASH.fullmatch(sha256):
            self._wrong(f"{where}.sha256", f"is {sha256!r}; it must be 64 hex digits.")

    def _records(self, kind: Callable[..., Record], entries: Any, where: str) -> tuple[Record, ...]:
        if not isinstance(entries, list):
            self._wrong(where, "must be a list.")
            return ()
        made = [self._record(kind, entry, f"{where}[{index}]") for index, entry in enumerate(entries)]
        return tuple(record for record in made if record is not None)

    def _record(self, kind: Callable[..., Record], entry: Any, where: str) -> Record | None:
        """A flat dataclass with exactly its keys and types."""
        hints = get_type_hints(kind)
        if not self._has_keys(entry, tuple(hints), where):
            return None
        wrong = [key for key, hint in hints.items() if not _fits(entry[key], hint)]
        for key in wrong:
            self._wrong(f"{where}.{key}", f"is {masked(repr(entry[key])):.80}, of another type than it must be.")
        return None if wrong else kind(**entry)

    def _has_keys(self, entry: Any, keys: tuple[str, ...], where: str) -> bool:
        if not isinstance(entry, dict):
            self._wrong(where, "must be an object.")
            return False
        wrong = [f"lacks {key}" for key in keys if key not in entry]
        wrong += [f"has the unknown key {key}" for key in entry if key not in keys]
        if wrong:
            self._wrong(where, f"{', '.join(wrong)}.")
        return not wrong


def _fits(value: Any, hint: Any) -> bool:
    return isinstance(value, dict if get_origin(hint) is dict else hint) and not isinstance(value, bool)


def _is_positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
