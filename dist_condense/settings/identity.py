"""The keys that a run is known by: those that change its result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dist_condense.settings.keys import KEYS, renamed, value
from dist_condense.settings.schema import RunConfig

FREE = (
    "cluster.",
    "data.",
    "tracking.",
    "evaluation.",
    "output",
    "dataset.root",
    "dataset.download",
    "training.check_finite",
)
"""Keys that do not change the set; other data under dataset.root are known by their digest."""
SETTLED = (
    "compute.slices",
    "compute.threads",
    "compute.reproducible",
    "dataset.channels",
    "dataset.mean",
    "dataset.std",
)
"""Keys that do, and stay as the first start chose them."""


def identity(config: RunConfig) -> dict[str, Any]:
    """Every key that changes the result, dotted, with its value; open choices once they are settled.

    Left out are where and how the same is computed, read, tracked and evaluated, and where the data lie.
    """
    values = {key: value(config, key) for key in KEYS if not key.startswith(FREE)}
    return {key: item for key, item in values.items() if key not in SETTLED or item is not None}


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Keys that differ between two identities, one line each; settled keys count once both sides state them.

    :param old: perhaps of an earlier version: its names are translated, and a key that it lacks has its default.
    """
    before, contradictions = renamed(old)
    defaults = {key: entry.default for key, entry in KEYS.items() if key not in SETTLED}
    before = defaults | before
    changed = [key for key in new if (key not in SETTLED or key in before) and before.get(key) != new[key]]
    return [*contradictions, *(f"{key}: {before.get(key)!r} there, {new[key]!r} now" for key in changed)]


def translated(stored: Mapping[str, Any]) -> dict[str, Any]:
    """An identity, perhaps of an earlier version, under the names of this one."""
    return renamed(stored)[0]
