"""Data sets in their original files."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision import transforms

from dist_condense.data import open_dataset


@pytest.mark.parametrize("below", [".", "FashionMNIST"])
def test_fashion_mnist_counts_and_constants(real_data: Path, below: str) -> None:
    fashion = open_dataset("fashion_mnist", real_data / below)
    assert fashion.counts == (6000,) * 10
    assert fashion.classes[0].name == "T-shirt/top"
    source = fashion.train()
    means = [source.images[label].double().mean().item() / 255 for label in range(10)]
    assert sum(means) / 10 == pytest.approx(fashion.mean[0], abs=1e-3)
    assert fashion.test().images.shape == (10000, 1, 28, 28)


def test_cifar10_as_image_folder(real_data: Path) -> None:
    cifar = open_dataset("cifar10", real_data / "cifar10")
    assert cifar.counts == (5000,) * 10
    assert [entry.name for entry in cifar.classes[:3]] == ["airplane", "automobile", "bird"]
    assert (cifar.size, cifar.mean) == (32, (0.4914, 0.4822, 0.4465))
    source = cifar.train([0, 9])
    assert source.labels == (0, 9)
    assert source.images[9].shape == (5000, 3, 32, 32)


def test_imagenette_equals_torchvision(real_data: Path) -> None:
    root = real_data / "imagenette224"
    wnids = sorted(folder.name for folder in (root / "train").iterdir())[:2]
    images = open_dataset("imagenet", root, size=64, classes=wnids[::-1])
    source = images.train()
    assert images.counts == (300, 300)
    assert source.images[0].shape == (300, 3, 64, 64)
    first = sorted((root / "train" / wnids[1]).iterdir())[0]
    crop = transforms.Compose([transforms.Resize(64), transforms.CenterCrop(64), transforms.PILToTensor()])
    assert torch.equal(source.get(0, torch.tensor([0]))[0], crop(Image.open(first).convert("RGB")))
    assert images.test().labels.bincount().tolist() == [50, 50]


def test_one_hundred_classes_by_folder(real_data: Path) -> None:
    images = open_dataset("image_folder", real_data / "miniimagenet84", size=84)
    assert images.counts == (20,) * 100
    assert len(images.train([99]).images[99]) == 20
