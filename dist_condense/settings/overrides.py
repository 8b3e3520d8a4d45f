"""Parsing of the ``key=value`` texts of a command line."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dist_condense.settings import values, yaml_files
from dist_condense.settings.keys import GROUPS, KEYS, SECTIONS, leaves
from dist_condense.settings.values import Unusable


@dataclass(frozen=True)
class Overrides:
    """Parsed ``key=value`` texts."""

    groups: dict[str, str]
    """Name of the selected file, by group."""
    keys: dict[str, Any]
    """Values whose scalars are still texts, by dotted key."""
    problems: list[str]


def parsed(overrides: Sequence[str]) -> Overrides:
    """Parse ``key=value`` texts to groups and keys, with an error message for each text that is invalid.

    Each text is split at its first ``=``, and the type of the key decides how the value is parsed.
    """
    groups: dict[str, str] = {}
    keys: dict[str, Any] = {}
    problems = []
    for before, override in zip(["", *overrides], overrides, strict=False):
        key, equals, text = override.lstrip("+").partition("=")
        if key.startswith("~"):
            problems.append(f"{override!r}: a key cannot be removed; give another value, {key[1:]}=VALUE")
        elif not equals or not key:
            whole = f"; if it belongs to the text before it: {shlex.quote(f'{before} {override}')}" if before else ""
            problems.append(f"{override!r} is not key=value{whole}")
        else:
            try:
                if key in GROUPS and not text.lstrip().startswith("{"):
                    if len(text) > values.LONGEST:
                        raise Unusable(f"{values.shown(text)} has {len(text)} characters; name one of its files")
                    groups[key] = yaml_files.checked(text)
                else:
                    keys |= dict(leaves({key: _value(key, text)}))
            except Unusable as error:
                problems.append(f"{key}: {error}")
    return Overrides(groups, keys, problems)


def _value(key: str, text: str) -> Any:
    """Parse a value to text, None, or a list or dict of these. Raises Unusable if it is not valid YAML."""
    kind = KEYS[key].kind if key in KEYS else str
    is_list = values.takes_list(kind) and text.lstrip().startswith("[")
    if key not in SECTIONS and (values.takes_text(kind) or not text.strip()) and not is_list:
        return None if text == "null" else yaml_files.checked(values.unquoted(text))
    try:
        return yaml_files.parsed(text)
    except Unusable as error:
        example = shlex.quote(f'{key}=["A","B"]' if is_list else f"{key}={{KEY: VALUE}}")
        raise Unusable(f"{text!r} cannot be read: {error}; write it as {example}") from error
