"""Reading of untrusted JSON and YAML, within limits of size and checked against the types of dataclasses.

``read(Card, file)`` returns a Card whose every value has the type of its field, or raises :class:`Unreadable` with a
line for each fault, ten at most, that names the file, the path inside it, the value and the expectation. Content is
untrusted until it is checked.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml

from dist_condense.system.conversion import Mismatch, reader, shown
from dist_condense.system.errors import DataError
from dist_condense.system.files import read_regular

BYTES, VALUES, DEPTH = 64 * 2**20, 4_000_000, 16
"""Limits of one record: number of bytes, number of values (lists and objects count as well), and depth of nesting.
They suffice for a manifest of 100,000 classes; the values take less than 1 GiB of memory."""
YAML_BYTES, YAML_VALUES = 2**19, 25_000
"""Limits of a YAML text: number of bytes, and number of values after the expansion of aliases. They suffice for a
list of all classes of ImageNet-21k, and are read and composed within seconds."""
MANY = f"more than {YAML_VALUES} values"
Value = TypeVar("Value")
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NO_MARK = bytes(set(range(256)) - {*_STEPS, ord(",")})


class Unreadable(DataError):
    """Error for an unusable file or record; each line of ``problems`` names the file, the path in it, the expectation.

    Its text is the first line, with the number of the others.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__(lines)

    def __str__(self) -> str:
        first, *others = self.problems
        return f"{first} (and {len(others)} more)" if others else first

    def __reduce__(self) -> tuple[type[Unreadable], tuple[str, ...]]:
        return Unreadable, tuple(self.problems)


def read(kind: type[Value], file: Path, ignore_unknown: bool = False) -> Value:
    """Read a JSON record in UTF-8 from a regular file.

    :param kind: a dataclass, or a type of plain values such as ``dict[str, Any]``.
    :param ignore_unknown: whether keys without a field are ignored instead of refused.
    :raises Unreadable: the content does not match ``kind``, or the file is missing, too large or not a regular file.
    """
    return made(kind, parsed(bytes_of(file), str(file)), str(file), ignore_unknown)


def bytes_of(file: Path, limit: int = BYTES) -> bytes:
    """Read a regular file of at most ``limit`` bytes. Raises Unreadable if that is impossible."""
    try:
        return read_regular(file, limit)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise Unreadable(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def text_of(data: bytes, where: str) -> str:
    """Decode UTF-8, with or without a byte order mark.

    Raises Unreadable with the number of the first line that is not UTF-8.

    :param where: name of the text in messages.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Unreadable(f"{where}, line {line}: this is not UTF-8; save the file in that encoding") from error


def parsed(data: bytes, where: str) -> Any:
    """Parse a JSON text to a plain value, whose types :func:`made` checks; numbers may still be infinite.

    :param where: name of the text in messages.
    :raises Unreadable: the text exceeds a limit, is not JSON, or repeats a key in an object.
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
    except ValueError as error:  # also raised for an integer of thousands of digits
        raise Unreadable(f"{where}: it is not JSON ({error})") from error


def made(kind: type[Value], value: Any, where: str, ignore_unknown: bool = False) -> Value:
    """Convert a plain value to the type ``kind``, with the checks of :func:`read`.

    :param where: name of the value in messages.
    :raises Unreadable: the value does not match ``kind``.
    """
    try:
        return cast(Value, reader(cast(Any, kind), ignore_unknown)(value))
    except Mismatch as error:
        found = [(where, one.path.lstrip("."), one.text) for one in (error, *error.others)]
        raise Unreadable(*(": ".join(filter(None, parts)) for parts in found)) from error


class YamlLoader(yaml.SafeLoader):
    """YAML loader that stops at :data:`YAML_VALUES` values; :func:`document` checks the other limits."""

    _count = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._count += 1
        if self._count > YAML_VALUES:
            raise yaml.MarkedYAMLError(problem=MANY, problem_mark=self.peek_event().start_mark)
        return cast(yaml.Node | None, super().compose_node(parent, index))


def document(loader: yaml.SafeLoader) -> yaml.Node | None:
    """Parse a YAML text and return its root node; None for an empty text.

    Raises YAMLError, with the line, if the text exceeds :data:`DEPTH` or :data:`YAML_VALUES`, where an alias counts as
    its expansion, or if an anchor contains itself.
    """
    deep = f"nested more than {DEPTH} deep"
    try:
        root = loader.get_single_node()
    except RecursionError as error:
        raise yaml.MarkedYAMLError(problem=deep, problem_mark=loader.get_mark()) from error
    except (ValueError, OverflowError) as error:
        problem = "an escape or a version beyond all numbers"
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=loader.get_mark()) from error
    pending: list[tuple[yaml.Node, tuple[yaml.Node, ...]]] = [] if root is None else [(root, ())]
    count = 0
    while pending:
        node, above = pending.pop()
        count += 1
        if node in above:
            raise yaml.MarkedYAMLError(problem="an anchor leads to itself", problem_mark=node.start_mark)
        if len(above) > DEPTH:
            raise yaml.MarkedYAMLError(problem=deep, problem_mark=node.start_mark)
        if count > YAML_VALUES:
            raise yaml.MarkedYAMLError(problem=MANY, problem_mark=node.start_mark)
        if isinstance(node, yaml.CollectionNode):
            pairs = [node.value] if isinstance(node, yaml.SequenceNode) else node.value
            pending += [(child, (*above, node)) for pair in pairs for child in pair]
    return root


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        name, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {shown(name)} occurs twice")
    return content
