"""Data sets that torchvision reads from their original files, with mean and std of the authors' programs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dist_condense.data.image_set import Facts, ImageSet, Licence
from dist_condense.data.reading.source import LabelledImages
from dist_condense.data.sets.arrays import from_arrays
from dist_condense.data.sets.folders import open_folder
from dist_condense.data.sets.idx import BYTES, REMEDY, read_labelled
from dist_condense.data.sets.request import Request
from dist_condense.system.errors import DataError
from dist_condense.system.files import open_regular

if TYPE_CHECKING:
    from torchvision import datasets

LoadedSplit = tuple[LabelledImages, tuple[str, ...]]
"""One split in the files' order, and the name of every label."""
Load = Callable[[str, bool, bool], LoadedSplit]
"""Function (root, train, download) that returns the training split, or the test split if `train` is false."""

# Mean and std as in DC (Zhao et al. 2021); IDC and DCC use those of CIFAR-10 for CIFAR-100 (dataset.constants).
_CIFAR10_MEAN, _CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
_CIFAR100_MEAN, _CIFAR100_STD = (0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)
_SVHN_MEAN, _SVHN_STD = (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)


@dataclass(frozen=True)
class Original:
    """Files of a data set in torchvision's layout, and the function that reads them."""

    load: Load
    folder: str
    """Name of the folder or file that torchvision expects in the root. The path of that folder itself is accepted as a
    root, too.
    """

    files: Mapping[str, str | None]
    """Files of torchvision relative to the root, each with its MD5; None if torchvision checks only its archive."""


@dataclass(frozen=True)
class Packed:
    """Callable that opens a data set of torchvision, from torchvision's files or from class folders.

    :param kind: name of the data set's class in ``torchvision.datasets``.
    :param layout: function of that class and the facts.
    """

    facts: Facts
    kind: str
    layout: Callable[[Any, Facts], Original]

    @cached_property
    def original(self) -> Original:
        """The data set's files; the first use imports torchvision, which takes a second."""
        from torchvision import datasets

        return self.layout(getattr(datasets, self.kind), self.facts)

    def __call__(self, request: Request) -> ImageSet:
        """Open the class folders in the root if it has ImageFolder layout, otherwise torchvision's files.

        Raises DataError with all problems.
        """
        problems = request.root_problems()
        if problems or request.root is None:
            raise DataError(request.problems() + problems)
        if os.path.isdir(request.root / "train"):
            return open_folder(request, self.facts)
        root = request.root.parent if request.root.name == self.original.folder else request.root
        if problems := request.problems() + self._unreadable(request, root):
            raise DataError(problems)
        train, names = self._split(request, root, train=True)
        test, _ = self._split(request, root, train=False)
        return from_arrays(request, self.facts, train=train, test=test, names=names)

    def _unreadable(self, request: Request, root: Path) -> list[str]:
        """Return the problems of the files that are missing (unless download is requested) or cannot be read."""
        files = self.original.files
        missing = [name for name in files if not os.path.lexists(root / name)]
        if len(missing) == len(files):
            return [] if request.download else [self._without_files(request, root)]
        others = [name for name in files if name not in missing or not request.download]
        return [problem for name in others if (problem := _refusal(root / name))]

    def _split(self, request: Request, root: Path, train: bool) -> LoadedSplit:
        from torchvision.datasets.utils import check_integrity

        try:
            return self.original.load(str(root), train, request.download)
        except (RuntimeError, OSError, HTTPException) as reason:  # torchvision: corrupt; urllib: no network
            sums = {name: md5 for name, md5 in self.original.files.items() if md5}
            changed = [name for name, md5 in sums.items() if not check_integrity(root / name, md5)]
            problems = [f"{root / name} is not the published file (by its MD5). {REMEDY}" for name in changed]
            if request.download or not changed:
                problems = [self._without_files(request, root, f" ({' '.join(str(reason).split())})")]
            raise DataError(problems) from reason

    def _without_files(self, request: Request, root: Path, reason: str = "") -> str:
        return (
            f"{request.name}: {root} holds neither torchvision's files ({self.original.folder}) nor "
            f"train/<class>/{reason}. Set dataset.root to the folder that holds them, or dataset.download=true."
        )


def _refusal(file: Path) -> str | None:
    """Return the reason why a file is not read; None if it is a regular file of at most BYTES bytes."""
    try:
        open_regular(file, BYTES).close()
    except OSError as error:
        return f"{file} cannot be read: {error.strerror}. {REMEDY}"
    return None


def _mnist_files(kind: type[datasets.MNIST], train: bool) -> tuple[str, str]:
    folder, part = f"{kind.__name__}/raw", "train" if train else "t10k"
    return f"{folder}/{part}-images-idx3-ubyte", f"{folder}/{part}-labels-idx1-ubyte"


def _mnist(kind: type[datasets.MNIST], facts: Facts) -> Original:
    """Return the data set of torchvision's class; torchvision downloads its files, which are then read here.

    Deviation: torchvision also reads the files training.pt and test.pt of its versions before 0.9.
    """
    names = tuple(name.split(" - ")[0] for name in kind.classes)  # MNIST writes "0 - zero"

    def load(root: str, train: bool, download: bool) -> LoadedSplit:
        images, labels = (Path(root, name) for name in _mnist_files(kind, train))
        if download and not (images.exists() and labels.exists()):
            kind(root, train=train, download=True)
        return LabelledImages(*read_labelled(images, labels, facts.size, len(names))), names

    files = dict.fromkeys((*_mnist_files(kind, True), *_mnist_files(kind, False)))
    return Original(load, kind.__name__, files)


def _cifar(kind: type[datasets.CIFAR10], facts: Facts) -> Original:
    """Return the data set of torchvision's class, which unpickles a file only if it has the published file's MD5."""

    def load(root: str, train: bool, download: bool) -> LoadedSplit:
        data = kind(root, train=train, download=download)
        images = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()
        return LabelledImages(images, torch.tensor(data.targets)), tuple(data.classes)

    checked = [*kind.train_list, *kind.test_list, [kind.meta["filename"], kind.meta["md5"]]]
    return Original(load, kind.base_folder, {f"{kind.base_folder}/{name}": md5 for name, md5 in checked})


def _svhn(kind: type[datasets.SVHN], facts: Facts) -> Original:
    """Return the data set of torchvision's class, with the digits as names of its classes."""

    def load(root: str, train: bool, download: bool) -> LoadedSplit:
        data = kind(root, split="train" if train else "test", download=download)
        labelled = LabelledImages(torch.from_numpy(data.data), torch.from_numpy(data.labels).long())
        return labelled, tuple(str(digit) for digit in range(10))

    files = {name: md5 for _, name, md5 in map(kind.split_list.__getitem__, ("train", "test"))}
    return Original(load, "train_32x32.mat", files)


# as the documentation of Keras states (keras.io/api/datasets/mnist)
_MNIST_LICENCE = Licence(
    "CC-BY-SA-3.0", "The copyright holders, Y. LeCun and C. Cortes, distribute the images under CC BY-SA 3.0."
)
# github.com/zalandoresearch/fashion-mnist
_FASHION_LICENCE = Licence("MIT", "Zalando SE distributes the images under the MIT licence.")
# ufldl.stanford.edu/housenumbers
_SVHN_LICENCE = Licence("other", "The authors permit non-commercial use only; no other licence is stated.")
# www.cs.toronto.edu/~kriz/cifar.html, which only asks for a citation
_CIFAR_LICENCE = Licence("unknown", "The licence is not stated: the authors name none, and ask for a citation.")

PACKED: dict[str, Packed] = {
    "mnist": Packed(
        Facts(
            channels=1,
            size=28,
            mean=(0.1307,),
            std=(0.3081,),
            flip=False,
            family="MNIST handwritten digits",
            licence=_MNIST_LICENCE,
        ),
        "MNIST",
        _mnist,
    ),
    "fashion_mnist": Packed(
        Facts(
            channels=1,
            size=28,
            mean=(0.2861,),
            std=(0.3530,),
            flip=True,
            family="FashionMNIST articles of clothing",
            licence=_FASHION_LICENCE,
        ),
        "FashionMNIST",
        _mnist,
    ),
    "svhn": Packed(
        Facts(
            channels=3,
            size=32,
            mean=_SVHN_MEAN,
            std=_SVHN_STD,
            flip=False,
            family="SVHN street view house numbers",
            licence=_SVHN_LICENCE,
        ),
        "SVHN",
        _svhn,
    ),
    "cifar10": Packed(
        Facts(
            channels=3,
            size=32,
            mean=_CIFAR10_MEAN,
            std=_CIFAR10_STD,
            flip=True,
            family="CIFAR-10 objects",
            licence=_CIFAR_LICENCE,
        ),
        "CIFAR10",
        _cifar,
    ),
    "cifar100": Packed(
        Facts(
            channels=3,
            size=32,
            mean=_CIFAR100_MEAN,
            std=_CIFAR100_STD,
            flip=True,
            family="CIFAR-100 objects",
            licence=_CIFAR_LICENCE,
        ),
        "CIFAR100",
        _cifar,
    ),
}
