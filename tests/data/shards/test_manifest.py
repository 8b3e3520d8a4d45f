"""A manifest is read as it was written, or refused with the file and the invalid key."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dist_condense.data import ClassName, DataError
from dist_condense.data.shards.manifest import Beton, Made, Manifest, ShardFile, Skipped, write_manifest
from dist_condense.data.shards.manifest_reader import read_manifest


def shard(url: str, count: int) -> ShardFile:
    return ShardFile(url=url, count=count, bytes=10240, image_bytes=900, sha256="0f" * 32)


SHARDS = tuple(shard(f"train/{index:04d}-000.tar", 3 + index) for index in range(3))
HELD_OUT = tuple(shard(f"val/{index:04d}-000.tar", 3) for index in range(2))
MANIFEST = Manifest(
    classes=(ClassName("tench", "n01440764"), ClassName("zebra")),
    size=24,
    channels=3,
    made=Made("/data", "image_folder", {"size": 24, "classes": None}, "0.1.0"),
    splits={"train": (SHARDS[:2], SHARDS[2:]), "val": (HELD_OUT[:1], HELD_OUT[1:])},
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
        replace(MANIFEST, splits={**MANIFEST.splits, "val": ((other,), HELD_OUT[1:])}),
    ]
    assert len({MANIFEST.digest, *(entry.digest for entry in changed)}) == 4


Change = Callable[[dict[str, Any]], object]


def at(key: str, value: object) -> Change:
    """Return a change that sets a key of the first training shard."""
    return lambda content: content["splits"]["train"][0][0].update({key: value})


BELOW = "expected a path below the manifest's folder"
CHANGES: list[tuple[Change, str]] = [
    (lambda content: content.update(format="dist_condense class shards 9"), "format: found 'dist_condense class"),
    (lambda content: content.pop("channels"), "channels: missing"),
    (lambda content: content.update(channels=2), "channels: found 2, expected 1 or 3"),
    (lambda content: content.update(channels=True), "channels: found true, expected an integer"),
    (lambda content: content.update(size="24"), "size: found '24', expected an integer"),
    (lambda content: content.update(size=0), "size: found 0, expected an integer from 1"),
    (lambda content: content.update(more=1), "more: unknown, expected one of classes, size,"),
    (lambda content: content.update(classes=[]), "classes: found none"),
    (lambda content: content["classes"][1].update(name="tench"), "classes: found names .* for several: tench"),
    (lambda content: content["classes"][1].update(wnid="n01440764"), "classes: found names .* for several: n01440764"),
    (lambda content: content["classes"][1].update(name="n01440764"), "classes: found names .* for several: n01440764"),
    (lambda content: content["classes"][1].update(name="\ud800"), r"classes\[1\]\.name: found .*, expected text"),
    (lambda content: content["classes"][1].pop("name"), r"classes\[1\]\.name: missing"),
    (lambda content: content["classes"].pop(), r"splits\.train: found 2 entries, expected 1"),
    (lambda content: content["splits"].pop("val"), r"splits\.val: missing"),
    (lambda content: content["splits"].update(test=[]), r"splits\.test: found 'test', expected train or val"),
    (lambda content: content["splits"]["val"][0].clear(), r"splits\.val\[0\]: found no shard"),
    (lambda content: content["splits"]["train"][0][0].pop("sha256"), r"splits\.train\[0\]\[0\]\.sha256: missing"),
    (at("sha256", "12"), r"splits\.train\[0\]\[0\]\.sha256: found '12', expected 64 hex digits"),
    (at("count", 0), r"splits\.train\[0\]\[0\]\.count: found 0, expected an integer from 1"),
    (at("bytes", True), r"splits\.train\[0\]\[0\]\.bytes: found true"),
    (at("image_bytes", 10**30), r"splits\.train\[0\]\[0\]\.image_bytes: found 1000"),
    (at("url", "pipe:cat /etc/hostname"), rf"splits\.train\[0\]\[0\]\.url: found 'pipe:cat /etc/hostname', {BELOW}"),
    (at("url", "../x.tar"), rf"splits\.train\[0\]\[0\]\.url: found '\.\./x\.tar', {BELOW}"),
    (at("url", "/x.tar"), rf"splits\.train\[0\]\[0\]\.url: found '/x\.tar', {BELOW}"),
    (at("url", 5), r"splits\.train\[0\]\[0\]\.url: found 5, expected text"),
    (lambda content: content["ffcv"]["train"].update(file="../t.beton"), rf"ffcv\.train\.file: found '\.\./t.*{BELOW}"),
    (at("url", "train/a\\b.tar"), rf"splits\.train\[0\]\[0\]\.url: found .*{BELOW}"),
    (at("url", "train/a\0b.tar"), rf"splits\.train\[0\]\[0\]\.url: found .*{BELOW}"),
    (lambda content: content["ffcv"]["train"].update(file="s3://b/t"), rf"ffcv\.train\.file: found 's3:.*{BELOW}"),
    (lambda content: content["ffcv"].update(test=content["ffcv"]["train"]), r"ffcv\.test: found 'test'"),
    (lambda content: content.update(made=[]), "made: found a list of 0, expected an object"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES)
def test_problems_are_reported_with_file_and_key(tmp_path: Path, change: Change, message: str) -> None:
    write_manifest(tmp_path, MANIFEST)
    file = tmp_path / "manifest.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=rf"{file}: .*{message}"):
        read_manifest(str(tmp_path))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', "[" * 100000, "\xff", "9" * 5000])
def test_what_is_no_manifest_at_all(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=r"manifest\.json.*: ") as caught:
        read_manifest(str(tmp_path))
    assert len(caught.value.problems) == 1 and "\n" not in str(caught.value)


def test_many_classes_are_read_in_linear_time(tmp_path: Path) -> None:
    """Ten times as many classes take about ten times as long; quadratic work would take a hundred times."""
    seconds = []
    for classes in (300, 3000):
        splits = {
            split: tuple((shard(f"{split}/{index:06d}-000.tar", 3),) for index in range(classes))
            for split in ("train", "val")
        }
        names = tuple(ClassName(f"class {index}", f"n{index:08d}") for index in range(classes))
        write_manifest(tmp_path, replace(MANIFEST, classes=names, splits=splits, skipped=()))
        seconds.append(min(cpu_seconds(lambda: read_manifest(str(tmp_path))) for _ in range(2)))
    assert seconds[1] < 30 * seconds[0]


def cpu_seconds(action: Callable[[], object]) -> float:
    before = time.process_time()
    action()
    return time.process_time() - before
