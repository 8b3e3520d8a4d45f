"""All keys by their dotted names, from the dataclasses of the schema, and the old names of renamed keys."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any, get_type_hints

from dist_condense.evaluation.rows import SETS_BEFORE
from dist_condense.settings.limits import Limit, limit_of, refusals
from dist_condense.settings.schema import RunConfig


@dataclass(frozen=True)
class Key:
    """A key: its dotted name, its type without metadata, its default, and the limit of its values, if any."""

    name: str
    kind: Any
    default: Any
    limit: Limit | None


def _keys(section: Any, prefix: str = "") -> Iterator[Key]:
    annotated = get_type_hints(type(section), include_extras=True)
    for name, kind in get_type_hints(type(section)).items():
        default = getattr(section, name)
        if is_dataclass(default):
            yield from _keys(default, f"{prefix}{name}.")
        else:
            yield Key(f"{prefix}{name}", kind, default, limit_of(annotated[name]))


KEYS: dict[str, Key] = {key.name: key for key in _keys(RunConfig())}
"""Every key by its dotted name, in the order of the schema."""
SECTIONS: set[str] = {name[:dot] for name in KEYS for dot, sign in enumerate(name) if sign == "."}
"""Dotted names of all sections, such as ``method`` and ``method.images``."""
RECIPE = "recipe"
"""Group of files that set keys of several sections: all of a paper's method."""
GROUPS = {*SECTIONS, RECIPE}
"""Names of the groups of files that a config's ``defaults`` may name."""


def value(config: RunConfig, key: str) -> Any:
    """Return the value of a key by its dotted name."""
    return functools.reduce(getattr, key.split("."), config)


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the value of each entry of nested values.

    A dict is a value, too, where a key expects one, and where it is empty but no section.
    """
    for key, item in values.items():
        name = f"{prefix}{key}"
        if isinstance(item, dict) and name not in KEYS and (item or name in SECTIONS):
            yield from leaves(item, f"{name}.")
        else:
            yield name, item


def refused(config: RunConfig) -> dict[str, str]:
    """Return an error message for each value outside its key's range or table, by key."""
    return {
        key.name: f"{key.name}: {reason}"
        for key in KEYS.values()
        if key.limit is not None
        for reason in refusals(value(config, key.name), key.limit)
    }


def without(config: RunConfig, names: Iterable[str]) -> RunConfig:
    """Return a copy of the config in which the keys ``names`` have their defaults."""
    changed = copy.deepcopy(config)
    for name in names:
        section, _, last = name.rpartition(".")
        setattr(value(changed, section) if section else changed, last, copy.deepcopy(KEYS[name].default))
    return changed


# --- old names, for one version -----------------------------------------------------------------------------------


def _always(old: Any, values: Mapping[str, Any]) -> bool:
    return True


@dataclass(frozen=True)
class Renamed:
    """Replacement of an old key.

    :param name: the new name.
    :param counts: function that returns whether an old value had an effect, given that value and all values of its
        config; a value without effect is dropped.
    :param prevails: whether an old value overrides the value of the new key; otherwise the two must be equal.
    """

    name: str
    counts: Callable[[Any, Mapping[str, Any]], bool] = _always
    prevails: bool = False


EVALUATED = "evaluation.sets"
RENAMED: dict[str, Renamed] = {
    "cluster.slices": Renamed("compute.slices"),
    "cluster.threads": Renamed("compute.threads"),
    "cluster.reproducible": Renamed("compute.reproducible"),
    "evaluation.whole_epochs": Renamed("evaluation.full_epochs"),
    "data.source": Renamed("data.tier", lambda old, values: old != "files", prevails=True),
    "method.parameterisation.budget": Renamed(
        "method.synthetic_limit", lambda old, values: values.get("method.parameterisation.decoding") == "bounded"
    ),
}
"""Replacement of each old key, by name. Configs and checkpoints of earlier versions contain the old names."""


def renamed(values: Mapping[str, Any], beside: Mapping[str, Any] | None = None) -> tuple[dict[str, Any], list[str]]:
    """Return dotted values under their new names, and a message for each old key that contradicts its replacement.

    :param beside: all values of the config, if ``values`` contains only a part of them.
    """
    current, problems = dict(values), []
    for old, entry in RENAMED.items():
        if old not in values:
            continue
        before = current.pop(old)
        if not entry.counts(before, beside or values):
            continue
        now = current.get(entry.name, before)
        if str(now) != str(before) and not entry.prevails:
            problems.append(f"{old}: {before}, but {entry.name}, which replaces it, is {now}; give {entry.name} only")
        else:
            current[entry.name] = before
    if isinstance(sets := current.get(EVALUATED), list):
        current[EVALUATED] = [SETS_BEFORE.get(name, name) if isinstance(name, str) else name for name in sets]
    return current, problems


def note(old: str) -> str:
    """Return the message to print when the old name of a key is used."""
    return f"{old} is called {RENAMED[old].name} now; the old name works in this version only"
