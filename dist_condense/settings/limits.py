"""The values that a key accepts, as metadata of its type: ``Annotated[int, Range(1, 100)]``."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

COUNT = 10**9
"""Most of anything that is counted."""


@dataclass(frozen=True)
class Range:
    """Finite numbers from ``least`` to ``most``; ``above`` and ``below`` leave that end itself out."""

    least: float
    most: float
    above: bool = False
    below: bool = False

    def __str__(self) -> str:
        return f"{'above ' * self.above}{self.least} to {'below ' * self.below}{self.most}"

    def refusal(self, value: float) -> str | None:
        """Why a number is refused; None where it is inside."""
        is_inside = self.least <= value <= self.most  # false for NaN
        is_end = (self.above and value == self.least) or (self.below and value == self.most)
        return None if is_inside and not is_end else f"{value} is not in the range {self}"


@dataclass(frozen=True, eq=False)
class OneOf:
    """Names of a table.

    :param title: the kind of thing that they name, in the plural, for ``dist-condense list``.
    :param replaced: names of an earlier version, each with the one that does the same now.
    """

    title: str
    names: Collection[str]
    replaced: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"one of {', '.join(self.names)}"

    def refusal(self, value: str) -> str | None:
        """Why a name is refused; None where it is in the table."""
        now = self.replaced.get(value)
        hint = f"; set {now} instead, which does the same now" if now else ""
        return None if value in self.names else f"{value!r} is not {self}{hint}"


Limit = Range | OneOf


def limit_of(kind: Any) -> Limit | None:
    """The limit in an annotated type, also of the items of a list and of one type of a union."""
    found = (x for x in (*getattr(kind, "__metadata__", ()), *map(limit_of, get_args(kind))) if isinstance(x, Limit))
    return next(found, None)


def refusals(value: Any, limit: Limit) -> Iterator[str]:
    """Why a value is refused, or each item of a list; null is never refused."""
    for item in value if isinstance(value, list) else [value]:
        if item is not None and (said := limit.refusal(item)):
            yield said
