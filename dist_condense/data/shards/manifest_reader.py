"""Reader of manifest.json, which is checked because the file is untrusted."""

from collections.abc import Iterator
from dataclasses import replace

from dist_condense.data.image_set import ambiguous
from dist_condense.data.shards.manifest import FILE, FORMAT, SPLITS, Manifest, ShardFile
from dist_condense.system import conversion, records
from dist_condense.system.credentials import address
from dist_condense.system.errors import DataError, listed, shortened
from dist_condense.system.remote import join, read_bytes


def read_manifest(root: str) -> Manifest:
    """Read the manifest of a folder, or of a url (s3://, gs://, https://).

    Raises DataError with the file and the invalid keys, of which the first ten are named. A manifest is invalid if it
    has another format, keys are missing or unknown, types are wrong, numbers are out of range or contradict each other,
    classes share a name or shards an address, or an address is outside the folder or has another scheme.
    """
    file = join(root, FILE)
    content = records.made(dict[str, object], records.parsed(read_bytes(file), file), file)
    if (form := content.pop("format", None)) != FORMAT:
        raise DataError(
            [f"{file}: format: found {conversion.shown(form)}, expected {FORMAT!r}; prepare the data again"]
        )
    manifest = records.made(Manifest, content, file)
    if problems := [f"{file}: {problem}" for problem in _problems(manifest)]:
        raise DataError(shortened(problems, f"problems in {file}"))
    splits = {split: _masked(manifest.splits[split]) for split in SPLITS}
    made = replace(manifest.made, source=address(manifest.made.source))  # earlier versions stored passwords, too
    return replace(manifest, made=made, splits=splits)


def _problems(manifest: Manifest) -> Iterator[str]:
    """Yield a message for each inconsistency between values that are valid individually."""
    if not manifest.classes:
        yield "classes: found none"
    if twice := ambiguous(manifest.classes):
        yield f"classes: found names or WordNet ids that stand for several: {listed(twice)}"
    for split in SPLITS:
        if split not in manifest.splits:
            yield f"splits.{split}: missing"
        elif len(manifest.splits[split]) != len(manifest.classes):
            yield f"splits.{split}: found {len(manifest.splits[split])} entries, expected {len(manifest.classes)}"
        for label, shards in enumerate(manifest.splits.get(split, ())):
            if not shards:
                yield f"splits.{split}[{label}]: found no shard; every class needs images"
    yield from _shared(manifest)
    if manifest.upright and manifest.size is not None:
        yield "upright: found true, expected false, because images of one size are upright already"
    names = {entry.name for entry in manifest.classes}
    for index, skipped in enumerate(manifest.skipped):
        if skipped.class_name not in names:
            yield f"skipped[{index}].class_name: found {conversion.shown(skipped.class_name)}, which is no class"


def _shared(manifest: Manifest) -> Iterator[str]:
    """Yield a message for each shard that an earlier entry names already, in the same class or another."""
    first: dict[str, str] = {}
    for split, classes in manifest.splits.items():
        for label, shards in enumerate(classes):
            for number, shard in enumerate(shards):
                where = f"splits.{split}[{label}][{number}].url"
                if (earlier := first.setdefault(shard.url, where)) != where:
                    yield f"{where}: found {conversion.shown(shard.url)}, as in {earlier}; no two shards are one file"


def _masked(classes: tuple[tuple[ShardFile, ...], ...]) -> tuple[tuple[ShardFile, ...], ...]:
    """Replace the passwords in the addresses of shards."""
    if not any("://" in shard.url for shards in classes for shard in shards):
        return classes  # as for most manifests, of up to 100,000 classes
    return tuple(tuple(replace(shard, url=address(shard.url)) for shard in shards) for shards in classes)
