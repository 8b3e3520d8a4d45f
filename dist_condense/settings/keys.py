"""All keys by their dotted names, from the dataclasses of the schema; and the old names of those that were renamed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any, get_type_hints

from dist_condense.settings.limits import Limit, limit_of, refusals
from dist_condense.settings.schema import RunConfig


@dataclass(frozen=True)
class Key:
    """One key: its type without metadata, its default, and the values that it accepts, where these are limited."""

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
"""In the order of the schema."""
SECTIONS: set[str] = {name[:dot] for name in KEYS for dot, sign in enumerate(name) if sign == "."}
"""Dotted names of groups of keys."""


def value(config: RunConfig, key: str) -> Any:
    """The value of a key by its dotted name."""
    return functools.reduce(getattr, key.split("."), config)


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested values by dotted names; an empty group stays one."""
    for key, item in values.items():
        if isinstance(item, dict) and (item or not prefix):
            yield from leaves(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item


def refused(config: RunConfig) -> Iterator[str]:
    """A line for each value outside its key's range or table."""
    for key in KEYS.values():
        if key.limit is not None:
            yield from (f"{key.name}: {said}" for said in refusals(value(config, key.name), key.limit))


# --- old names, for one version -----------------------------------------------------------------------------------


def _always(old: Any, values: Mapping[str, Any]) -> bool:
    return True


@dataclass(frozen=True)
class Renamed:
    """What an old key became.

    :param name: the key that has its value.
    :param counts: whether the old value, among all values of that config, had an effect; else it is left out.
    :param prevails: over a value of the new key beside it; else both have to agree.
    """

    name: str
    counts: Callable[[Any, Mapping[str, Any]], bool] = _always
    prevails: bool = False


RENAMED: dict[str, Renamed] = {
    "cluster.slices": Renamed("compute.slices"),
    "cluster.threads": Renamed("compute.threads"),
    "cluster.reproducible": Renamed("compute.reproducible"),
    "data.source": Renamed("data.tier", lambda old, values: old != "files", prevails=True),
    "method.parameterisation.budget": Renamed(
        "method.synthetic_limit", lambda old, values: values.get("method.parameterisation.decoding") == "bounded"
    ),
}
"""Old name: what it became. The stored configs and checkpoints of runs that were started before have the old names."""


def renamed(values: Mapping[str, Any], beside: Mapping[str, Any] | None = None) -> tuple[dict[str, Any], list[str]]:
    """Dotted values under the new names, and a line for each old key that contradicts the new one.

    :param beside: all values of the config, where ``values`` are some of them.
    """
    found, problems = dict(values), []
    for old, entry in RENAMED.items():
        if old not in values:
            continue
        before = found.pop(old)
        if not entry.counts(before, beside or values):
            continue
        now = found.get(entry.name, before)
        if str(now) != str(before) and not entry.prevails:
            problems.append(f"{old}: {before}, but {entry.name}, which has replaced it, is {now}; give that alone")
        else:
            found[entry.name] = before
    return found, problems


def note(old: str) -> str:
    """A line for whoever uses an old name."""
    return f"{old} is called {RENAMED[old].name} now; the old name works in this version only"
