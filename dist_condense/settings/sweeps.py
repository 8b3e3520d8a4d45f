"""Several runs from one command: the combinations of the values in ``key=a,b``, and the name of each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import product
from math import prod

from dist_condense.settings.values import ConfigError, Unusable

MOST = 1000
"""Largest number of runs."""
NAME, DIGEST = 100, 8
"""Largest number of characters of a name, and the number of those that are a digest where the name is changed."""
_UNSAFE = re.compile(r"[^\w=.,+-]", re.ASCII)


@dataclass(frozen=True)
class Point:
    """One combination of values."""

    name: str
    """Name of a folder, unique among all combinations: ``method=dc,seed=0``."""
    overrides: tuple[str, ...]
    """``key=value`` texts with one value each."""


def points(overrides: Sequence[str]) -> list[Point]:
    """Return every combination of the values in ``key=value`` texts; the last key changes fastest.

    Names have the keys with several values, in alphabetical order, so that the order on the command line is free.

    :raises ConfigError: no key or too many keys have several values, or a list of values is wrong.
    """
    swept, problems = _swept(overrides)
    if "output" in swept:
        problems.append("output: several folders; give one, in which each run has a folder of its own")
    if not swept and not problems:
        problems.append("-m: no key has several values; give KEY=A,B, or leave out -m")
    if (count := prod(map(len, swept.values()))) > MOST:
        problems.append(f"-m: {count} runs or more are above {MOST}; give fewer values")
    if problems:
        raise ConfigError(problems)
    single = [text for text in overrides if _key(text) not in swept]
    made = []
    for values in product(*swept.values()):
        chosen = [f"{key}={value}" for key, value in zip(swept, values, strict=True)]
        made.append(Point(_name(sorted(chosen)), (*single, *chosen)))
    return made


def swept_keys(overrides: Sequence[str]) -> list[str]:
    """Return the keys that have several values."""
    return list(_swept(overrides)[0])


def _swept(overrides: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Return the values of each key that has several, and the problems; of a repeated key the last text counts."""
    try:
        from dist_condense.settings.composing import choices  # imports Hydra
    except ModuleNotFoundError:
        return {}, ["-m: the values of KEY=A,B are read by Hydra; install hydra-core"]
    swept: dict[str, list[str]] = {}
    problems = []
    for key, text in {_key(text): text for text in overrides}.items():
        try:
            if len(values := choices(text, MOST + 1)) > 1:
                swept[key] = values
        except Unusable as error:
            problems.append(f"{key}: {error}")
    return swept, problems


def _key(override: str) -> str:
    return override.lstrip("+").partition("=")[0]


def _name(chosen: Sequence[str]) -> str:
    """Join ``key=value`` texts to a name of safe characters, with a digest if that changes or shortens it."""
    text = ",".join(chosen)
    safe = _UNSAFE.sub("_", text)
    if safe == text and len(safe) <= NAME:
        return safe
    return f"{safe[: NAME - DIGEST - 1]}-{sha256(text.encode(errors='surrogateescape')).hexdigest()[:DIGEST]}"
