"""The identity of a run: the keys that change its result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dist_condense.settings.keys import KEYS, renamed, value
from dist_condense.settings.limits import refusals
from dist_condense.settings.schema import RunConfig
from dist_condense.system import records
from dist_condense.system.errors import shortened

FREE = (
    "cluster.",
    "data.",
    "tracking.",
    "evaluation.",
    "output",
    "method.name",
    "dataset.root",
    "dataset.download",
    "training.check_finite",
    "compute.cuda_graphs",
)
"""Prefixes of keys that do not change the synthetic set. Data under dataset.root are identified by a digest."""
SETTLED = (
    "compute.slices",
    "compute.threads",
    "compute.reproducible",
    "compute.second_derivative",
    "compute.microbatch",
    "compute.cudnn_benchmark",
    "compute.deterministic",
    "dataset.channels",
    "dataset.bounds",
    "dataset.mean",
    "dataset.std",
)
"""Keys that change the synthetic set; if they are null, the run's first start sets them, and later starts keep them.

The microbatch is set by the workers, which know their memory, and stored by the first of them."""


def identity(config: RunConfig) -> dict[str, Any]:
    """Return the values of all keys that change the synthetic set, by dotted name.

    Keys that do not change the set (:data:`FREE`) are omitted, and so are the keys of :data:`SETTLED` that are null,
    because the run's first start has not replaced them yet.
    """
    values = {key: value(config, key) for key in KEYS if not key.startswith(FREE)}
    return {key: item for key, item in values.items() if key not in SETTLED or item is not None}


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return a message for each key that differs between two identities.

    A key of :data:`SETTLED` is compared only if both identities contain a value of it.

    :param old: identity that an earlier version may have written: old names are translated, and missing keys have
        their defaults.
    """
    before, contradictions = renamed(old)
    defaults = {key: entry.default for key, entry in KEYS.items() if key not in SETTLED}
    before = defaults | before
    compared = [key for key in new if key not in SETTLED or before.get(key) is not None]
    changed = [key for key in compared if before.get(key) != new[key]]
    differing = (f"{key}: {before.get(key)!r:.80} there, {new[key]!r:.80} now" for key in changed)
    return shortened([*(f"{text:.300}" for text in contradictions), *differing], "keys that differ")


def translated(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Translate a stored identity, which an earlier version may have written, to the current names of its keys.

    Keys that are null are omitted.
    """
    return {key: item for key, item in renamed(stored)[0].items() if item is not None}


def impossible(stored: Mapping[str, Any]) -> Iterator[str]:
    """Yield an error message for each value of a stored identity that its key cannot have.

    Only the keys of :data:`SETTLED` are checked, because later starts use their values; other keys are only compared.
    """
    current = translated(stored)
    for key in SETTLED:
        if key not in current:
            continue
        entry = KEYS[key]
        try:
            item = records.made(entry.kind, current[key], key)
        except records.Unreadable as error:
            yield str(error)
        else:
            yield from (f"{key}: {reason}" for reason in (refusals(item, entry.limit) if entry.limit else ()))
    mean, std = current.get("dataset.mean"), current.get("dataset.std")
    if (mean is None) != (std is None):
        yield "dataset.mean, dataset.std: only one of them is there"
