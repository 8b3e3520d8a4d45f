"""Reading manifest.json: nothing in it is believed before it was checked."""

from collections.abc import Iterator
from dataclasses import replace

from dist_condense.data.image_set import ambiguous
from dist_condense.data.shards.manifest import FILE, FORMAT, SPLITS, Manifest, Shard
from dist_condense.system import conversion, records
from dist_condense.system.credentials import address
from dist_condense.system.errors import DataError, listed
from dist_condense.system.remote import join, read_bytes


def read_manifest(root: str) -> Manifest:
    """The manifest in a folder, or below a url s3://, gs://, https://.

    Raises DataError with the file and the first key that is wrong: another format, missing or unknown keys, other types
    or numbers out of range, names of several classes, addresses outside the folder or of another scheme.
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
    made = replace(manifest.made, source=address(manifest.made.source))  # stored whole by an earlier version
    return replace(manifest, made=made, splits=splits)


def _problems(manifest: Manifest) -> Iterator[str]:
    """Of values that fit their types one by one, but not each other."""
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


def _masked(shard: Shard) -> Shard:
    url = address(shard.url)
    return shard if url == shard.url else replace(shard, url=url)
