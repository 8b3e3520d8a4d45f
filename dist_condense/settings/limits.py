"""Limits of a key's values, as metadata of its type: ``Annotated[int, Range(1, 100)]``."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from dist_condense.settings.values import meant, shown

COUNT = 10**9
"""Upper limit of keys that count something."""


@dataclass(frozen=True)
class Range:
    """Limit that accepts finite numbers from ``least`` to ``most``.

    :param above: exclude the lower end.
    :param below: exclude the upper end.
    """

    least: float
    most: float
    above: bool = False
    below: bool = False

    def __str__(self) -> str:
        return f"{'above ' * self.above}{self.least} to {'below ' * self.below}{self.most}"

    def refusal(self, value: float) -> str | None:
        """Return the reason to refuse a number; None if it is in the range."""
        is_inside = self.least <= value <= self.most  # false for NaN
        is_end = (self.above and value == self.least) or (self.below and value == self.most)
        return None if is_inside and not is_end else f"{value} is not in the range {self}"


@dataclass(frozen=True, eq=False)
class OneOf:
    """Limit that accepts the names of a table.

    :param title: heading of the table in ``dist-condense list``, in the plural.
    :param replaced: names that an earlier version accepted, each with its replacement.
    """

    title: str
    names: Collection[str]
    replaced: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"one of {', '.join(self.names)}"

    def refusal(self, value: str) -> str | None:
        """Return the reason to refuse a name; None if it is in the table."""
        now = self.replaced.get(value)
        hint = f"; set {now} instead, which does the same now" if now else meant(value, self.names)
        return None if value in self.names else f"{shown(value)} is not {self}{hint}"


Limit = Range | OneOf


def limit_of(kind: Any) -> Limit | None:
    """Return the limit in the metadata of a type, of its list items or of its union members; None without a limit."""
    nested = (*getattr(kind, "__metadata__", ()), *map(limit_of, get_args(kind)))
    return next((x for x in nested if isinstance(x, Limit)), None)


def refusals(value: Any, limit: Limit) -> Iterator[str]:
    """Yield the reason to refuse a value, if any; for a list or dict, one reason that counts the other refused items.

    Null is never refused.
    """
    if isinstance(value, dict):
        items = [(f"{shown(name)}: ", item) for name, item in value.items()]
    else:
        items = [("", item) for item in (value if isinstance(value, list) else [value])]
    reasons = [name + reason for name, item in items if item is not None and (reason := limit.refusal(item))]
    if reasons:
        where = "" if isinstance(value, dict) else " in the list"
        yield reasons[0] + (f" (and {len(reasons) - 1} more{where})" if len(reasons) > 1 else "")
