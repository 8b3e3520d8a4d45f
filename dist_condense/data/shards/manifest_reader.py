"""Reader of manifest.json, which is checked because the file is untrusted."""

from collections.abc import Iterator
from dataclasses import replace

from dist_condense.data.image_set import ambiguous
from dist_condense.data.shards.manifest import FILE, FORMAT, SPLITS, Manifest, ShardFile
from dist_condense.system import conversion, records
from dist_condense.system.credentials import address
from dist_condense.system.errors import DataError, listed
from dist_condense.system.remote import join, read_bytes


def read_manifest(root: str) -> Manifest:
    """Read the manifest of a folder, or of a url (s3://, gs://, https://).

    Raises DataError with the file and the first invalid key. A manifest is invalid if it has another format, keys are
    missing or unknown, types are wrong, numbers are out of range, classes share a name, or an address is outside the
    folder or has another scheme.
    """
    file = join(root, FILE)
    content = records.made(dict[str, object], records.parsed(read_bytes(file), file), file)
    if (form := content.pop("format", None)) != FORMAT:
        raise DataError(
            [f"{file}: format: found {conversion.shown(form)}, expected {FORMAT!r}; prepare the data again"]
        )
    manifest = records.made(Manifest, content, file)
    if problem := next(_problems(manifest), None):
        raise DataError([f"{file}: {problem}"])
    splits = {split: tuple(tuple(map(_masked, shards)) for shards in manifest.splits[split]) for split in SPLITS}
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
        elif () in manifest.splits[split]:
            yield f"splits.{split}[{manifest.splits[split].index(())}]: found no shard; every class needs images"


def _masked(shard: ShardFile) -> ShardFile:
    url = address(shard.url)
    return shard if url == shard.url else replace(shard, url=url)
