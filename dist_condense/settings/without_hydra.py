"""Composition of configs where Hydra and OmegaConf are not installed, for the forms that the shipped configs have.

The ``defaults`` of a file may name one file of each group, and ``_self_``; the only interpolation is
``${oc.env:NAME,DEFAULT}``. All other forms are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dist_condense.settings.keys import SECTIONS, leaves
from dist_condense.settings.values import Unusable
from dist_condense.settings.variables import NEEDS
from dist_condense.settings.yaml_files import ENDINGS, SHAPE, package, texts

SELF = "_self_"


def composed(file: Path, shipped: Path, groups: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Compose a config file with its defaults, like :func:`dist_condense.settings.composing.composed`.

    Returns dotted keys, with interpolations unresolved, and the name of the selected file of each group.
    """
    own = _read(file)
    if not own:
        raise Unusable(f"{file} is empty; {SHAPE}")
    defaults = dict(_defaults(file, own.pop("defaults", [])))
    if unknown := next((group for group in groups if group not in defaults), None):
        raise Unusable(f"{unknown}: the defaults of {file} name no {unknown} to replace; give {unknown}.KEY=VALUE")
    chosen = {group: groups.get(group, name) for group, name in defaults.items() if group != SELF}
    keys: dict[str, Any] = {}
    for group in {**defaults, SELF: SELF} if SELF not in defaults else defaults:
        keys |= leaves(own if group == SELF else {group: _read(_found(file, shipped, f"{group}/{chosen[group]}"))})
    return keys, chosen


def _read(file: Path) -> dict[str, Any]:
    if package(file) is not None:
        raise Unusable(f"{file}: its header, # @package, {NEEDS}")
    return texts(file)


def _defaults(file: Path, entries: list[Any]) -> Iterator[tuple[str, str]]:
    """Yield the name of the file of each group, and of the config itself, in their order."""
    for entry in entries:
        pairs = list(entry.items()) if isinstance(entry, dict) else [(entry, entry)]
        for group, name in pairs:
            if group != SELF and (group not in SECTIONS or not isinstance(name, str)):
                raise Unusable(f"{file}: defaults: {entry!r:.80} {NEEDS}")
            yield group, name


def _found(file: Path, shipped: Path, name: str) -> Path:
    places = (folder / f"{name}{ending}" for folder in (file.parent, shipped) for ending in ENDINGS)
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise Unusable(f"{name} was not found, but the defaults of {file} name it")
    return found
