"""The one reader of JSON and YAML that others may have written: bounded, and checked against the types of dataclasses.

``read(Card, file)`` gives a Card whose every value has the type of its field, or raises :class:`Unreadable` with one
line: the file, the path inside it, what was found and what is expected. Nothing in a file is believed before that.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import yaml

from dist_condense.system.credentials import masked
from dist_condense.system.errors import DataError
from dist_condense.system.files import read_regular

BYTES, VALUES, DEPTH = 64 * 2**20, 4_000_000, 16
"""At most, of one record: bytes, values (lists and objects too), and lists and objects within each other. Enough for a
manifest of 100,000 classes; the values take less than 1 GiB of memory."""
YAML_BYTES, YAML_VALUES = 2**19, 100_000
"""Of a YAML file, with every alias counted as what it stands for."""
SHOWN = 80
"""Characters of a value that was found."""
Record = TypeVar("Record")
Reader = Callable[[Any], Any]
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NO_MARK = bytes(set(range(256)) - {*_STEPS, ord(",")})
_PLAIN_KEY = re.compile(r"[A-Za-z_][\w.-]{0,79}")
_WORDS = {None: "null", True: "true", False: "false"}


class Unreadable(DataError):
    """A record that is not what it has to be; one line with the file, the path inside it and what is expected."""

    def __init__(self, line: str) -> None:
        super().__init__([line])

    def __reduce__(self) -> tuple[type[Unreadable], tuple[str]]:
        return Unreadable, (self.problems[0],)


@dataclass(frozen=True)
class Rule:
    """What a value has to be besides its type: ``size: Annotated[int, Rule("at least 1", lambda x: x >= 1)]``."""

    expected: str
    holds: Callable[[Any], object]


Positive = Annotated[int, Rule("an integer from 1", lambda x: x >= 1)]
Count = Annotated[int, Rule("an integer from 0", lambda x: x >= 0)]
Amount = Annotated[float, Rule("a number from 0", lambda x: x >= 0)]
Sha256 = Annotated[str, Rule("64 hex digits", re.compile(r"[0-9a-f]{64}").fullmatch)]


def read(kind: type[Record], file: Path, spare: bool = False) -> Record:
    """A record of JSON in a regular file, in UTF-8.

    :param kind: a dataclass, or a type of plain values such as ``dict[str, Any]``.
    :param spare: whether keys that no field has are left out instead of refused.
    :raises Unreadable: also for a file that is missing, too large, or a folder, named pipe or device.
    """
    return made(kind, parsed(bytes_of(file), str(file)), str(file), spare)


def bytes_of(file: Path, limit: int = BYTES) -> bytes:
    """The bytes of a regular file. Raises Unreadable."""
    try:
        return read_regular(file, limit)
    except (OSError, ValueError) as error:  # ValueError for a zero byte in a name
        raise Unreadable(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def text_of(data: bytes, where: str) -> str:
    """UTF-8, with or without its mark. Raises Unreadable, with the line."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Unreadable(f"{where}, line {line}: this is not UTF-8; save the file in that encoding") from error


def parsed(data: bytes, where: str) -> Any:
    """The plain value of a JSON text, for :func:`made`; numbers may still be infinite. Raises Unreadable.

    :param where: what a message calls the text.
    """
    if len(data) > BYTES:
        raise Unreadable(f"{where}: it has more than {BYTES} bytes")
    marks = _STRING.sub(b"", data).translate(None, _NO_MARK)
    if len(marks) > VALUES:
        raise Unreadable(f"{where}: it has more than {VALUES} values")
    brackets = marks.translate(None, b",")
    if max(accumulate(_STEPS[x] for x in brackets), default=0) > DEPTH:
        raise Unreadable(f"{where}: it is nested more than {DEPTH} deep")
    try:
        return json.loads(text_of(data, where), object_pairs_hook=_object)
    except Unreadable:
        raise
    except ValueError as error:  # also for an integer of thousands of digits
        raise Unreadable(f"{where}: it is no JSON ({error})") from error


def made(kind: type[Record], value: Any, where: str, spare: bool = False) -> Record:
    """A plain value as :func:`read` gives it. Raises Unreadable."""
    try:
        return cast(Record, _reader(cast(Any, kind), spare)(value))
    except _Misfit as error:
        raise Unreadable(": ".join(filter(None, (where, error.path.lstrip("."), error.text)))) from error


def document(loader: yaml.SafeLoader) -> yaml.Node | None:
    """The nodes of a YAML text, none of which stands for more than fits. Raises YAMLError, with the line."""
    deep = f"nested more than {DEPTH} deep"
    try:
        root = loader.get_single_node()
    except RecursionError as error:
        raise yaml.MarkedYAMLError(problem=deep, problem_mark=loader.get_mark()) from error
    waiting: list[tuple[yaml.Node, tuple[yaml.Node, ...]]] = [] if root is None else [(root, ())]
    count = 0
    while waiting:
        node, above = waiting.pop()
        count += 1
        if node in above:
            raise yaml.MarkedYAMLError(problem="an anchor leads to itself", problem_mark=node.start_mark)
        if len(above) > DEPTH:
            raise yaml.MarkedYAMLError(problem=deep, problem_mark=node.start_mark)
        if count > YAML_VALUES:
            raise yaml.MarkedYAMLError(problem=f"more than {YAML_VALUES} values", problem_mark=node.start_mark)
        if isinstance(node, yaml.CollectionNode):
            pairs = [node.value] if isinstance(node, yaml.SequenceNode) else node.value
            waiting += [(child, (*above, node)) for pair in pairs for child in pair]
    return root


def shown(value: Any) -> str:
    """A value for a message: short, and without secrets."""
    if isinstance(value, list | dict):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    if value is None or isinstance(value, bool):
        return _WORDS[value]
    return masked(repr(value[:1000] if isinstance(value, str) else value))[:SHOWN]


# --- from plain values to types -----------------------------------------------------------------------------------


class _Misfit(Exception):
    """A value that is refused; the path grows on the way out."""

    def __init__(self, text: str, path: str = "") -> None:
        super().__init__(text)
        self.text, self.path = text, path

    @classmethod
    def of(cls, value: Any, expected: str) -> _Misfit:
        return cls(f"found {shown(value)}, expected {expected}")

    def below(self, step: str) -> _Misfit:
        self.path = step + self.path
        return self


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        name, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {shown(name)} stands twice")
    return made


@cache
def _reader(kind: Any, spare: bool) -> Reader:
    """Of values of a type, which is looked at once."""
    origin, options = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _ruled(_reader(options[0], spare), options[1:])
    if origin in (Union, UnionType):
        return _one_of([_reader(option, spare) for option in options])
    if origin is Literal:
        return _chosen(options)
    if origin in (list, tuple, Sequence) and options[1:] in ((), (Ellipsis,)):
        return _items(_reader(options[0], spare), list if origin is list else tuple)
    if origin in (dict, Mapping):
        return _values(_reader(options[0], spare), _reader(options[1], spare))
    return _record(kind, spare) if is_dataclass(kind) else _PLAIN[kind]


def _text(value: Any) -> str:
    if type(value) is not str:
        raise _Misfit.of(value, "text")
    if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise _Misfit.of(value, "text that UTF-8 can hold")
    return value


def _integer(value: Any) -> int:
    if type(value) is not int or not -(2**63) <= value < 2**64:
        raise _Misfit.of(value, "an integer")
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not abs(value) <= sys.float_info.max:
        raise _Misfit.of(value, "a finite number")
    return float(value)


def _boolean(value: Any) -> bool:
    if type(value) is not bool:
        raise _Misfit.of(value, "true or false")
    return value


def _nothing(value: Any) -> None:
    if value is not None:
        raise _Misfit.of(value, "null")


def _any(value: Any) -> Any:
    """Any value of JSON, as it stands."""
    if isinstance(value, dict):
        return _values(_text, _any)(value)
    if isinstance(value, list):
        return _items(_any, list)(value)
    if isinstance(value, float):
        return _number(value)
    return _text(value) if isinstance(value, str) else value if isinstance(value, bool | None) else _integer(value)


_PLAIN: dict[Any, Reader] = {
    str: _text,
    int: _integer,
    float: _number,
    bool: _boolean,
    NoneType: _nothing,
    Any: _any,
    object: lambda value: value,  # looked at later
}


def _ruled(reader: Reader, rules: Sequence[Any]) -> Reader:
    def read(value: Any) -> Any:
        found = reader(value)
        for rule in rules:
            if not rule.holds(found):
                raise _Misfit.of(value, rule.expected)
        return found

    return read


def _one_of(readers: Sequence[Reader]) -> Reader:
    """Of several types; the message is that of the first, null apart."""
    first, *others = sorted(readers, key=lambda reader: reader is _nothing)

    def read(value: Any) -> Any:
        try:
            return first(value)
        except _Misfit:
            for other in others:
                try:
                    return other(value)
                except _Misfit:
                    continue
            raise

    return read


def _chosen(options: Sequence[Any]) -> Reader:
    def read(value: Any) -> Any:
        if not any(type(value) is type(option) and value == option for option in options):
            raise _Misfit.of(value, " or ".join(map(shown, options)))
        return value

    return read


def _items(reader: Reader, kind: type[list[Any]] | type[tuple[Any, ...]]) -> Reader:
    def read(value: Any) -> Any:
        if not isinstance(value, list | tuple):
            raise _Misfit.of(value, "a list")
        found: list[Any] = []
        try:
            for item in value:
                found.append(reader(item))
        except _Misfit as error:
            raise error.below(f"[{len(found)}]") from None
        return found if kind is list else tuple(found)

    return read


def _values(key: Reader, reader: Reader) -> Reader:
    def read(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _Misfit.of(value, "an object")
        found: dict[str, Any] = {}
        name = ""
        try:
            for name, item in value.items():
                found[key(name)] = reader(item)
        except _Misfit as error:
            raise error.below(_step(name)) from None
        return found

    return read


def _record(kind: Any, spare: bool) -> Reader:
    hints = get_type_hints(kind, include_extras=True)
    known = {field.name: _reader(hints[field.name], spare) for field in fields(kind) if field.init}
    needed = [field.name for field in fields(kind) if field.default is MISSING and field.default_factory is MISSING]

    def read(value: Any) -> Any:
        if not isinstance(value, dict):
            raise _Misfit.of(value, "an object")
        for name in needed:
            if name not in value:
                raise _Misfit("missing", _step(name))
        given: dict[str, Any] = {}
        name = ""
        try:
            for name, item in value.items():
                if name in known:
                    given[name] = known[name](item)
                elif not spare:
                    raise _Misfit(f"unknown, expected one of {', '.join(known)}")
        except _Misfit as error:
            raise error.below(_step(name)) from None
        try:
            return kind(**given)
        except ValueError as error:  # of its __post_init__
            raise _Misfit(str(error)) from error

    return read


def _step(name: str) -> str:
    return f".{name}" if _PLAIN_KEY.fullmatch(name) else f"[{shown(name)}]"
