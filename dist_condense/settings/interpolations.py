"""Bounds on interpolations ``${...}``, computed from the texts before OmegaConf resolves them.

A few values that refer to each other several times would expand to more text than fits in memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

LONGEST, EXPANDED, CHAIN = 2**12, 2**16, 20
"""Limits: characters of a text with interpolations, characters to which all of a config expand, and length of a chain
of references."""
_REFERENCE = re.compile(r"\$\{\s*(?:oc\.(?:select|deprecated|dict\.keys|dict\.values)\s*:\s*)?([^\s${}:,'\"]+)")
"""Pattern of the name to which an interpolation refers; the name of a resolver matches too, but is no key."""
_COMPUTED = re.compile(
    r"\$\{(?:[^{}:]*|\s*oc\.(?:select|deprecated|dict\.keys|dict\.values)\s*:\s*"
    r"""(?:'(?:\\.|[^'\\])*?|"(?:\\.|[^"\\])*?|(?:\\.|[^{},'"\\])*))\$\{""",
    re.DOTALL,
)
"""Pattern of an interpolation whose name contains another; the default after the name's comma may be one."""


def texts_of(value: Any) -> Iterator[str]:
    """Yield each text in nested lists and dicts."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from texts_of(item)


def interpolating(values: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the texts that contain ``${``, by the dotted key in whose value they are."""
    found = {key: [text for text in texts_of(value) if "${" in text] for key, value in values.items()}
    return {key: texts for key, texts in found.items() if texts}


def refusals(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the dotted key and a reason for each value that refers to computed names, and for the first that expands
    without bound.

    A value that refers to itself is not reported, because OmegaConf reports it at once.

    :param values: values by dotted key.
    """
    size, left = _Size(values), EXPANDED
    for key, texts in interpolating(values).items():
        if computed := next(filter(None, map(_COMPUTED.search, texts)), None):
            yield key, f"{computed[0]!r:.80}: the name in an interpolation is computed by another; write it out"
        elif (bound := size.of(key)) is None:
            yield key, f"refers to a value, which refers to another, and so on, more than {CHAIN} times; give the value"
            return
        elif bound > left:
            yield key, f"its ${{...}} expand to more than {EXPANDED} characters, with those before it; give the value"
            return
        else:
            left -= bound


class _Size:
    """Upper bounds on the number of characters to which values expand, each computed once.

    :param values: values by dotted key.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.texts = interpolating(values)
        self.below: dict[str, set[str]] = {}
        """Keys with interpolations, by each section that contains them and by their own names."""
        self.plain: dict[str, int] = {}
        """Characters of all texts, by key and by section."""
        self.known: dict[str, tuple[int, int] | None] = {}
        """Bound and length of the longest chain of references, by key; None if the chain is too long."""
        for key, value in values.items():
            length = sum(map(len, texts_of(value)))
            for name in _above(key):
                self.plain[name] = self.plain.get(name, 0) + length
                if key in self.texts:
                    self.below.setdefault(name, set()).add(key)

    def of(self, key: str) -> int | None:
        """Return the bound of a key's value; None if its chain of references is longer than :data:`CHAIN`."""
        found = self._bound(key, ())
        return None if found is None else found[0]

    def _bound(self, key: str, above: tuple[str, ...]) -> tuple[int, int] | None:
        """Return the bound and the length of the chain of a key; a reference to a key in ``above`` counts as 0."""
        if key in above:
            return 0, 0
        if len(above) > CHAIN:
            return None
        if key not in self.known:
            self.known[key] = self._summed(key, (*above, key))
        return self.known[key]

    def _summed(self, key: str, above: tuple[str, ...]) -> tuple[int, int] | None:
        total, longest = sum(map(len, self.texts[key])), 0
        for name in (name for text in self.texts[key] for name in _REFERENCE.findall(text)):
            for target in {x for x in map(self._found, _absolute(name, key)) if x is not None}:
                for bound in (self._bound(other, above) for other in self.below.get(target, ())):
                    if bound is None or bound[1] >= CHAIN:
                        return None
                    total, longest = total + bound[0], max(longest, bound[1])
                total = min(total + self.plain[target], 2 * EXPANDED)
        return total, longest + 1

    def _found(self, name: str) -> str | None:
        """Return the key or section of a name, which may be followed by indices of a list; None if there is none."""
        return next((part for part in reversed(list(_above(name))) if part in self.plain), None)


def _above(name: str) -> Iterator[str]:
    """Yield each section that contains a dotted name, then the name."""
    yield from (name[:dot] for dot, sign in enumerate(name) if sign == ".")
    yield name


def _absolute(name: str, key: str) -> list[str]:
    """Return the absolute names that a name in the value of ``key`` may have.

    A relative name starts with dots; it may be relative to the key's section, or to the key if the value is a list.
    """
    name = name.replace("[", ".").replace("]", "")
    if not name.startswith("."):
        return [name]
    rest = name.lstrip(".")
    parts, dots = key.split("."), len(name) - len(rest)
    return [".".join([*parts[: max(0, len(parts) - up)], rest]) for up in (dots, dots - 1)]
