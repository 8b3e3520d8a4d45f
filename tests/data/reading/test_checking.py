"""Decoding of all images names all that cannot be read, within a limit of memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dist_condense.data import Reading, open_dataset
from dist_condense.data.image_set import ImageSet
from dist_condense.data.reading import checking, tiers
from dist_condense.data.reading.checking import Unreadable, decode_all
from dist_condense.system.errors import SHOWN, DataError
from tests.data.shards.shard_cases import photograph, prepared

COUNTS = {"cat": 7, "dog": 1, "eel": 30}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, count in COUNTS.items():
        for split in ("train", "val"):
            (tmp_path / "mine" / split / name).mkdir(parents=True)
            for index in range(count):
                photograph(index).save(tmp_path / "mine" / split / name / f"{index:02}.jpg")
    return tmp_path / "mine"


def found_in(opened: ImageSet, image_bytes: int = 3 * 8 * 8) -> tuple[Unreadable, list[int]]:
    found = Unreadable()
    return found, list(decode_all(opened.train_split, Reading("disk", threads=2), image_bytes, found))


def truncated(file: Path) -> None:
    """Remove the end of a file, which only decoding shows."""
    file.write_bytes(file.read_bytes()[:-20])


@pytest.mark.parametrize("block", [1, 3, 10, 256])
def test_every_image_is_decoded_once_in_blocks(root: Path, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "BLOCK", block)
    read, largest = list[tuple[int, int]](), list[int]()
    inner = tiers.DecodingSource.get_many

    def noted(self: tiers.DecodingSource, requests: list[tuple[int, torch.Tensor]]) -> list[torch.Tensor]:
        read.extend((label, index) for label, indices in requests for index in indices.tolist())
        largest.append(sum(len(indices) for _, indices in requests))
        return inner(self, requests)

    monkeypatch.setattr(tiers.DecodingSource, "get_many", noted)
    found, reports = found_in(open_dataset("image_folder", root, size=8))
    assert read == [(label, index) for label, count in enumerate(COUNTS.values()) for index in range(count)]
    assert max(largest) == min(block, 38) and reports[-1] == 38 and (found.first, found.others) == ([], 0)


def test_large_images_are_decoded_one_by_one(root: Path) -> None:
    opened = open_dataset("image_folder", root, size=8)
    assert (
        found_in(opened, checking.BLOCK_BYTES)[1] == found_in(opened, 10 * checking.BLOCK_BYTES)[1] == [*range(1, 39)]
    )
    assert found_in(opened, checking.BLOCK_BYTES // 16)[1] == [16, 32, 38]


def test_all_unreadable_images_are_found_and_the_first_named(root: Path) -> None:
    broken = [root / "train" / "cat" / "03.jpg", *sorted((root / "train" / "eel").iterdir())[5:20]]
    for file in broken:
        truncated(file)
    found, reports = found_in(open_dataset("image_folder", root, size=8))
    assert [problem.split(":")[0] for problem in found.first] == [str(file) for file in broken[:SHOWN]]
    assert found.others == len(broken) - SHOWN and reports[-1] == 38
    with pytest.raises(DataError) as error:
        open_dataset("image_folder", root, size=8).train([0])
    assert error.value.problems == found.first[:1]


def test_a_shard_is_named_once(root: Path, tmp_path: Path) -> None:
    prepared(root, tmp_path / "shards")
    tar = tmp_path / "shards" / "train" / "0002-000.tar"
    tar.write_bytes(tar.read_bytes()[:-512])
    found, _ = found_in(open_dataset("image_folder", tmp_path / "shards", size=8))
    assert len(found.first) == 1 and str(tar) in found.first[0] and found.others == 0


def test_arrays_have_no_unreadable_images() -> None:
    found, reports = found_in(open_dataset("digits", None))
    assert reports[-1] == 1442 and found.first == []
