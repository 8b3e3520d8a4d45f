"""Catalogue of networks: `build("convnet:depth=4", channels=3, size=32, classes=10, seed=0)`.

Each entry is a function of channels, size, classes and its own options that returns a `Network`. A network is named by
a text: the name of an entry and, optionally, some of its options (see `text`).
"""

from dist_condense.networks.base import Network, Size, feature_count, largest_output, outputs, sides, weight_bytes
from dist_condense.networks.catalogue import (
    NETWORKS,
    TIMM,
    batch_norms,
    build,
    check,
    defaults,
    names,
    needs_several,
    options,
    shortest,
    sketch,
    unreadable,
)
from dist_condense.networks.text import join, split

__all__ = [
    "NETWORKS",
    "TIMM",
    "Network",
    "Size",
    "batch_norms",
    "build",
    "check",
    "defaults",
    "feature_count",
    "join",
    "largest_output",
    "names",
    "needs_several",
    "options",
    "outputs",
    "shortest",
    "sides",
    "sketch",
    "split",
    "unreadable",
    "weight_bytes",
]
