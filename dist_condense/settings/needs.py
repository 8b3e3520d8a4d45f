"""Lower bounds of the memory that a run needs, from its config and the shapes of its tensors; nothing is allocated.

The bounds count tensors that exist in every such run: state of the classes, weights of theta, minibatches, the largest
feature map and the sets of the evaluation. A run that needs more than a machine has is refused by them; a run that
passes may still need more than it has, which ``dist-condense plan`` estimates.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from math import prod
from typing import Any

from torch import nn

from dist_condense import networks
from dist_condense.data.reading.tiers import gib
from dist_condense.engine.matching.shared import STORED
from dist_condense.engine.procedure import Kind
from dist_condense.settings import assembly, images_per_class
from dist_condense.settings.schema import RunConfig
from dist_condense.settings.values import ConfigError

FLOAT, BFLOAT16, INTEGER = 4, 2, 8
"""Bytes of a number in float32, in the networks of ``compute.autocast``, and in an exact sum."""
LESS = "lower ipc or dataset.size, or take fewer classes"
"""What to change so that the learnt images need less."""


@dataclass(frozen=True)
class Need:
    """Memory of some tensors.

    :param key: key of the config on which it depends most.
    :param text: the tensors, as a noun phrase for messages.
    """

    key: str
    text: str
    bytes: int
    _: KW_ONLY
    less: str = ""
    """What to change so that it is less; empty: lower the key."""


@dataclass(frozen=True)
class Needs:
    """Needs of a process: some exist at the same time, the others one after the other."""

    together: Sequence[Need]
    in_turn: Sequence[Need] = field(default_factory=list)

    @property
    def peak(self) -> list[Need]:
        """The needs that exist together with the largest of those in turn, the largest first."""
        largest = sorted(self.in_turn, key=lambda need: need.bytes)[-1:]
        return sorted([*self.together, *largest], key=lambda need: -need.bytes)

    @property
    def bytes(self) -> int:
        """Number of bytes that are needed at the same time."""
        return sum(need.bytes for need in self.peak)

    def excess(self, place: str, room: int) -> str | None:
        """Return an error message, which names the largest need, if more than ``room`` bytes are needed, else None.

        :param place: what has ``room`` bytes, for the message.
        """
        if self.bytes <= room:
            return None
        first = self.peak[0]
        sizes = list(dict.fromkeys(map(gib, (first.bytes, self.bytes))))
        of_all = f" (of at least {sizes[-1]} at the same time)" if len(sizes) > 1 else ""
        change = first.less or f"lower {first.key}"
        return f"{first.key}: {sizes[0]} for {first.text}{of_all}, but {place} has {gib(room)}; {change}"


def of_state(config: RunConfig, dataset: Any, tensors: Callable[[int], Mapping[str, Kind]], classes: int) -> Need:
    """Return the need of the state of ``classes`` average classes.

    :param tensors: function that returns the dtype and shape of the tensors of a class, by name.
    """
    every = range(len(dataset.classes))
    whole = sum(dtype.itemsize * prod(shape) for label in every for dtype, shape in tensors(label).values())
    text = f"the state of {classes} classes of {images_per_class.text(config)} images"
    return Need(images_key(config), text, whole * classes // len(every), less=LESS)


def images_key(config: RunConfig) -> str:
    """Return the key of which the memory of the learnt images depends most."""
    return "ipc" if images_per_class.most(config) > 1 else "dataset.size"


def of_theta(config: RunConfig, dataset: Any) -> tuple[Need, int]:
    """Return the need of theta's weights, and the bytes of its largest feature map for one image.

    On a CPU the weights of the next network are drawn while those of the last one exist.

    :raises ConfigError: the network cannot be built.
    """
    text = assembly.network_text(config.network)
    try:
        weights, largest = sizes(text, **assembly.network_shape(dataset))
    except (ValueError, ImportError) as error:
        raise ConfigError([f"network: {error}"]) from error
    copies = 1 if config.cluster.on_gpu else 2
    less = "lower network.width, or take another network.name"
    return Need("network", f"the weights of {text}", copies * weights, less=less), largest * _number(config)


def of_trained(config: RunConfig, dataset: Any, text: str, batch: int) -> Needs:
    """Return the needs of training a network of the evaluation on batches of ``batch`` images.

    :raises ValueError: the network cannot be built; ImportError: its package is not installed.
    """
    key = "network" if text == assembly.SAME_NETWORK else "evaluation.architectures"
    less = f"take a smaller network than {text}"
    weights, largest = sizes(assembly.architecture(config, text), **assembly.network_shape(dataset))
    maps = Need(key, f"the largest feature map of {text} for {batch} images", FLOAT * largest * batch, less=less)
    return Needs([Need(key, f"the weights of {text} and their gradient", 2 * weights, less=less)], [maps])


def of_pass(config: RunConfig, images: int, each: int, key: str) -> Need:
    """Return the need of the largest feature map in a pass of ``images`` images, of ``each`` bytes, through theta."""
    text = f"the largest feature map of theta for {images} images"
    return Need(key if images > 1 else "dataset.size", text, images * each)


def of_statistics(values: int, *, groups: int, classes: int, exact: bool = True) -> int:
    """Return the bytes of the statistics of groups, synthetic and real, in a step that averages them over classes.

    They are added to the sum of their group as the classes pass. Exact sums store the statistics of a few classes.

    :param values: number of values of the statistic of a class.
    :param groups: number of groups of several classes in the run.
    :param classes: number of classes of the worker.
    """
    stored = min(classes, STORED) if exact else 0
    passing = 2 * FLOAT  # a class's tensors, and the same as a flat one
    each = FLOAT * stored + passing + groups * (FLOAT + INTEGER if exact else FLOAT)
    gradients = 0 if exact else groups * FLOAT * values  # else smaller than the integers before
    return 2 * values * each + gradients


@functools.lru_cache(maxsize=64)
def sizes(text: str, *, channels: int, size: networks.Size, classes: int) -> tuple[int, int]:
    """Return the bytes of a network's weights, and the elements of the largest output of a layer for one image.

    Raises the errors of :func:`dist_condense.networks.sketch`.
    """
    network = networks.sketch(text, channels=channels, size=size, classes=classes)
    return networks.weight_bytes(network), networks.largest_output(network, channels, size)


@functools.lru_cache(maxsize=64)
def output_sum(text: str, *, channels: int, size: networks.Size, classes: int) -> int:
    """Return the elements of the outputs of all layers for one image; raises the errors of `sizes`."""
    network = networks.sketch(text, channels=channels, size=size, classes=classes)
    return sum(networks.outputs(network, channels, size))


@functools.lru_cache(maxsize=64)
def feature_count(text: str, *, channels: int, size: networks.Size, classes: int) -> int:
    """Return the number of values before the classifier of a network for one image; raises the errors of `sizes`."""
    network = networks.sketch(text, channels=channels, size=size, classes=classes)
    network.classifier = nn.Identity()
    return networks.feature_count(network, channels, size)


def _number(config: RunConfig) -> int:
    return BFLOAT16 if config.compute.autocast else FLOAT
