"""FFCV's beton files: images read back equal the written ones, byte for byte."""

import importlib.util
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from dist_condense.data import DataError, MemorySource, open_dataset
from dist_condense.data.ffcv.beton import BetonSource
from dist_condense.data.ffcv.writer import write_beton
from tests.conftest import absent

COUNTS = (5, 0, 130, 3)


@pytest.fixture(scope="module")
def ffcv() -> None:
    if importlib.util.find_spec("ffcv") is None:
        absent("FFCV is not installed: make install-ffcv")


def random_images(channels: int, size: int, counts: tuple[int, ...] = COUNTS) -> MemorySource:
    generator = torch.Generator().manual_seed(7)
    shape = (channels, size, size)
    return MemorySource(
        {
            label: torch.randint(0, 256, (count, *shape), generator=generator, dtype=torch.uint8)
            for label, count in enumerate(counts)
        }
    )


def written(path: Path, memory: MemorySource, workers: int = 2) -> BetonSource:
    channels, size = memory.images[0].shape[1:3]
    classes = [memory.images[label] for label in memory.labels]
    write_beton(path, classes, channels=channels, size=size, workers=workers)
    return BetonSource(path, [len(images) for images in classes], channels, size)


def assert_same(beton: BetonSource, memory: MemorySource, seed: int, requests: int = 12) -> None:
    """Compare random requests of 0 to 70 images, with repeats."""
    generator = torch.Generator().manual_seed(seed)
    labels = [label for label in memory.labels if len(memory.images[label])]
    for _ in range(requests):
        label = labels[int(torch.randint(len(labels), (1,), generator=generator))]
        n = int(torch.randint(71, (1,), generator=generator))
        indices = torch.randint(len(memory.images[label]), (n,), generator=generator)
        images = beton.get(label, indices)
        assert images.is_contiguous()
        assert images.dtype is torch.uint8
        assert torch.equal(images, memory.get(label, indices))


@pytest.fixture(scope="module")
def small(ffcv: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[BetonSource, MemorySource]:
    memory = random_images(3, 12)
    return written(tmp_path_factory.mktemp("beton") / "small.beton", memory), memory


def test_real_photographs_equal_those_decoded_into_memory(ffcv: None, real_data: Path, tmp_path: Path) -> None:
    root = real_data / "imagenette224"
    wnids = sorted(folder.name for folder in (root / "train").iterdir())[:2]
    every = open_dataset("imagenet", root, size=224, classes=wnids).train().images
    memory = MemorySource({label: pixels[:60] for label, pixels in every.items()})
    assert_same(written(tmp_path / "imagenette.beton", memory), memory, seed=0)


def test_grey_images(ffcv: None, tmp_path: Path) -> None:
    memory = open_dataset("digits", None).train()
    assert_same(written(tmp_path / "digits.beton", memory), memory, seed=1)


def test_every_image_in_order_and_single_ones(small: tuple[BetonSource, MemorySource]) -> None:
    beton, memory = small
    assert beton.counts == COUNTS
    for label in memory.labels:
        assert torch.equal(beton.get(label, torch.arange(COUNTS[label])), memory.images[label])
    assert torch.equal(beton.get(3, torch.tensor([2])), memory.images[3][2:])
    assert beton.get(1, torch.empty(0, dtype=torch.int64)).shape == (0, 3, 12, 12)


def test_what_was_read_is_not_overwritten_by_later_requests(small: tuple[BetonSource, MemorySource]) -> None:
    beton, memory = small
    kept = [beton.get(2, torch.arange(start, start + 30)) for start in range(0, 120, 30)]
    assert torch.equal(torch.cat(kept), memory.images[2][:120])


def test_threads_at_once(small: tuple[BetonSource, MemorySource]) -> None:
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(assert_same, *small, seed) for seed in range(4)]:
            done.result()


def test_pickled_before_and_after_the_first_request(small: tuple[BetonSource, MemorySource]) -> None:
    beton, memory = small
    fresh = pickle.loads(pickle.dumps(BetonSource(beton.path, COUNTS, 3, 12)))
    assert_same(fresh, memory, seed=3, requests=2)
    assert_same(pickle.loads(pickle.dumps(fresh)), memory, seed=4, requests=2)


def test_the_bytes_do_not_depend_on_the_number_of_threads(ffcv: None, tmp_path: Path) -> None:
    memory = random_images(1, 9)
    one, many = (written(tmp_path / f"{workers}.beton", memory, workers).path for workers in (1, 5))
    assert one.read_bytes() == many.read_bytes()


def test_images_larger_than_a_page(ffcv: None, tmp_path: Path) -> None:
    memory = random_images(3, 1700, (2,))
    beton = written(tmp_path / "large.beton", memory)
    assert torch.equal(beton.get(0, torch.tensor([1, 0])), memory.images[0].flip(0))


def test_torch_and_numpy_are_left_as_they_were(small: tuple[BetonSource, MemorySource]) -> None:
    threads, state = torch.get_num_threads(), np.random.get_state()[2]
    torch.set_num_threads(3)
    try:
        BetonSource(small[0].path, COUNTS, 3, 12).get(0, torch.tensor([0]))
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    assert np.random.get_state()[2] == state


@pytest.mark.parametrize(("label", "index", "error"), [(4, 0, KeyError), (0, 5, IndexError), (3, -1, IndexError)])
def test_outside_the_file(
    small: tuple[BetonSource, MemorySource], label: int, index: int, error: type[Exception]
) -> None:
    with pytest.raises(error, match=r"only 0\.\.3|positions 0\.\.[24], not"):
        small[0].get(label, torch.tensor([0, index]))


@pytest.mark.parametrize(
    ("counts", "channels", "size", "message"),
    [
        ((5, 0, 130, 4), 3, 12, "images per class"),
        ((5, 130, 0, 3), 3, 12, "images per class"),
        (COUNTS, 1, 12, r"\[3, 12, 12\], expected uint8 \[1, 12, 12\]"),
        (COUNTS, 3, 16, r"expected uint8 \[3, 16, 16\]"),
    ],
)
def test_other_images_than_expected(
    small: tuple[BetonSource, MemorySource], counts: tuple[int, ...], channels: int, size: int, message: str
) -> None:
    with pytest.raises(DataError, match=rf"small\.beton: .*{message}.*--ffcv"):
        BetonSource(small[0].path, counts, channels, size)


@pytest.mark.parametrize("kept", [0, 10, 5000, -1, -24])
def test_a_torn_file_is_refused(small: tuple[BetonSource, MemorySource], tmp_path: Path, kept: int) -> None:
    torn = tmp_path / "torn.beton"
    torn.write_bytes(small[0].path.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"torn\.beton: not a whole beton file.*--ffcv"):
        BetonSource(torn, COUNTS, 3, 12)


def test_damaged_tables_are_refused(small: tuple[BetonSource, MemorySource], tmp_path: Path) -> None:
    whole = small[0].path.read_bytes()
    damaged = tmp_path / "damaged.beton"
    for position, message in ((-12, "table of images is damaged"), (30, "not written by this package")):
        content = bytearray(whole)
        content[position] ^= 1
        damaged.write_bytes(content)
        with pytest.raises(DataError, match=message):
            BetonSource(damaged, COUNTS, 3, 12)


def test_files_that_are_no_beton(ffcv: None, tmp_path: Path) -> None:
    (tmp_path / "noise.beton").write_bytes(np.random.default_rng(0).bytes(100_000))
    with pytest.raises(DataError, match="not a whole beton file"):
        BetonSource(tmp_path / "noise.beton", COUNTS, 3, 12)
    with pytest.raises(DataError, match="no such file"):
        BetonSource(tmp_path / "nowhere.beton", COUNTS, 3, 12)


class Unreadable:
    """Three images; the last is unreadable."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == 2:
            raise DataError(["c.jpg: the image cannot be read."])
        return torch.zeros(3, 12, 12, dtype=torch.uint8)


def test_a_failed_write_leaves_the_file_as_it_was(small: tuple[BetonSource, MemorySource], tmp_path: Path) -> None:
    path = tmp_path / "kept.beton"
    written(path, small[1])
    before = path.read_bytes()
    for classes, message in (
        ([Unreadable()], r"c\.jpg"),
        ([torch.zeros(2, 3, 12, 12)], r"Image 0 of class 0 is torch\.float32"),
        ([small[1].images[0], torch.zeros(1, 3, 8, 8, dtype=torch.uint8)], r"Image 0 of class 1 .* \[3, 8, 8\]"),
        ([small[1].images[1]], "no image to write"),
    ):
        with pytest.raises(DataError, match=message):
            write_beton(path, classes, channels=3, size=12, workers=2)
        assert list(tmp_path.iterdir()) == [path]
        assert path.read_bytes() == before


def test_without_the_extra_the_two_commands_are_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ffcv", None)
    with pytest.raises(DataError) as caught:
        BetonSource(tmp_path / "any.beton", COUNTS, 3, 12)
    for part in (
        "libopencv-dev libturbojpeg0-dev pkg-config",
        "pip install -c constraints.txt '.[ffcv]'",
        "after torch",
    ):
        assert part in str(caught.value)
    with pytest.raises(DataError, match="FFCV cannot be imported"):
        write_beton(
            tmp_path / "any.beton", [torch.zeros(1, 3, 12, 12, dtype=torch.uint8)], channels=3, size=12, workers=1
        )
