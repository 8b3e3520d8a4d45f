"""Equal images in every tier, and the selection of a tier."""

import threading
from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image

from dist_condense.data import ImageSet, MemorySource, Reading, open_dataset
from dist_condense.data.reading.decode import Form
from dist_condense.data.reading.read_ahead import ReadAhead
from dist_condense.data.reading.source import NamedSource, get_many
from dist_condense.data.reading.store import ClassFolder, FolderStore, RamStore
from dist_condense.data.reading.tiers import TIERS, DecodingSource, FillingSource, select_tier, share
from dist_condense.system.errors import DataError

GIB = 2**30


@pytest.fixture(scope="module")
def photographs(real_data: Path) -> ImageSet:
    root = real_data / "miniimagenet84"
    wnids = sorted(folder.name for folder in (root / "train").iterdir())[:3]
    return open_dataset("imagenet", root, size=48, classes=wnids)


@pytest.fixture(scope="module")
def in_memory(photographs: ImageSet) -> MemorySource:
    source = photographs.train()
    assert isinstance(source, MemorySource)
    return source


@pytest.mark.parametrize("tier", TIERS)
def test_every_tier_gives_the_images_that_memory_gives(photographs, in_memory, tier):
    source = photographs.train([0, 2], Reading(tier))
    for label in (2, 0):
        requests = torch.tensor([3, 19, 0, 3, 7])
        assert torch.equal(source.get(label, requests), in_memory.get(label, requests))
    assert source.get(0, torch.tensor([], dtype=torch.int64)).shape == (0, 3, 48, 48)


@pytest.mark.parametrize("tier", TIERS)
def test_several_classes_at_once_are_those_one_by_one(photographs, tier):
    source = photographs.train(None, Reading(tier))
    requests = [(2, torch.tensor([3, 19, 3])), (0, torch.tensor([], dtype=torch.int64)), (1, torch.tensor([7]))]
    results = get_many(source, requests)
    assert len(results) == len(requests)
    assert all(torch.equal(images, source.get(*one)) for images, one in zip(results, requests, strict=True))
    assert get_many(source, []) == []


def test_memory_that_is_filled_in_the_background_gives_the_same_images_before_and_after(photographs, in_memory):
    source = photographs.train([0, 2], Reading("ram", wait=False))
    assert isinstance(source, FillingSource)
    for number in range(6):
        requests = [(label, torch.randint(20, (5,))) for label in (2, 0)]
        for (label, indices), images in zip(requests, source.get_many(requests), strict=True):
            expected = in_memory.get(label, indices)
            assert torch.equal(images, expected) and images.stride() == expected.stride()
        if number == 2:
            source.filler.join()
            source._decoding.store = None  # nothing is read again


def test_a_damaged_file_that_the_background_finds_fails_the_next_request(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"junk")
    source = FillingSource(FolderStore({0: ClassFolder(tmp_path, ("a.png", "b.png"))}), Form(3, 8))
    source.filler.join()
    with pytest.raises(DataError, match=r"b\.png: the image cannot be read"):
        source.get(0, torch.tensor([0]))


def test_a_damaged_file_that_nothing_requests_fails_the_end_and_no_other_class(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"junk")
    store = FolderStore({c: ClassFolder(tmp_path, (name,)) for c, name in enumerate(("a.png", "b.png", "a.png"))})
    source = NamedSource(FillingSource(store, Form(3, 8)), ["good", "bad", "good"])
    with ReadAhead(source) as ahead, pytest.raises(DataError, match=r"^[^:]*b\.png: the image cannot be read"):
        ahead.complete()
    assert len(source.get(0, torch.tensor([0]))) == 1
    with pytest.raises(DataError, match=r"class 1 \(bad\): .*b\.png"):
        source.get_many([(0, torch.tensor([0])), (1, torch.tensor([0]))])


def test_closing_ends_the_filling():
    source = FillingSource(Endless(), Form(3, 8), threads=1)
    NamedSource(source, ["black"]).close()
    assert not source.filler.is_alive()
    assert not source.get(0, torch.tensor([7])).any()


def test_filling_ends_with_its_source():
    store = Endless()
    source = FillingSource(store, Form(3, 8), threads=1)
    filler = source.filler
    store.read_some.wait(20)
    del source
    filler.join(20)
    assert not filler.is_alive()


class Endless:
    """A store of a huge number of images."""

    labels = range(1)

    def __init__(self) -> None:
        self.read_some, file = threading.Event(), BytesIO()
        Image.new("RGB", (8, 8)).save(file, "PNG")
        self.image = file.getvalue()

    def count(self, label: int) -> int:
        return 10**6

    def read(self, label: int, index: int) -> bytes:
        self.read_some.set()
        return self.image


class Meeting:
    """A store that returns its images only when all are read at once."""

    def __init__(self, classes: int, per_class: int = 1) -> None:
        self.labels, self.per_class = range(classes), per_class
        self.all_here = threading.Barrier(classes * per_class, timeout=20)
        file = BytesIO()
        Image.new("RGB", (8, 8)).save(file, "PNG")
        self.image = file.getvalue()

    def count(self, label: int) -> int:
        return self.per_class

    def read(self, label: int, index: int) -> bytes:
        self.all_here.wait()
        return self.image


def test_no_class_waits_for_another():
    source = DecodingSource(Meeting(4), Form(3, 8), threads=4)
    assert len(get_many(source, [(label, torch.tensor([0])) for label in range(4)])) == 4


def test_no_file_waits_for_another_on_its_way_to_memory():
    store = Meeting(1, per_class=4)
    copied = RamStore(store)
    assert [copied.read(0, index) for index in range(4)] == [store.image] * 4


@pytest.mark.parametrize("tier", TIERS)
def test_only_the_classes_asked_for_are_read(photographs, tier):
    with pytest.raises(KeyError):
        photographs.train([0], Reading(tier)).get(1, torch.tensor([0]))


@pytest.mark.parametrize("chunk", [7, 256])
def test_streamed_test_images_are_those_in_memory_each_once(photographs, chunk):
    copied, streamed = photographs.test(), photographs.test(Reading("disk"))
    assert torch.equal(copied.labels, streamed.labels)
    pairs = list(zip(copied.chunks(chunk), streamed.chunks(chunk), strict=True))
    assert sum(len(labels) for (_, labels), _ in pairs) == 15
    for (images, labels), (streamed_images, streamed_labels) in pairs:
        assert torch.equal(images, streamed_images)
        assert torch.equal(labels, streamed_labels)


def test_images_stream_in_inference_mode(photographs):
    with torch.inference_mode():
        assert sum(len(images) for images, _ in photographs.test(Reading("disk")).chunks(4)) == 15


@pytest.mark.parametrize("tier", TIERS)
def test_a_bad_file_is_named(tmp_path: Path, real_data: Path, tier):
    source = sorted((real_data / "miniimagenet84" / "train").iterdir())[0]
    for split in ("train", "val"):
        (tmp_path / split / "cat").mkdir(parents=True)
    good = sorted(source.iterdir())[0].read_bytes()
    (tmp_path / "train" / "cat" / "a.jpg").write_bytes(good)
    (tmp_path / "train" / "cat" / "b.jpg").write_bytes(good[: len(good) // 2])
    (tmp_path / "val" / "cat" / "a.jpg").write_bytes(good)
    folder = open_dataset("image_folder", tmp_path, size=16)
    with pytest.raises(DataError, match=r"b\.jpg: the image cannot be read"):
        folder.train([0], Reading(tier)).get(0, torch.tensor([0, 1]))


def test_a_strip_that_would_fill_the_memory_once_resized_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (1, 1000)).save(tmp_path / "strip.png")
    Image.new("RGB", (1, 300)).save(tmp_path / "bar.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 16 * 16 * 300)
    source = DecodingSource(FolderStore({0: ClassFolder(tmp_path, ("bar.png", "strip.png"))}), Form(3, 16))
    assert source.get(0, torch.tensor([0])).shape == (1, 3, 16, 16)
    with pytest.raises(DataError, match=r"strip\.png: .* cannot be read \(16 x 16000 are more than 76800"):
        source.get(0, torch.tensor([0, 1]))


@pytest.mark.parametrize(
    ("decoded", "encoded", "gpu", "expected"),
    [(10, 1, 10, "gpu"), (10, 1, 0, "ram"), (11, 10, 0, "encoded"), (11, 11, 0, "disk"), (11, 1, 11, "gpu")],
)
def test_the_fastest_tier_that_fits_is_selected(decoded, encoded, gpu, expected):
    sizes = {"decoded": decoded * GIB, "encoded": lambda: encoded * GIB, "budget": 10 * GIB, "gpu_budget": gpu * GIB}
    assert select_tier("auto", **sizes).tier == expected


def test_what_is_read_ahead_counts():
    sizes = {"decoded": 10 * GIB, "encoded": lambda: 8 * GIB, "budget": 10 * GIB, "gpu_budget": 0}
    tiers = [select_tier("auto", **sizes, ahead=ahead * GIB).tier for ahead in (0, 1, 3)]
    assert tiers == ["ram", "encoded", "disk"]


def test_a_forced_tier_asks_for_nothing():
    def ask() -> int:
        raise AssertionError("sizes of files were requested")

    choice = select_tier("disk", decoded=5 * GIB, encoded=ask, budget=GIB, gpu_budget=0)
    assert choice.tier == "disk"
    assert "5.0 GiB decoded" in str(choice)


@pytest.mark.parametrize(
    ("tier", "gpu", "expected"), [("auto", 0, "ram"), ("auto", 5, "gpu"), ("disk", 0, "ram"), ("gpu", 0, "gpu")]
)
def test_images_without_files_stay_decoded_in_memory(tier, gpu, expected):
    assert select_tier(tier, decoded=5, encoded=None, budget=1, gpu_budget=gpu).tier == expected


@pytest.mark.parametrize(
    ("workers", "per_node", "expected"), [(1, 1, 10), (2, 2, 10), (2, 1, 7), (4, 2, 7), (8, 8, 10), (0, 1, 10)]
)
def test_share_of_the_fullest_node(workers, per_node, expected):
    assert share([1, 2, 3, 4], workers, per_node) == expected
