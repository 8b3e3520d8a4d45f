"""Data sets that torchvision reads from their original files, with the published programs' constants."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torchvision import datasets

from dist_condense.data.image_set import Facts, ImageSet
from dist_condense.data.reading.source import LabelledImages
from dist_condense.data.sets.arrays import from_arrays
from dist_condense.data.sets.folders import has_folder_layout, open_folder
from dist_condense.data.sets.request import Request
from dist_condense.system.errors import DataError

Loaded = tuple[LabelledImages, tuple[str, ...]]
"""One split in the files' order, and the name of every label."""
Load = Callable[[str, bool, bool], Loaded]
"""(root, whether the training split, whether to download) -> one split."""

# Mean and std as in DC (Zhao et al. 2021); IDC and DCC take those of CIFAR-10 for CIFAR-100 (dataset.constants).
_CIFAR10_MEAN, _CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
_CIFAR100_MEAN, _CIFAR100_STD = (0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)
_SVHN_MEAN, _SVHN_STD = (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)


@dataclass(frozen=True)
class Packed:
    """A data set of torchvision; calling it opens it. A root in ImageFolder layout is read as such."""

    facts: Facts
    load: Load
    folder: str
    """What torchvision looks for under the root; a root that is this folder itself is accepted too."""

    def __call__(self, request: Request) -> ImageSet:
        """Open the files, or the ImageFolder, at the root; DataError with all that is wrong."""
        problems = request.root_problems()
        if problems or request.root is None:
            raise DataError(request.problems() + problems)
        if has_folder_layout(request.root):
            return open_folder(request, self.facts)
        root = request.root.parent if request.root.name == self.folder else request.root
        train, names = self._split(request, root, train=True)
        test, _ = self._split(request, root, train=False)
        return from_arrays(request, self.facts, train, test, names)

    def _split(self, request: Request, root: Path, train: bool) -> Loaded:
        try:
            return self.load(str(root), train, request.download)
        except (RuntimeError, OSError) as reason:  # torchvision: not found, corrupt; urllib: no network
            text = (
                f"{request.name}: {root} holds neither torchvision's files ({self.folder}) nor train/<class>/"
                f" ({reason}). Set dataset.root to the folder that holds them, or dataset.download=true."
            )
            raise DataError([*request.problems(), text]) from reason


def _load_mnist(kind: type[datasets.MNIST]) -> Load:
    def load(root: str, train: bool, download: bool) -> Loaded:
        data = kind(root, train=train, download=download)
        names = tuple(name.split(" - ")[0] for name in kind.classes)  # MNIST writes "0 - zero"
        return LabelledImages(data.data[:, None], data.targets.long()), names

    return load


def _load_cifar(kind: type[datasets.CIFAR10]) -> Load:
    def load(root: str, train: bool, download: bool) -> Loaded:
        data = kind(root, train=train, download=download)
        images = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()
        return LabelledImages(images, torch.tensor(data.targets)), tuple(data.classes)

    return load


def _load_svhn(root: str, train: bool, download: bool) -> Loaded:
    data = datasets.SVHN(root, split="train" if train else "test", download=download)
    labelled = LabelledImages(torch.from_numpy(data.data), torch.from_numpy(data.labels).long())
    return labelled, tuple(str(digit) for digit in range(10))


PACKED: dict[str, Packed] = {
    "mnist": Packed(
        Facts(1, 28, (0.1307,), (0.3081,), False, "MNIST handwritten digits"),
        _load_mnist(datasets.MNIST),
        "MNIST",
    ),
    "fashion_mnist": Packed(
        Facts(1, 28, (0.2861,), (0.3530,), True, "FashionMNIST articles of clothing"),
        _load_mnist(datasets.FashionMNIST),
        "FashionMNIST",
    ),
    "svhn": Packed(
        Facts(3, 32, _SVHN_MEAN, _SVHN_STD, False, "SVHN street view house numbers"),
        _load_svhn,
        "train_32x32.mat",
    ),
    "cifar10": Packed(
        Facts(3, 32, _CIFAR10_MEAN, _CIFAR10_STD, True, "CIFAR-10 objects"),
        _load_cifar(datasets.CIFAR10),
        "cifar-10-batches-py",
    ),
    "cifar100": Packed(
        Facts(3, 32, _CIFAR100_MEAN, _CIFAR100_STD, True, "CIFAR-100 objects"),
        _load_cifar(datasets.CIFAR100),
        "cifar-100-python",
    ),
}
