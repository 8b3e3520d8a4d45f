"""Keys of an evaluation that follow from the first run in it, by its config, or else from the card of a set."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dist_condense.data.catalogue import KNOWN
from dist_condense.data.sets.request import VARIABLES
from dist_condense.evaluation.protocols import PROTOCOLS
from dist_condense.result.card import CARD, PROTOCOL, Card, SyntheticSetError, read_card
from dist_condense.settings import config as configs
from dist_condense.settings.config import ConfigError
from dist_condense.settings.keys import KEYS, value
from dist_condense.settings.run_folder import RunFolder

PROTOCOL_KEY = "evaluation.protocol"
OF_RUN = ("dataset.", "network.", PROTOCOL_KEY, "evaluation.architectures", "evaluation.full_epochs")
"""Prefixes of the keys that are those of the run whose set is evaluated."""


def implied(paths: Sequence[Path], given: Sequence[str]) -> dict[str, Any]:
    """Return the keys that follow from the first run, or else the first synthetic set, among the paths, by dotted name.

    :param given: names of keys that the user gives.
    :raises ConfigError: its card or config cannot be read, or the card does not name the protocol and it is not given.
    """
    sets = [each for path in paths for each in (path, RunFolder(path).synthetic_set) if os.path.isfile(each / CARD)]
    if run := next(filter(None, map(run_of, sets)), None):
        config = configs.read(RunFolder(run).config)
        return {key: value(config, key) for key in KEYS if key.startswith(OF_RUN)}
    return _of_set(sets[0], given) if sets else {}


def run_of(path: Path) -> Path | None:
    """Return the folder of the run that a path names, itself or by its synthetic set; None if it names none."""
    absolute = Path(os.path.abspath(path))
    folder = absolute.parent if absolute.name == RunFolder.synthetic_set.name else absolute
    return folder if os.path.lexists(RunFolder(folder).config) else None


def _of_set(folder: Path, given: Sequence[str]) -> dict[str, Any]:
    """Return the keys of a set that is no run's. Raises ConfigError."""
    try:
        keys = _of_card(read_card(folder))
    except SyntheticSetError as error:
        raise ConfigError([str(error)]) from error
    if PROTOCOL_KEY not in {*keys, *given}:
        problem = f"{PROTOCOL_KEY}: {folder / CARD} names none that is known; give one of {', '.join(PROTOCOLS)}"
        raise ConfigError([problem])
    return keys


def _of_card(card: Card) -> dict[str, Any]:
    names = [name for name, known in KNOWN.items() if known.facts.family == card.dataset]
    keys: dict[str, Any] = {"dataset.mean": list(card.mean), "dataset.std": list(card.std)}
    if len(names) == 1:
        keys["dataset.name"] = names[0]
        keys["dataset.root"] = os.environ.get(VARIABLES.get(names[0], "")) or None
    if card.width is None:
        keys["dataset.size"] = card.size
    keys["dataset.classes"] = [entry.wnid or entry.name for entry in card.classes]
    if (protocol := card.facts.get(PROTOCOL)) in list(PROTOCOLS):
        keys[PROTOCOL_KEY] = protocol
    return keys
