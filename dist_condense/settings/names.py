"""All names that a config can use, in the tables of ``dist-condense list``."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from dist_condense import networks
from dist_condense.data import SUBSETS
from dist_condense.data import names as data_names
from dist_condense.settings.architectures import GROUPS
from dist_condense.settings.config import shipped
from dist_condense.settings.keys import KEYS
from dist_condense.settings.limits import OneOf
from dist_condense.system import plugins

TIMM_NAMES = f"{networks.TIMM}NAME"


def listed() -> Iterator[tuple[str, Collection[str]]]:
    """Yield the title and the names of each table: files, data sets, networks, then the tables of the schema's keys."""
    yield "shipped configs", [f"configs/{name}.yaml" for name in _stems(shipped())]
    yield "data sets (dataset.name)", data_names()
    yield "named classes (dataset.classes)", SUBSETS
    yield "networks (network.name, evaluation.architectures)", [*networks.names(), TIMM_NAMES]
    yield "options of a network, as in convnet:depth=4:norm=batch", [*map(_with_options, networks.names())]
    yield "groups of networks (evaluation.architectures)", [f"{k} ({', '.join(v)})" for k, v in GROUPS.items()]
    yield "recipes, all of a paper's method (recipe=)", _stems(shipped() / "recipe")
    yield "methods (method=)", _stems(shipped() / "method")
    yield "groups of training keys (training=)", _stems(shipped() / "training")
    tables: dict[OneOf, list[str]] = {}
    for key in KEYS.values():
        if isinstance(key.limit, OneOf):
            tables.setdefault(key.limit, []).append(key.name)
    for table, keys in tables.items():
        yield f"{table.title} ({', '.join(keys)})", table.names
    if own := [*map(str, plugins.registered())]:
        yield "of these, registered by plug-ins", own


def _with_options(network: str) -> str:
    return f"{network}:{','.join(sorted(networks.options(network)))}".rstrip(":")


def _stems(folder: Path) -> list[str]:
    return sorted(file.stem for file in folder.glob("*.yaml"))
