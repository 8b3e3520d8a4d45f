"""How the papers train a network on a set before they test it. A protocol is added by a line of `PROTOCOLS`.

Set by reading the published programs. The last epoch is what we report; IDC's papers report the best of four test
evaluations, which stands beside it under its own name.
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
"""(decoded images per class, classes) to the epochs E of a protocol."""
Schedule = Callable[[int, int], float]
"""(epoch from 0, E) to the factor of the learning rate in that epoch."""


@dataclass(frozen=True)
class Fewer:
    """Epochs of one network on sets that are large enough."""

    epochs: int
    """E"""
    ipc: int
    """From so many learnt images per class on."""
    tiles: int
    """And from so many tiles of each on."""


def thousand(per_class: int, classes: int) -> int:
    """1000, whatever the set."""
    return 1000


def three_hundred(per_class: int, classes: int) -> int:
    """300, whatever the set."""
    return 300


IMAGENET_EPOCHS = ((1, 3000), (10, 2000), (50, 1500), (200, 1000), (500, 500))
"""(decoded images per class at most, epochs); beyond the last line 300."""


def imagenet_epochs(per_class: int, classes: int) -> int:
    """IDC's ``ipc_epoch``. 100 classes: two thirds, down to a multiple of 100 (no other count is treated so).

    The published bounded multi-formation counts at most 128 per class here: hand the epochs in for such a set.
    """
    epochs = next((epochs for most, epochs in IMAGENET_EPOCHS if per_class <= most), 300)
    return epochs * 2 // 3 // 100 * 100 if classes == 100 else epochs


def one_drop(epoch: int, epochs: int) -> float:
    """DC: a tenth once epoch E//2 + 1 (from 0) is over."""
    return 1.0 if epoch <= epochs // 2 + 1 else 0.1


def two_drops(epoch: int, epochs: int) -> float:
    """IDC: a fifth from epoch 2E//3 on, a twenty-fifth from 5E//6 on."""
    drops = (epoch >= 2 * epochs // 3) + (epoch >= 5 * epochs // 6)
    return float(0.2**drops)


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """SGD on the cross-entropy, shuffled, the incomplete batch of an epoch kept."""

    lr: float
    """Learning rate."""
    momentum: float
    """Momentum."""
    weight_decay: float
    """Weight decay, of all parameters."""
    batch: int
    """Images per update."""
    epochs: EpochRule
    """E, unless the caller gives it."""
    schedule: Schedule
    """The learning rate over the epochs."""
    reset_momentum: bool = False
    """A drop of the learning rate starts a new optimiser."""
    extra_epochs: int = 0
    """Epochs beyond E that the published program runs; E counts for the schedule and in tables."""
    augmentation: Augmentation = field(default_factory=Nothing)
    """Per batch, in normalised space."""
    cutmix: float = 0.0
    """Probability of CutMix per batch, after the augmentation."""
    evaluations: int = 1
    """Test evaluations, evenly spread, the last one at the end."""
    fewer: Mapping[str, Fewer] = field(default_factory=dict)
    """Exceptions of :attr:`epochs` by the name of a network, without its options."""
    whole_epochs: int | None = None
    """E on the whole training set; None: as on any other."""

    def epochs_for(self, labels: Tensor, architecture: str = "", tiles: int = 1) -> int:
        """E of a set with these labels, ``[N]`` or class probabilities ``[N, classes]``, from its mean count of
        decoded images per class.

        :param architecture: a network's name, perhaps with options after a colon.
        :param tiles: decoded images of a learnt one.
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
    lr=0.01,
    momentum=0.9,
    weight_decay=5e-4,
    batch=256,
    epochs=three_hundred,
    schedule=one_drop,
    reset_momentum=True,
    extra_epochs=1,
)
_DSA = replace(_DC, epochs=thousand, augmentation=ByStrategy(DSA))
_IDC = Protocol(
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
    whole_epochs=300,
)
_IMAGENET = replace(_IDC, epochs=imagenet_epochs, augmentation=ImagenetAugmentation(), cutmix=1.0, fewer={})

PROTOCOLS: Mapping[str, Protocol] = {
    "dc": _DC,
    "dc_mnist": replace(_DC, epochs=thousand, augmentation=OnePerImage(("crop", "scale", "rotate"))),
    "dc_batchnorm": replace(_DC, epochs=thousand, augmentation=OnePerImage(("crop", "noise"))),
    "dsa": _DSA,
    "dm": _DSA,
    "idc": _IDC,
    "idc_mnist_factor2": replace(_IDC, cutmix=0.0),
    "idc_svhn_ipc1": replace(_IDC, augmentation=ByStrategy(IDC_CUTOUT), cutmix=0.0),
    "idc_speech": replace(_IDC, augmentation=Nothing(), cutmix=0.0),
    "idc_imagenet": _IMAGENET,
    "idc_imagenet100": replace(_IMAGENET, lr=0.1, weight_decay=1e-4, batch=128),
}
"""`dc_mnist` and `dc_batchnorm`: DC on MNIST, and into a ConvNet with BatchNorm. IDC's exceptions, both without CutMix:
`idc_mnist_factor2`, MNIST with a factor above 1 (colour, one of crop, scale, rotate); `idc_svhn_ipc1`, SVHN with ipc 1
and factor 1 (colour, the same list, cutout). Flips are left out of each where the data set says so, as its program does
for MNIST and SVHN by name."""
REPLACED: Mapping[str, str] = {"dsa_noflip": "dsa", "idc_noflip": "idc"}
"""Names of an earlier version, which did not look at the data set."""


def protocol(name: str, flip: bool = True) -> Protocol:
    """The protocol of this name, or a ValueError that lists them.

    :param flip: whether the data set's images keep their label when they are flipped; else nothing flips them.
    """
    if name not in PROTOCOLS:
        now = f" {REPLACED[name]} does the same now." if name in REPLACED else ""
        raise ValueError(f"evaluation.protocol is {name!r}: set it to one of {', '.join(PROTOCOLS)}.{now}")
    found = PROTOCOLS[name]
    return found if flip else replace(found, augmentation=found.augmentation.without_flip())
