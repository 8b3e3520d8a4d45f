"""The catalogue of networks: `build("convnet", channels=3, size=32, classes=10, seed=0, depth=4)`.

Each entry is called with channels, size, classes and its own options; it gives a `Network`.
"""

import difflib
import functools
import inspect
from collections.abc import Callable

import torch
from torch import nn

from dist_condense.networks.base import Network, check_size
from dist_condense.networks.classic import MLP, VGG11, AlexNet, LeNet
from dist_condense.networks.convnet import ConvNet
from dist_condense.networks.densenet import densenet121
from dist_condense.networks.external import efficientnet_b0, resnet18, timm_network
from dist_condense.networks.resnet import resnet10_cifar, resnet18_cifar
from dist_condense.networks.resnetap import resnet10_ap, resnet18_ap

__all__ = ["NETWORKS", "Builder", "Network", "batch_norms", "build", "names", "options"]

Builder = Callable[..., Network]

NETWORKS: dict[str, Builder] = {
    "convnet": ConvNet,
    "resnet10_ap": resnet10_ap,
    "resnet18_ap": resnet18_ap,
    "resnet10_cifar": resnet10_cifar,
    "resnet18_cifar": resnet18_cifar,
    "mlp": MLP,
    "lenet": LeNet,
    "alexnet": AlexNet,
    "vgg11": VGG11,
    "densenet121": densenet121,
    "resnet18": resnet18,
    "efficientnet_b0": efficientnet_b0,
}

TIMM = "timm:"
"""`timm:NAME` is the network NAME of timm, looked up when it is built."""
GIVEN = frozenset({"channels", "size", "classes", "name"})
"""What the data set or the catalogue says, so no option."""
SEEDS = 2**63


def build(name: str, *, channels: int, size: int, classes: int, seed: int, **options: object) -> Network:
    """The network `name` for images [N, channels, size, size], on the CPU, its weights drawn from `seed`.

    The same seed gives the same weights whatever the default device or the state of the generators, which are
    left as they were; 0 <= seed < 2**63.
    """
    builder = _builder(name)
    _check_options(name, options)
    if not 0 <= seed < SEEDS:
        raise ValueError(f"The seed of a network is {seed}: it must be at least 0 and less than 2**63.")
    # torch.manual_seed would also reseed every accelerator, so only the CPU's generator is set, and put back.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        network = builder(channels=channels, size=size, classes=classes, **options)
        check_size(network, name, channels, size)
    return network


def names() -> list[str]:
    """The networks of the catalogue; besides them there is `timm:NAME`."""
    return list(NETWORKS)


def options(name: str) -> set[str]:
    """The options that the network `name` accepts (width, depth, norm, ...)."""
    return set(inspect.signature(_builder(name)).parameters) - GIVEN


def batch_norms(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """The layers that normalise over the batch, with their names: they couple the images of a batch."""
    kind = nn.modules.batchnorm._BatchNorm
    return [(name, module) for name, module in network.named_modules() if isinstance(module, kind)]


def _builder(name: str) -> Builder:
    if name.startswith(TIMM):
        return functools.partial(timm_network, name.removeprefix(TIMM))
    if name not in NETWORKS:
        raise ValueError(
            f"There is no network {name!r}{_closest(name, names())}. "
            f"Set network.name to one of {', '.join(names())}, or to timm:NAME."
        )
    return NETWORKS[name]


def _check_options(name: str, given: dict[str, object]) -> None:
    known = sorted(options(name))
    for option in given:
        if option not in known:
            raise ValueError(
                f"The network {name} has no option {option!r}{_closest(option, known)}. "
                f"Its options are: {', '.join(known) or 'none'}."
            )


def _closest(word: str, known: list[str]) -> str:
    """A question for the known word nearest to this one, or nothing."""
    matches = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" (did you mean {matches[0]!r}?)" if matches else ""
