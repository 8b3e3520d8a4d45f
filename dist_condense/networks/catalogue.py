"""Catalogue of networks by name: it lists their options, builds them, and checks that images suit them."""

import functools
import inspect
from collections.abc import Callable
from itertools import islice

import torch
from torch import nn

from dist_condense.networks.base import Network, Size, SizeError, check_size, output_shape, sides
from dist_condense.networks.classic import MLP, VGG11, AlexNet, LeNet
from dist_condense.networks.convnet import ConvNet
from dist_condense.networks.densenet import densenet121
from dist_condense.networks.external import (
    efficientnet_b0,
    known_timm,
    timm_network,
    torchvision_densenet121,
    torchvision_efficientnet_b0,
    torchvision_resnet18,
)
from dist_condense.networks.resnet import resnet10, resnet10_ap, resnet10_cifar, resnet18, resnet18_ap, resnet18_cifar
from dist_condense.networks.text import SHOWN, TIMM, closest, is_option, join, split, typed

Builder = Callable[..., Network]

NETWORKS: dict[str, Builder] = {
    "convnet": ConvNet,
    "resnet10_ap": resnet10_ap,
    "resnet18_ap": resnet18_ap,
    "resnet10": resnet10,
    "resnet18": resnet18,
    "resnet10_cifar": resnet10_cifar,
    "resnet18_cifar": resnet18_cifar,
    "mlp": MLP,
    "lenet": LeNet,
    "alexnet": AlexNet,
    "vgg11": VGG11,
    "densenet121": densenet121,
    "efficientnet_b0": efficientnet_b0,
    "torchvision_resnet18": torchvision_resnet18,
    "torchvision_densenet121": torchvision_densenet121,
    "torchvision_efficientnet_b0": torchvision_efficientnet_b0,
}

GIVEN = frozenset({"channels", "size", "classes", "name"})
"""Parameters that the data set or the catalogue sets, and that are therefore not options."""
SEEDS = 2**63
LARGER = (16, 32, 64, 128, 224)
"""Image sides that are tried as alternatives to an image that is too small."""
SOME = 4
"""Maximum number of other networks that are suggested for an image that is too small."""
_SUITABLE: set[tuple[object, ...]] = set()
"""Networks, each with the images that suit it: a run builds thousands that differ only in their weights, and the check
takes longer than building a ConvNet."""


def build(text: str, *, channels: int, size: Size, classes: int, seed: int, **options: object) -> Network:
    """Build a network for images [N, channels, H, W] on the CPU, with weights drawn from `seed`.

    A seed gives the same weights on every default device and for every state of torch's generators, which are restored
    afterwards.

    :param text: name of a network, optionally with options: `convnet:depth=4`.
    :param size: H = W, or (H, W).
    :param seed: at least 0 and below 2**63.
    :param options: options that are not in `text`.
    :raises ValueError: the name, an option, a value or the seed is invalid, or images do not suit the network.
    :raises ImportError: the network is timm's, and timm is not installed.
    """
    builder = _read(text, options)
    if not 0 <= seed < SEEDS:
        raise ValueError(f"The seed of a network is {seed}: it must be at least 0 and less than 2**63.")
    # torch.manual_seed would also reseed every accelerator, so only the CPU's generator is set, and restored.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        try:
            return _made(builder, channels, size, classes)
        except SizeError as error:
            alternatives = _alternatives(text, options, size, channels=channels, classes=classes)
            raise SizeError(f"{text}: {error}{alternatives}") from error


def sketch(text: str, *, channels: int, size: Size, classes: int, **options: object) -> Network:
    """Build the network without weights (on the meta device), to inspect its layers.

    Some networks of timm compute while they are built; only these are built with weights. Raises the errors of `build`.
    """
    builder = _read(text, options)
    try:
        with torch.device("meta"):
            return _made(builder, channels, size, classes)
    except SizeError as error:
        alternatives = _alternatives(text, options, size, channels=channels, classes=classes)
        raise SizeError(f"{text}: {error}{alternatives}") from error
    except RuntimeError:
        return build(text, channels=channels, size=size, classes=classes, seed=0, **options)


def check(text: str, installed: bool = True) -> None:
    """Check that the network and its options exist, as far as possible without the images.

    :param installed: whether to look up the name of a timm network in the installed timm.
    :raises ValueError: the name, an option or a value is unknown.
    :raises ImportError: the network is timm's, and timm is not installed.
    """
    _read(text, {})
    name, _ = split(text)
    if installed and name.startswith(TIMM):
        known_timm(name.removeprefix(TIMM))


def shortest(text: str) -> str:
    """Return the text of the same network without the options that have their default values.

    Raises the errors of `check`.
    """
    name, given = split(text)
    parameters = _parameters(_builder(name))
    changed = {key: value for key, value in typed(given, parameters, name).items() if value != parameters[key].default}
    return join(name, changed)


def names() -> list[str]:
    """Return the names in the catalogue, without timm's networks (`timm:NAME`)."""
    return list(NETWORKS)


def options(name: str) -> set[str]:
    """Return the options that the network `name` accepts (width, depth, norm, ...)."""
    return set(_parameters(_builder(name)))


def defaults(name: str) -> dict[str, object]:
    """Return the options of a network and their default values. Raises ValueError if the name is unknown."""
    return {option: parameter.default for option, parameter in _parameters(_builder(name)).items()}


def unreadable(builder: Builder) -> list[str]:
    """Return the options of a builder that have no default, or a type to which no text can be converted."""
    return [key for key, parameter in _parameters(builder).items() if not is_option(parameter)]


def batch_norms(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the names and modules of the layers that normalise over the batch and thus couple its images."""
    kind = nn.modules.batchnorm._BatchNorm
    return [(name, module) for name, module in network.named_modules() if isinstance(module, kind)]


def needs_several(network: Network, channels: int, size: Size) -> bool:
    """Return whether the network cannot be trained on a batch of one image.

    It cannot if a layer normalises maps of 1 x 1 pixel over the batch, which then consists of one value per channel.
    """
    pixels: list[int] = []
    layers = [layer for _, layer in batch_norms(network)]
    hooks = [layer.register_forward_pre_hook(lambda _, x: pixels.append(x[0].shape[2:].numel())) for layer in layers]
    try:
        if layers:
            output_shape(network, channels, size)
    finally:
        for hook in hooks:
            hook.remove()
    return 1 in pixels


def _read(text: str, more: dict[str, object]) -> functools.partial[Network]:
    """Return the network's builder, with the options in `text` and in `more` bound."""
    name, own = split(text)
    builder = _builder(name)
    if twice := sorted(set(own) & set(more)):
        raise ValueError(f"{text}: {', '.join(twice)} given twice, in the name and as a separate option")
    return functools.partial(builder, **typed({**own, **more}, _parameters(builder), name, _all_options))


def _all_options() -> set[str]:
    return {option for builder in NETWORKS.values() for option in _parameters(builder)}


def _builder(name: str) -> Builder:
    if name.startswith(TIMM):
        return functools.partial(timm_network, name.removeprefix(TIMM))
    if name not in NETWORKS:
        raise ValueError(
            f"no network {name!r:.{SHOWN}}{closest(name, names())}; there are {', '.join(names())} and timm:NAME"
        )
    return NETWORKS[name]


def _parameters(builder: Builder) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(builder, eval_str=True).parameters  # of a module with postponed annotations, too
    return {key: value for key, value in parameters.items() if key not in GIVEN}


def _made(builder: functools.partial[Network], channels: int, size: Size, classes: int) -> Network:
    network = builder(channels=channels, size=size, classes=classes)
    key = (builder.func, *builder.args, *sorted(builder.keywords.items()), channels, size, classes)
    if key not in _SUITABLE:
        check_size(network, channels, size)
        _SUITABLE.add(key)
    return network


def _alternatives(text: str, more: dict[str, object], size: Size, *, channels: int, classes: int) -> str:
    """Return the end of an error message that suggests tested sizes, options or networks; empty if there are none."""
    takes = functools.partial(_takes, channels=channels, classes=classes)
    name, own = split(text)
    same = join(name, {**own, **more})
    larger = (side for side in LARGER if side > max(sides(size)) and takes(same, side))
    ways = [f"dataset.size={side}" for side in islice(larger, 1)]
    if "img_size" in options(name) and isinstance(size, int):
        ways += [f"img_size={size}"] if takes(join(name, {**own, **more, "img_size": size}), size) else []
    others = list(islice((other for other in names() if other != name and takes(other, size)), SOME))
    ways += [f"another network ({', '.join(others)})"] if others else []
    return f"; use {', or '.join(ways)}" if ways else ""


def _takes(text: str, size: Size, *, channels: int, classes: int) -> bool:
    try:
        with torch.device("meta"):
            _made(_read(text, {}), channels, size, classes)
    except Exception:
        return False
    return True
