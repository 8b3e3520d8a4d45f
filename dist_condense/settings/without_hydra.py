"""Composition of configs where Hydra and OmegaConf are not installed, for the forms that the shipped configs have.

The ``defaults`` of a file may name ``_self_``, one file of each group, and a recipe, whose own ``defaults`` have the
same form; the only interpolation is ``${oc.env:NAME,DEFAULT}``. All other forms are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dist_condense.settings.keys import GROUPS, RECIPE, leaves
from dist_condense.settings.values import Unusable
from dist_condense.settings.variables import NEEDS
from dist_condense.settings.yaml_files import ENDINGS, SHAPE, package, texts

SELF, GLOBAL = "_self_", "_global_"


def composed(file: Path, shipped: Path, groups: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Compose a config file with its defaults, like :func:`dist_condense.settings.composing.composed`.

    Returns dotted keys, with interpolations unresolved, and the name of the selected file of each group.
    """
    if not (own := _read(file, None, GLOBAL)):
        raise Unusable(f"{file} is empty; {SHAPE}")
    composition = _Composition(file, shipped, groups)
    composition.add(file, own)
    if unknown := next((group for group in groups if group not in composition.chosen), None):
        raise Unusable(f"{unknown}: the defaults of {file} name no {unknown} to replace; give {unknown}.KEY=VALUE")
    return composition.keys, composition.chosen


class _Composition:
    """Keys and names of files that :func:`composed` returns, while files are added."""

    def __init__(self, file: Path, shipped: Path, groups: Mapping[str, str]) -> None:
        self.file, self.shipped, self.groups = file, shipped, groups
        self.keys: dict[str, Any] = {}
        self.chosen: dict[str, str] = {}

    def add(self, file: Path, own: dict[str, Any]) -> None:
        """Add the files of the defaults of a file, and its own keys, in their order."""
        defaults = dict(_defaults(file, own.pop("defaults", [])))
        for group, name in {**defaults, SELF: SELF}.items() if SELF not in defaults else defaults.items():
            if group == SELF:
                self.keys |= leaves(own)
                continue
            self.chosen[group] = self.groups.get(group, name)
            named = self._found(f"{group}/{self.chosen[group]}")
            if group == RECIPE:
                self.add(named, _read(named, GLOBAL))
            else:
                self.keys |= leaves({group: _read(named, None)})

    def _found(self, name: str) -> Path:
        places = (folder / f"{name}{ending}" for folder in (self.file.parent, self.shipped) for ending in ENDINGS)
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            raise Unusable(f"{name} was not found, but the defaults of {self.file} name it")
        return found


def _read(file: Path, *headers: str | None) -> dict[str, Any]:
    """Read a file whose header names one of these packages; None: it names none."""
    if package(file) not in headers:
        raise Unusable(f"{file}: its header, # @package, {NEEDS}")
    return texts(file)


def _defaults(file: Path, entries: list[Any]) -> Iterator[tuple[str, str]]:
    """Yield the name of the file of each group, and of the config itself, in their order."""
    for entry in entries:
        pairs = list(entry.items()) if isinstance(entry, dict) else [(entry, entry)]
        for group, name in pairs:
            known = group.removeprefix("/") if isinstance(group, str) else group
            if known != SELF and (known not in GROUPS or not isinstance(name, str)):
                raise Unusable(f"{file}: defaults: {entry!r:.80} {NEEDS}")
            yield known, name
