"""The one reader of JSON and YAML that others may have written: bounded, and checked against the types of dataclasses.

``read(Card, file)`` gives a Card whose every value has the type of its field, or raises :class:`Unreadable` with one
line: the file, the path inside it, what was found and what is expected. Nothing in a file is believed before that.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml

from dist_condense.system.conversion import Misfit, reader, shown
from dist_condense.system.errors import DataError
from dist_condense.system.files import read_regular

BYTES, VALUES, DEPTH = 64 * 2**20, 4_000_000, 16
"""At most, of one record: bytes, values (lists and objects too), and lists and objects within each other. Enough for a
manifest of 100,000 classes; the values take less than 1 GiB of memory."""
YAML_BYTES, YAML_VALUES = 2**19, 100_000
"""Of a YAML file, with every alias counted as what it stands for."""
Record = TypeVar("Record")
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NO_MARK = bytes(set(range(256)) - {*_STEPS, ord(",")})


class Unreadable(DataError):
    """A record that is not what it has to be; one line with the file, the path inside it and what is expected."""

    def __init__(self, line: str) -> None:
        super().__init__([line])

    def __reduce__(self) -> tuple[type[Unreadable], tuple[str]]:
        return Unreadable, (self.problems[0],)


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
        return cast(Record, reader(cast(Any, kind), spare)(value))
    except Misfit as error:
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


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    held = dict(pairs)
    if len(held) < len(pairs):
        name, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {shown(name)} stands twice")
    return held
