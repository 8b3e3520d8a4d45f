"""Architectures of an evaluation: its entries, and groups of them, such as those of DC's tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dist_condense.settings.config import RunConfig


def _with(option: str, *values: object) -> tuple[str, ...]:
    """Return the condensing network with each value of an option."""
    return tuple(f"network:{option}={value}" for value in values)


GROUPS: Mapping[str, Sequence[str]] = {
    "widths": _with("width", 32, 64, 128, 256),
    "depths": _with("depth", 1, 2, 3, 4),
    "activations": _with("activation", "sigmoid", "relu", "leaky", "swish"),
    "poolings": _with("pooling", "none", "max", "avg"),
    "norms": _with("norm", "none", "batch", "layer", "instance", "group"),
    "networks": ("mlp", "convnet", "lenet", "alexnet", "vgg11", "resnet18_cifar:norm=instance"),
}
"""Groups by name: the architectures of the tables of DC (Zhao et al. 2021)."""


def entries(config: RunConfig) -> list[str]:
    """Return the entries of ``evaluation.architectures`` in their order, each once, with groups expanded."""
    texts = (GROUPS.get(text, (text,)) for text in config.evaluation.architectures)
    return list(dict.fromkeys(entry for group in texts for entry in group))
