"""Data sets that torchvision reads from their original files, with mean and std of the authors' programs."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torchvision import datasets

from dist_condense.data.image_set import Facts, ImageSet
from dist_condense.data.reading.source import LabelledImages
from dist_condense.data.sets.arrays import from_arrays
from dist_condense.data.sets.folders import open_folder
from dist_condense.data.sets.request import Request
from dist_condense.system.errors import DataError

LoadedSplit = tuple[LabelledImages, tuple[str, ...]]
"""One split in the files' order, and the name of every label."""
Load = Callable[[str, bool, bool], LoadedSplit]
"""Function (root, train, download) that returns the training split, or the test split if `train` is false."""

# Mean and std as in DC (Zhao et al. 2021); IDC and DCC use those of CIFAR-10 for CIFAR-100 (dataset.constants).
_CIFAR10_MEAN, _CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
_CIFAR100_MEAN, _CIFAR100_STD = (0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)
_SVHN_MEAN, _SVHN_STD = (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)


@dataclass(frozen=True)
class Packed:
    """Callable that opens a data set of torchvision, from torchvision's files or from class folders."""

    facts: Facts
    load: Load
    folder: str
    """Name of the folder or file that torchvision expects in the root. The path of that folder itself is accepted as a
    root, too.
    """

    def __call__(self, request: Request) -> ImageSet:
        """Open the class folders in the root if it has ImageFolder layout, otherwise torchvision's files.

        Raises DataError with all problems.
        """
        problems = request.root_problems()
        if problems or request.root is None:
            raise DataError(request.problems() + problems)
        if (request.root / "train").is_dir():
            return open_folder(request, self.facts)
        root = request.root.parent if request.root.name == self.folder else request.root
        train, names = self._split(request, root, train=True)
        test, _ = self._split(request, root, train=False)
        return from_arrays(request, self.facts, train=train, test=test, names=names)

    def _split(self, request: Request, root: Path, train: bool) -> LoadedSplit:
        try:
            return self.load(str(root), train, request.download)
        except (RuntimeError, OSError) as reason:  # torchvision: not found, corrupt; urllib: no network
            text = (
                f"{request.name}: {root} holds neither torchvision's files ({self.folder}) nor train/<class>/"
                f" ({reason}). Set dataset.root to the folder that holds them, or dataset.download=true."
            )
            raise DataError([*request.problems(), text]) from reason


def _load_mnist(kind: type[datasets.MNIST]) -> Load:
    def load(root: str, train: bool, download: bool) -> LoadedSplit:
        data = kind(root, train=train, download=download)
        names = tuple(name.split(" - ")[0] for name in kind.classes)  # MNIST writes "0 - zero"
        return LabelledImages(data.data[:, None], data.targets.long()), names

    return load


def _load_cifar(kind: type[datasets.CIFAR10]) -> Load:
    def load(root: str, train: bool, download: bool) -> LoadedSplit:
        data = kind(root, train=train, download=download)
        images = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()
        return LabelledImages(images, torch.tensor(data.targets)), tuple(data.classes)

    return load


def _load_svhn(root: str, train: bool, download: bool) -> LoadedSplit:
    data = datasets.SVHN(root, split="train" if train else "test", download=download)
    labelled = LabelledImages(torch.from_numpy(data.data), torch.from_numpy(data.labels).long())
    return labelled, tuple(str(digit) for digit in range(10))


PACKED: dict[str, Packed] = {
    "mnist": Packed(
        Facts(channels=1, size=28, mean=(0.1307,), std=(0.3081,), flip=False, family="MNIST handwritten digits"),
        _load_mnist(datasets.MNIST),
        "MNIST",
    ),
    "fashion_mnist": Packed(
        Facts(
            channels=1, size=28, mean=(0.2861,), std=(0.3530,), flip=True, family="FashionMNIST articles of clothing"
        ),
        _load_mnist(datasets.FashionMNIST),
        "FashionMNIST",
    ),
    "svhn": Packed(
        Facts(channels=3, size=32, mean=_SVHN_MEAN, std=_SVHN_STD, flip=False, family="SVHN street view house numbers"),
        _load_svhn,
        "train_32x32.mat",
    ),
    "cifar10": Packed(
        Facts(channels=3, size=32, mean=_CIFAR10_MEAN, std=_CIFAR10_STD, flip=True, family="CIFAR-10 objects"),
        _load_cifar(datasets.CIFAR10),
        "cifar-10-batches-py",
    ),
    "cifar100": Packed(
        Facts(channels=3, size=32, mean=_CIFAR100_MEAN, std=_CIFAR100_STD, flip=True, family="CIFAR-100 objects"),
        _load_cifar(datasets.CIFAR100),
        "cifar-100-python",
    ),
}
