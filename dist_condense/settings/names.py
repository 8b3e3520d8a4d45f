"""Every name that a config can use: what is refused and what ``dist-condense list`` shows come from one table."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import reduce
from pathlib import Path

from dist_condense import networks
from dist_condense.core.augmentation import OPERATIONS
from dist_condense.core.distance import DISTANCES
from dist_condense.core.parameterisation import DECODINGS
from dist_condense.core.statistic import PARAMETERS
from dist_condense.data import SUBSETS, constants
from dist_condense.data import names as data_names
from dist_condense.data.reading.tiers import AUTO, SOURCES, TIERS
from dist_condense.engine.matching.recipe import DRAWS
from dist_condense.evaluation.protocols import PROTOCOLS, REPLACED
from dist_condense.selection.table import SELECTIONS
from dist_condense.settings import assembly, procedures
from dist_condense.settings.config import RunConfig, shipped

TIMM_NAMES = f"{networks.TIMM}NAME"
SETS = (*SELECTIONS, "condensed", "whole")
DEVICES = ("auto", "cpu", "cuda")

REMOVED = {"evaluation.protocol": REPLACED}
"""Key: names of an earlier version, and which one does the same now."""

CHOICES: dict[str, tuple[tuple[str, ...], Collection[str]]] = {
    "whose mean and std": (("dataset.constants",), constants.names()),
    "procedures": (("method.procedure",), procedures.PROCEDURES),
    "starts of the pixels": (("method.start",), assembly.STARTS),
    "decodings": (("method.parameterisation.decoding",), DECODINGS),
    "statistics": (("method.statistic.name",), assembly.STATISTICS),
    "parameters that the gradient is taken of": (("method.statistic.parameters",), PARAMETERS),
    "groupings": (("method.grouping.name",), assembly.PARTITIONS),
    "distances": (("method.distance",), DISTANCES),
    "augmentation operations": (("method.augmentation.always", "method.augmentation.one_of"), OPERATIONS),
    "draws of real images": (("method.real_draw",), DRAWS),
    "starts of a network": (("trajectory.start",), assembly.NETWORK_STARTS),
    "training of theta": (("training.source",), assembly.BATCHES),
    "selections of real images": (("method.selection.name",), SELECTIONS),
    "evaluation sets": (("evaluation.sets",), SETS),
    "evaluation protocols": (("evaluation.protocol",), PROTOCOLS),
    "devices": (("cluster.device",), DEVICES),
    "sources of real images": (("data.source",), SOURCES),
    "where real images are kept": (("data.tier",), (AUTO, *TIERS)),
}
"""Title: the keys that take one of these names, or a list of them."""


def unknown(config: RunConfig) -> Iterator[str]:
    """A line for each name of the config that is not in the table; networks are looked at by ``checks``."""
    for keys, names in CHOICES.values():
        for key in keys:
            for value in _values(config, key):
                if value not in names:
                    now = REMOVED.get(key, {}).get(value)
                    hint = f"; set {now} instead, which does the same now" if now else ""
                    yield f"{key}: {value!r} is not one of {', '.join(names)}{hint}"


def listed() -> Iterator[tuple[str, Collection[str]]]:
    """Titles and names: what is looked up elsewhere (files, data sets, networks), then the table."""
    yield "shipped configs", [f"configs/{name}.yaml" for name in _stems(shipped())]
    yield "data sets (dataset.name)", data_names()
    yield "named classes (dataset.classes)", SUBSETS
    yield "networks (network.name, evaluation.architectures)", [*networks.names(), TIMM_NAMES]
    yield "options of a network, as in convnet:depth=4:norm=batch", [*map(_with_options, networks.names())]
    yield "methods (method=)", _stems(shipped() / "method")
    yield "groups of training keys (training=)", _stems(shipped() / "training")
    for title, (keys, names) in CHOICES.items():
        yield f"{title} ({', '.join(keys)})", names


def _values(config: RunConfig, key: str) -> list[str]:
    value = reduce(getattr, key.split("."), config)
    return value if isinstance(value, list) else [] if value is None else [str(value)]


def _with_options(network: str) -> str:
    return f"{network}:{','.join(sorted(networks.options(network)))}".rstrip(":")


def _stems(folder: Path) -> list[str]:
    return sorted(file.stem for file in folder.glob("*.yaml"))
