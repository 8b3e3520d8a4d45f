"""The identity of a run: the keys that change its result."""

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
"""Prefixes of keys that do not change the synthetic set. Data under dataset.root are identified by a digest."""
SETTLED = (
    "compute.slices",
    "compute.threads",
    "compute.reproducible",
    "dataset.channels",
    "dataset.mean",
    "dataset.std",
)
"""Keys that change the synthetic set; if they are null, the run's first start sets them, and later starts keep them."""


def identity(config: RunConfig) -> dict[str, Any]:
    """Return the values of all keys that change the synthetic set, by dotted name.

    Keys that do not change the set (:data:`FREE`) are omitted, and so are the keys of :data:`SETTLED` that are null,
    because the run's first start has not replaced them yet.
    """
    values = {key: value(config, key) for key in KEYS if not key.startswith(FREE)}
    return {key: item for key, item in values.items() if key not in SETTLED or item is not None}


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return a message for each key that differs between two identities.

    A key of :data:`SETTLED` is compared only if both identities contain it.

    :param old: identity that an earlier version may have written: old names are translated, and missing keys have
        their defaults.
    """
    before, contradictions = renamed(old)
    defaults = {key: entry.default for key, entry in KEYS.items() if key not in SETTLED}
    before = defaults | before
    changed = [key for key in new if (key not in SETTLED or key in before) and before.get(key) != new[key]]
    return [*contradictions, *(f"{key}: {before.get(key)!r} there, {new[key]!r} now" for key in changed)]


def translated(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Translate a stored identity, which an earlier version may have written, to the current names of its keys."""
    return renamed(stored)[0]
