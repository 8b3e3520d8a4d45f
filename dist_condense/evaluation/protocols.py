"""The papers' protocols for training networks on a set before testing them, one line of `PROTOCOLS` each.

The values are those of the authors' programs. The reported result is the accuracy after the last epoch; the best of
four test evaluations, which IDC's papers report, is stored as well, as ``top1_best``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from dist_condense.core.augmentation import Strategy
from dist_condense.evaluation.augmentation import Augmentation, ByStrategy, Nothing
from dist_condense.evaluation.dc_augmentation import OnePerImage
from dist_condense.evaluation.imagenet_augmentation import ImagenetAugmentation

EpochRule = Callable[[int, int], int]
"""Function from (number of decoded images per class, number of classes) to the number of epochs E of a protocol."""
Schedule = Callable[[int, int], float]
"""Function from (epoch, counted from 0; number of epochs E) to the factor of the learning rate in that epoch."""


@dataclass(frozen=True)
class Fewer:
    """Smaller number of epochs, which a protocol uses for one network on large sets."""

    epochs: int
    """Number of epochs E."""
    ipc: int
    """Minimum number of learnt images per class of such a set."""
    tiles: int
    """Minimum number of decoded images per learnt image of such a set."""


def thousand(per_class: int, classes: int) -> int:
    """Return 1000 epochs for any set."""
    return 1000


def three_hundred(per_class: int, classes: int) -> int:
    """Return 300 epochs for any set."""
    return 300


IMAGENET_EPOCHS = ((1, 3000), (10, 2000), (50, 1500), (200, 1000), (500, 500))
"""Pairs (maximum number of decoded images per class, number of epochs); larger sets have 300 epochs."""


def imagenet_epochs(per_class: int, classes: int) -> int:
    """Return the number of epochs E of IDC's ``ipc_epoch``, by :data:`IMAGENET_EPOCHS`.

    For exactly 100 classes it is two thirds of the table's number, rounded down to a multiple of 100. Deviation: with
    bounded multi-formation the authors' program counts at most 128 images per class here, so pass the epochs explicitly
    for such a set.
    """
    epochs = next((epochs for most, epochs in IMAGENET_EPOCHS if per_class <= most), 300)
    return epochs * 2 // 3 // 100 * 100 if classes == 100 else epochs


def one_drop(epoch: int, epochs: int) -> float:
    """Return the factor of DC's learning rate: 1 up to epoch E//2 + 1 (counted from 0, E = ``epochs``), then 0.1."""
    return 1.0 if epoch <= epochs // 2 + 1 else 0.1


def two_drops(epoch: int, epochs: int) -> float:
    """Return the factor of IDC's learning rate: 1, then 0.2 from epoch 2E//3, and 0.04 from epoch 5E//6.

    Epochs are counted from 0, and E = ``epochs``.
    """
    drops = (epoch >= 2 * epochs // 3) + (epoch >= 5 * epochs // 6)
    return float(0.2**drops)


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Training by SGD on the cross-entropy, in shuffled epochs that include the incomplete last batch."""

    lr: float
    """Initial learning rate."""
    momentum: float
    """Momentum of SGD."""
    weight_decay: float
    """Weight decay, applied to all parameters."""
    batch: int
    """Number of images per update."""
    epochs: EpochRule
    """Default number of epochs E."""
    schedule: Schedule
    """Factor of the learning rate in each epoch."""
    reset_momentum: bool = False
    """Whether the optimiser is created anew when the learning rate changes, which resets its momentum."""
    extra_epochs: int = 0
    """Number of epochs that the authors' program runs in addition to E; the schedule and tables use E."""
    augmentation: Augmentation = field(default_factory=Nothing)
    """Augmentation of each batch, in normalised space."""
    cutmix: float = 0.0
    """Probability that CutMix is applied to a batch, after the augmentation."""
    evaluations: int = 1
    """Number of test evaluations, evenly spaced over the epochs; the last one follows the last epoch."""
    fewer: Mapping[str, Fewer] = field(default_factory=dict)
    """Exceptions to :attr:`epochs`, by the name of a network without its options."""
    about: str = field(default="", compare=False)
    """What the protocol is, in one line, for ``dist-condense list``."""
    full_epochs: int | None = None
    """Number of epochs E on the whole training set; None if it follows from :attr:`epochs`, as for other sets."""

    def epochs_for(self, labels: Tensor, architecture: str = "", tiles: int = 1) -> int:
        """Return the number of epochs E for a set, which depends on its mean number of decoded images per class.

        :param labels: labels of the decoded images, ``[N]`` or class probabilities ``[N, classes]``.
        :param architecture: name of a network, possibly with options after a colon.
        :param tiles: number of decoded images per learnt image.
        """
        classes = labels.shape[1] if labels.ndim == 2 else len(labels.unique())
        per_class = len(labels) // classes
        fewer = self.fewer.get(architecture.partition(":")[0])
        if fewer is not None and tiles >= fewer.tiles and per_class // tiles >= fewer.ipc:
            return fewer.epochs
        return self.epochs(per_class, classes)


DSA = Strategy(one_of=("color", "crop", "cutout", "flip", "scale", "rotate"))
IDC = Strategy(always=("flip", "color"), one_of=("crop", "scale", "rotate"))
IDC_CUTOUT = Strategy(always=("color", "cutout"), one_of=IDC.one_of)

_DC = Protocol(
    about="DC (Zhao et al. 2021): 300 epochs with one drop of the learning rate, batches of 256, no augmentation",
    lr=0.01,
    momentum=0.9,
    weight_decay=5e-4,
    batch=256,
    epochs=three_hundred,
    schedule=one_drop,
    reset_momentum=True,
    extra_epochs=1,
)
_DSA = replace(
    _DC,
    about="DSA (Zhao and Bilen 2021): DC's for 1,000 epochs, with its augmentation",
    epochs=thousand,
    augmentation=ByStrategy(DSA),
)
_IDC = Protocol(
    about="IDC (Kim et al. 2022), images of about 32 px: two drops, batches of 64, its augmentation and CutMix",
    lr=0.01,
    momentum=0.9,
    weight_decay=5e-4,
    batch=64,
    epochs=thousand,
    schedule=two_drops,
    augmentation=ByStrategy(IDC),
    cutmix=0.5,
    evaluations=4,
    fewer={"densenet121": Fewer(400, ipc=50, tiles=2)},
    full_epochs=300,
)
_IMAGENET = replace(
    _IDC,
    about="IDC's for photographs (ImageNet-10 and other sets of few classes): crops of random size, CutMix always",
    epochs=imagenet_epochs,
    augmentation=ImagenetAugmentation(),
    cutmix=1.0,
    fewer={},
)

PROTOCOLS: dict[str, Protocol] = {
    "dc": _DC,
    "dc_mnist": replace(
        _DC,
        about="DC's for MNIST: 1,000 epochs, each image cropped, scaled or rotated",
        epochs=thousand,
        augmentation=OnePerImage(("crop", "scale", "rotate")),
    ),
    "dc_batchnorm": replace(
        _DC,
        about="DC's for a ConvNet with BatchNorm: 1,000 epochs, each image cropped or with noise",
        epochs=thousand,
        augmentation=OnePerImage(("crop", "noise")),
    ),
    "dsa": _DSA,
    "dm": replace(_DSA, about="DM (Zhao and Bilen 2023), which trains as DSA does"),
    "idc": _IDC,
    "idc_mnist_factor2": replace(
        _IDC,
        about="IDC's for MNIST with a factor above 1: colour, and one of crop, scale and rotate; no CutMix",
        cutmix=0.0,
    ),
    "idc_svhn_ipc1": replace(
        _IDC,
        about="IDC's for SVHN with ipc 1 and factor 1: colour, cutout, and one of crop, scale and rotate; no CutMix",
        augmentation=ByStrategy(IDC_CUTOUT),
        cutmix=0.0,
    ),
    "idc_speech": replace(
        _IDC, about="IDC's for spectrograms: no augmentation, no CutMix", augmentation=Nothing(), cutmix=0.0
    ),
    "idc_imagenet": _IMAGENET,
    "idc_imagenet100": replace(
        _IMAGENET,
        about="IDC's for photographs of 100 classes or more: idc_imagenet with batches of 128 and lr 0.1",
        lr=0.1,
        weight_decay=1e-4,
        batch=128,
    ),
}
"""Protocols by name.

Every protocol omits flips if they change the labels of the data set; IDC's program does so for MNIST and SVHN by name.
"""
REPLACED: Mapping[str, str] = {"dsa_noflip": "dsa", "idc_noflip": "idc"}
"""Present name of each protocol that had another name in an earlier version, in which flips were part of the name."""


def protocol(name: str, flip: bool = True) -> Protocol:
    """Return the protocol of this name. Raises ValueError, which lists all names, if there is none.

    :param flip: whether flipped images keep their label; if not, the returned protocol does not flip.
    """
    if name not in PROTOCOLS:
        now = f" {REPLACED[name]} does the same now." if name in REPLACED else ""
        raise ValueError(f"evaluation.protocol is {name!r}: set it to one of {', '.join(PROTOCOLS)}.{now}")
    published = PROTOCOLS[name]
    return published if flip else replace(published, augmentation=published.augmentation.without_flip())
