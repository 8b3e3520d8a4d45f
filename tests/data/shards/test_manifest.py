"""A manifest is read as it was written, or refused with the file and every key that is wrong."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dist_condense.data import ClassName, DataError
from dist_condense.data.shards.manifest import Beton, Made, Manifest, Shard, Skipped, write_manifest
from dist_condense.data.shards.manifest_reader import read_manifest

SHARDS = tuple(Shard(f"train/{index:04d}-000.tar", 3 + index, 10240, 900, "0f" * 32) for index in range(3))
MANIFEST = Manifest(
    classes=(ClassName("tench", "n01440764"), ClassName("zebra")),
    size=24,
    channels=3,
    made=Made("/data", "image_folder", {"size": 24, "classes": None}, "0.1.0"),
    splits={"train": (SHARDS[:2], SHARDS[2:]), "val": (SHARDS[:1], SHARDS[1:2])},
    skipped=(Skipped("train", "zebra", "a", "torn"),),
    ffcv={"train": Beton("train.beton", 7, "ab" * 32)},
)


def test_read_as_written(tmp_path: Path) -> None:
    write_manifest(tmp_path, MANIFEST)
    assert read_manifest(str(tmp_path)) == MANIFEST
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]
    assert MANIFEST.counts("train") == (7, 5)
    assert MANIFEST.image_bytes("train") == (1800, 900)


def test_the_digest_is_that_of_the_images() -> None:
    elsewhere = replace(MANIFEST, made=replace(MANIFEST.made, source="/elsewhere"), ffcv=None, skipped=())
    assert elsewhere.digest == MANIFEST.digest
    other = replace(SHARDS[0], sha256="1f" * 32)
    changed = [
        replace(MANIFEST, classes=MANIFEST.classes[::-1]),
        replace(MANIFEST, size=None),
        replace(MANIFEST, splits={**MANIFEST.splits, "val": ((other,), SHARDS[1:2])}),
    ]
    assert len({MANIFEST.digest, *(entry.digest for entry in changed)}) == 4


Change = Callable[[dict[str, Any]], object]


def at(key: str, value: object) -> Change:
    """Set the first train shard's key."""
    return lambda content: content["splits"]["train"][0][0].update({key: value})


CHANGES: list[tuple[Change, str]] = [
    (lambda content: content.update(format="dist_condense class shards 9"), "format is 'dist_condense class shards 9'"),
    (lambda content: content.pop("channels"), "the file lacks channels"),
    (lambda content: content.update(channels=2), "channels is 2"),
    (lambda content: content.update(size="24"), "size is '24'"),
    (lambda content: content.update(more=1), "unknown key more"),
    (lambda content: content.update(classes=[]), "classes names none"),
    (lambda content: content["classes"][1].update(name="tench"), "classes has names .* for several: tench"),
    (lambda content: content["classes"][1].update(wnid="n01440764"), "classes has names .* for several: n01440764"),
    (lambda content: content["classes"][1].update(name="n01440764"), "classes has names .* for several: n01440764"),
    (lambda content: content["classes"][1].pop("wnid"), r"classes\[1\] lacks wnid"),
    (lambda content: content["classes"].pop(), r"splits\.train has 2 entries for 1 classes"),
    (lambda content: content["splits"].pop("val"), r"splits\.val is missing"),
    (lambda content: content["splits"]["val"][0].clear(), r"splits\.val\[0\] has no shard"),
    (lambda content: content["splits"]["train"][0][0].pop("sha256"), r"splits\.train\[0\]\[0\] lacks sha256"),
    (at("sha256", "12"), r"splits\.train\[0\]\[0\]\.sha256 is '12'"),
    (at("count", 0), r"splits\.train\[0\]\[0\]\.count is 0"),
    (at("bytes", True), r"splits\.train\[0\]\[0\]\.bytes is True"),
    (at("url", "pipe:cat /etc/hostname"), r"splits\.train\[0\]\[0\]\.url 'pipe:cat /etc/hostname' is not opened"),
    (at("url", "../x.tar"), r"splits\.train\[0\]\[0\]\.url '\.\./x\.tar' leaves"),
    (at("url", "/x.tar"), r"splits\.train\[0\]\[0\]\.url '/x\.tar' leaves"),
    (at("url", 5), r"splits\.train\[0\]\[0\]\.url is 5"),
    (lambda content: content["ffcv"]["train"].update(file="../t.beton"), r"ffcv\.train\.file '\.\./t\.beton' leaves"),
    (at("url", "train/a\\b.tar"), r"splits\.train\[0\]\[0\]\.url .* leaves"),
    (at("url", "train/a\0b.tar"), r"splits\.train\[0\]\[0\]\.url .* leaves"),
    (lambda content: content["ffcv"]["train"].update(file="s3://b/t"), r"ffcv\.train\.file is 's3://b/t'; it must lie"),
    (lambda content: content["ffcv"].update(test={}), "ffcv must be null or files by split"),
    (lambda content: content.update(made=[]), "made must be an object"),
]


@pytest.mark.parametrize(("change", "told"), CHANGES)
def test_what_is_wrong_is_told_with_file_and_key(tmp_path: Path, change: Change, told: str) -> None:
    write_manifest(tmp_path, MANIFEST)
    file = tmp_path / "manifest.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=rf"{file}: .*{told}"):
        read_manifest(str(tmp_path))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', "[" * 100000, "\xff", "9" * 5000])
def test_what_is_no_manifest_at_all(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=r"manifest\.json: .* Prepare the data again"):
        read_manifest(str(tmp_path))


def test_all_problems_at_once(tmp_path: Path) -> None:
    broken = replace(MANIFEST, channels=2, size=0, classes=MANIFEST.classes[:1])
    write_manifest(tmp_path, broken)
    with pytest.raises(DataError) as caught:
        read_manifest(str(tmp_path))
    assert len(caught.value.problems) == 4
