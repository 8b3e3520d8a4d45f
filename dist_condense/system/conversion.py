"""Conversion of plain JSON values to dataclasses, checked against the types of the fields.

The supported types are int, float, str, bool, None, Any, Literal, and unions, lists, tuples of any length, dicts and
dataclasses of supported types. ``Annotated[int, Rule(...)]`` adds a condition, and ``__post_init__`` of a dataclass
refuses a value by raising ValueError.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from dist_condense.system.credentials import masked

SHOWN, MISMATCHES = 80, 10
"""Maximum number of characters of a value in a message, and of mismatches that are reported together."""
Reader = Callable[[Any], Any]
"""Function that converts a plain value to one type; raises :class:`Mismatch`."""
_PLAIN_KEY = re.compile(r"[A-Za-z_][\w.-]{0,79}")


@dataclass(frozen=True)
class Rule:
    """Condition on a value in addition to its type: ``Annotated[int, Rule("an integer from 1", lambda x: x >= 1)]``."""

    expected: str
    holds: Callable[[Any], object]


Positive = Annotated[int, Rule("an integer from 1", lambda x: x >= 1)]
NonNegative = Annotated[int, Rule("an integer from 0", lambda x: x >= 0)]
NonNegativeFloat = Annotated[float, Rule("a number from 0", lambda x: x >= 0)]
Sha256 = Annotated[str, Rule("64 hex digits", re.compile(r"[0-9a-f]{64}").fullmatch)]


class Mismatch(Exception):
    """Error for a refused value; ``text`` states the value and the expectation, ``path`` is the path to the value.

    ``others`` are the further mismatches in the same list or object.
    """

    def __init__(self, text: str, path: str = "") -> None:
        super().__init__(text)
        self.text, self.path = text, path
        self.others: list[Mismatch] = []

    @classmethod
    def raise_first(cls, found: Sequence[Mismatch]) -> None:
        """Raise the first of several mismatches, with the others in it, :data:`MISMATCHES` in all; none: do nothing."""
        if found:
            first, *others = [one for mismatch in found for one in (mismatch, *mismatch.others)]
            first.others = others[: MISMATCHES - 1]
            raise first

    @classmethod
    def of(cls, value: Any, expected: str) -> Mismatch:
        """Create the error from a refused value and a description of the accepted values."""
        return cls(f"found {shown(value)}, expected {expected}")

    def below(self, step: int | str) -> Mismatch:
        """Prepend an object key or a list index to the paths of all mismatches, and return the error itself."""
        is_plain = isinstance(step, str) and _PLAIN_KEY.fullmatch(step)
        for mismatch in (self, *self.others):
            mismatch.path = (f".{step}" if is_plain else f"[{shown(step)}]") + mismatch.path
        return self


def shown(value: Any) -> str:
    """Format a value for a message, shortened and without secrets."""
    if isinstance(value, list | dict):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return masked(repr(value[:1000] if isinstance(value, str) else value))[:SHOWN]


@cache
def reader(kind: Any, ignore_unknown: bool) -> Reader:
    """Return the function that converts a plain value to the type ``kind``; it is created once per type.

    :param ignore_unknown: whether keys without a field are ignored instead of refused.
    """
    origin, options = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _ruled(reader(options[0], ignore_unknown), options[1:])
    if origin in (Union, UnionType):
        return _one_of([reader(option, ignore_unknown) for option in options])
    if origin is Literal:
        holds = {(type(option), option) for option in options}.__contains__
        return _value(" or ".join(map(shown, options)), lambda x: isinstance(x, str | int) and holds((type(x), x)))
    if origin in (list, tuple, Sequence) and options[1:] in ((), (Ellipsis,)):
        return _list(reader(options[0], ignore_unknown), list if origin is list else tuple)
    if origin in (dict, Mapping):
        return _dict(reader(options[0], ignore_unknown), reader(options[1], ignore_unknown))
    return _record(kind, ignore_unknown) if is_dataclass(kind) else _PLAIN[kind]


def _value(expected: str, holds: Callable[[Any], object], make: Reader = lambda value: value) -> Reader:
    def read(value: Any) -> Any:
        if not holds(value):
            raise Mismatch.of(value, expected)
        return make(value)

    return read


def _ruled(inner: Reader, rules: Sequence[Rule]) -> Reader:
    def read(value: Any) -> Any:
        made = inner(value)
        for rule in rules:
            if not rule.holds(made):
                raise Mismatch.of(value, rule.expected)
        return made

    return read


def _one_of(readers: Sequence[Reader]) -> Reader:
    """Return a reader that accepts any of several types.

    If none accepts a value, the error of the first type other than null is raised.
    """
    first, *others = sorted(readers, key=lambda option: option is _PLAIN[NoneType])

    def read(value: Any) -> Any:
        try:
            return first(value)
        except Mismatch:
            for other in others:
                try:
                    return other(value)
                except Mismatch:
                    continue
            raise

    return read


def _list(item: Reader, kind: type[list[Any]] | type[tuple[Any, ...]]) -> Reader:
    def read(value: Any) -> Any:
        if not isinstance(value, list | tuple):
            raise Mismatch.of(value, "a list")
        done: list[Any] = []
        found: list[Mismatch] = []
        for index, x in enumerate(value):
            try:
                done.append(item(x))
            except Mismatch as error:
                found.append(error.below(index))
                if len(found) == MISMATCHES:
                    break
        Mismatch.raise_first(found)
        return done if kind is list else tuple(done)

    return read


def _dict(key: Reader, item: Reader) -> Reader:
    def read(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise Mismatch.of(value, "an object")
        done: dict[str, Any] = {}
        found: list[Mismatch] = []
        for name, x in value.items():
            try:
                done[key(name)] = item(x)
            except Mismatch as error:
                found.append(error.below(name))
                if len(found) == MISMATCHES:
                    break
        Mismatch.raise_first(found)
        return done

    return read


def _record(kind: Any, ignore_unknown: bool) -> Reader:
    hints = get_type_hints(kind, include_extras=True)
    known = {field.name: reader(hints[field.name], ignore_unknown) for field in fields(kind) if field.init}
    needed = [field.name for field in fields(kind) if field.default is MISSING and field.default_factory is MISSING]

    def read(value: Any) -> Any:
        if not isinstance(value, dict):
            raise Mismatch.of(value, "an object")
        found = [Mismatch("missing", f".{name}") for name in needed if name not in value]
        arguments: dict[str, Any] = {}
        for name, x in value.items():
            try:
                if name in known:
                    arguments[name] = known[name](x)
                elif not ignore_unknown:
                    raise Mismatch(f"unknown, expected one of {', '.join(known)}")
            except Mismatch as error:
                found.append(error.below(name))
                if len(found) == MISMATCHES:
                    break
        Mismatch.raise_first(found)
        try:
            return kind(**arguments)
        except ValueError as error:
            raise Mismatch(str(error)) from error

    return read


def _any(value: Any) -> Any:
    return _OF_JSON[type(value)](value)


def _is_utf8(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


_PLAIN: dict[Any, Reader] = {
    str: _value("text", lambda x: type(x) is str and _is_utf8(x)),
    int: _value("an integer", lambda x: type(x) is int and -(2**63) <= x < 2**64),
    float: _value("a finite number", lambda x: type(x) in (int, float) and abs(x) <= sys.float_info.max, float),
    bool: _value("true or false", lambda x: type(x) is bool),
    NoneType: _value("null", lambda x: x is None),
    Any: _any,
    object: lambda value: value,  # checked later
}
_OF_JSON = {**_PLAIN, dict: _dict(_PLAIN[str], _any), list: _list(_any, list)}
"""Readers of arbitrary JSON values, by the Python type of the value."""
