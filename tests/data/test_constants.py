"""Mean and std: measured exactly for every order and type of the data, or taken from another data set."""

from math import sqrt
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dist_condense.data import DataError, MemorySource, constants, open_dataset
from dist_condense.data.catalogue import KNOWN
from dist_condense.data.image_set import ImageSet
from dist_condense.data.reading.tiers import Reading
from tests.data.shards.shard_cases import CLASSES, prepared, write_folder


def by_hand(images: list[Tensor], channel: int) -> tuple[float, float]:
    """Compute mean and std of one channel in [0, 1], value by value."""
    values = [value / 255 for class_images in images for value in class_images[:, channel].flatten().tolist()]
    mean = sum(values) / len(values)
    return mean, sqrt(sum((value - mean) ** 2 for value in values) / len(values))


def random_classes(counts: list[int]) -> dict[int, Tensor]:
    drawn = torch.Generator().manual_seed(1)
    return {c: torch.randint(40 * c, 200, (n, 2, 3, 3), generator=drawn).byte() for c, n in enumerate(counts)}


def test_measured_is_the_mean_and_std_of_all_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = [3, 5, 1]
    images = random_classes(counts)
    mean, std = constants.measured(MemorySource(images), counts, channels=2)
    for channel in range(2):
        expected = by_hand(list(images.values()), channel)
        assert (mean[channel], std[channel]) == pytest.approx(expected, rel=1e-12)
    monkeypatch.setattr(constants, "CHUNK", 2)
    turned = MemorySource({2 - c: x.flip(0) for c, x in images.items()})
    assert constants.measured(turned, counts[::-1], channels=2) == (mean, std)  # to the last bit


def test_sums_of_floats_do_not_depend_on_the_size_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.rand(4, 1, 3, 3, generator=torch.Generator().manual_seed(2))
    number = []

    class Source(MemorySource):
        def get(self, label: int, indices: Tensor) -> Tensor:
            number.append(len(indices))
            return super().get(label, indices)

    monkeypatch.setattr(constants, "CHUNK_BYTES", 2 * images[0].nbytes)
    constants.measured(Source({0: images}), [4], channels=1)
    assert set(number[1:]) == {4}
    number.clear()
    constants.measured(Source({0: (images * 255).byte()[:, :, :, :2].repeat(1, 1, 3, 2)}), [4], channels=1)
    assert set(number[1:]) == {2}


def test_a_channel_of_one_value_is_refused() -> None:
    images = random_classes([2, 2])
    for x in images.values():
        x[:, 1] = 7
    with pytest.raises(DataError, match=r"channel 1 .* one value everywhere, .*; give dataset.mean and dataset.std"):
        constants.measured(MemorySource(images), [2, 2], channels=2)


def measured(dataset: ImageSet) -> constants.Constants:
    return constants.measured(dataset.train_split.on_demand(Reading()), dataset.counts, dataset.channels)


def test_folders_shards_and_arrays_are_measured_at_the_runs_size(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "images")
    prepared(folder, tmp_path / "shards")
    opened = [open_dataset("image_folder", root, size=16) for root in (folder, tmp_path / "shards")]
    for dataset in [*opened, open_dataset("digits", None, classes=["3", "8"])]:
        memory = dataset.train()
        expected = [by_hand(list(memory.images.values()), channel) for channel in range(dataset.channels)]
        mean, std = measured(dataset)
        assert list(zip(mean, std, strict=True)) == [pytest.approx(pair, rel=1e-9) for pair in expected]
    small = measured(open_dataset("image_folder", folder, size=8))
    assert small != measured(opened[0])


def test_those_of_another_data_set() -> None:
    digits = open_dataset("digits", None)
    assert constants.of_name(None, digits) == ((0.3052,), (0.3760,))
    assert constants.of_name("mnist", digits) == ((0.1307,), (0.3081,))
    with pytest.raises(DataError, match="cifar10 has 3 channels, digits has 1"):
        constants.of_name("cifar10", digits)


def test_the_published_ones_of_cifar() -> None:
    """DC's program has both; IDC's and DCC's use those of CIFAR-10 for both."""
    ten, hundred = KNOWN["cifar10"].facts, KNOWN["cifar100"].facts
    assert (ten.mean, ten.std) == ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
    assert (hundred.mean, hundred.std) == ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762))


def test_those_of_a_paper_where_its_data_set_is_meant(tmp_path: Path) -> None:
    digits = open_dataset("digits", None)
    assert constants.default(digits, "dcc_truck") == constants.MEASURED
    for classes in ("imagenet100_idc", None, ["dcc_truck"]):
        assert constants.default(digits, classes) is None
    folder = write_folder(tmp_path)
    wnids, every = CLASSES[:2], None
    opened = {
        (name, classes): constants.default(open_dataset(name, folder, classes=classes), classes)
        for name in ("image_folder", "imagenet")
        for classes in (wnids, every)
    }
    assert opened.pop(("image_folder", every)) == constants.MEASURED
    assert set(opened.values()) == {None}
    grey = open_dataset("image_folder", folder, classes=wnids, channels=1)
    assert constants.default(grey, wnids) == constants.MEASURED  # ImageNet's are of three channels
