"""Conversion of the texts of files and command lines to values, by the type of their key."""

from __future__ import annotations

import difflib
import json
import re
import shlex
from collections.abc import Iterable, Sequence
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

WORDS = {
    **dict.fromkeys(("true", "yes", "on", "y", "1"), True),
    **dict.fromkeys(("false", "no", "off", "n", "0"), False),
}
_SURROGATE = re.compile("[\ud800-\udfff]")
"""Pattern of a character that stands for a byte that is not UTF-8."""
SHOWN = 120
"""Maximum number of characters of a value in a message."""
LONGEST = 4096
"""Maximum number of characters of a text, which is that of a path."""
MISSING = "???"
"""Hydra's placeholder in a file for a value that the command line must provide."""


class Unusable(ValueError):
    """Error for a file or text that is not a valid config; the message is one line."""


class ConfigError(ValueError):
    """All problems of a configuration, found before anything starts.

    :param rest: the RunConfig without the refused values, so that the other values can be checked as well; None if
        there is no such config.
    :param notes: lines to print besides the problems.
    """

    def __init__(self, problems: Sequence[str], rest: Any = None, notes: Sequence[str] = ()) -> None:
        super().__init__("\n".join(problems))
        self.problems, self.rest, self.notes = list(problems), rest, list(notes)


class Misfit(ValueError):
    """Error for a value that the type of its key does not allow; the message is a reason to print after the key."""


def options(kind: Any) -> tuple[Any, ...]:
    """Return the member types of a union; for any other type, a tuple of this type alone."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def takes_list(kind: Any) -> bool:
    """Return whether values of this type may be lists."""
    return any(get_origin(option) is list for option in options(kind))


def takes_text(kind: Any) -> bool:
    """Return whether values of this type may be arbitrary text."""
    return str in options(kind)


def unquoted(text: str) -> str:
    """Remove quotation marks that surround the whole text."""
    is_quoted = len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"" and text[0] not in text[1:-1]
    return text[1:-1] if is_quoted else text


def converted(key: str, value: Any, kind: Any) -> Any:
    """Convert ``value`` to the type ``kind`` of a key: texts become numbers or booleans, never the reverse.

    :param key: name of the key, for the message.
    :raises Misfit: the value does not fit the type.
    """
    known = options(kind)
    if value is None and NoneType in known:
        return None
    if value == MISSING:
        raise Misfit(f"{MISSING} stands for a value that has to be given, {key}=VALUE")
    if isinstance(value, str) and not value.strip():
        raise Misfit(f"the value is empty; give {type_name(kind)}")
    if isinstance(value, str) and takes_list(kind) and "," in value:
        raise Misfit(_several(key, value, kind))
    for option in known:
        try:
            return _as(option, value)
        except (ValueError, TypeError, OverflowError):
            continue
    if isinstance(value, str) and "," in value:
        raise Misfit(_several(key, value, kind))
    if isinstance(value, str) and takes_list(kind):
        raise Misfit(f"{shown(value)} is no list; {_bracketed(key, value)}")
    raise Misfit(f"{shown(value)} does not fit; {_expected(kind)}")


def check_text(value: Any, is_utf8: bool = True) -> None:
    """Check that the texts in a value can be written to the files of a run, and are not longer than any path.

    :param is_utf8: whether they must be UTF-8.
    :raises Misfit: they are not.
    """
    texts = _texts(value)
    if is_utf8 and (wrong := [text for text in texts if _SURROGATE.search(text)]):
        raise Misfit(
            f"{ascii(wrong[0])[:SHOWN]} is not UTF-8, which the files of a run require; rename it, or link to it"
        )
    if isinstance(value, dict) and (odd := [name for name in value if "${" in str(name)]):
        raise Misfit(f"{shown(odd[0])}: a name with ${{ is not stored in a config; rename the class")
    if zero := [text for text in texts if "\0" in text]:
        raise Misfit(f"{shown(zero[0])} has a zero byte, which no name or path has; remove it")
    if long := [text for text in texts if len(text) > LONGEST]:
        raise Misfit(f"{shown(long[0])} has {len(long[0])} characters; give at most {LONGEST}")


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list | tuple):
        return [text for item in value for text in _texts(item)]
    return [value] if isinstance(value, str) else []


def shown(value: Any) -> str:
    """Format a value for messages, with at most about :data:`SHOWN` characters."""
    if isinstance(value, list):
        items = (item if isinstance(item, str) and item.strip() else shown(item) for item in value[:SHOWN])
        text = f"[{', '.join(items)}]"
    else:
        text = json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def meant(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean WORD?`` with the known word that is most similar, or an empty string."""
    close = difflib.get_close_matches(word[:SHOWN], list(known), 1, 0.6)
    return f"; did you mean {close[0]}?" if close else ""


def some(words: Sequence[str]) -> str:
    """Join the first five texts, followed by the number of the others: ``a, b, c, d, e and 3 more``."""
    return ", ".join(words[:5]) + (f" and {len(words) - 5} more" if len(words) > 5 else "")


def _several(key: str, value: str, kind: Any) -> str:
    return f"{shown(value)} is several values; {_bracketed(key, value) if takes_list(kind) else _expected(kind)}"


def _expected(kind: Any) -> str:
    return f"expected {type_name(kind)}"


def _bracketed(key: str, value: str) -> str:
    items = value if len(value) <= SHOWN else "A,B"
    return f"a list has brackets, {shlex.quote(f'{key}=[{items}]')}"


def type_name(kind: Any) -> str:
    """Format a type for messages: ``int or null``, ``list[str]``, ``{NAME: int}``."""
    return " or ".join(map(_option_name, options(kind)))


def _option_name(kind: Any) -> str:
    if get_origin(kind) is dict:
        return f"{{NAME: {type_name(get_args(kind)[1])}}}"
    return "null" if kind is NoneType else str(kind) if get_origin(kind) else kind.__name__


def _as(kind: Any, value: Any) -> Any:
    """Convert a value to one type. Raises ValueError, TypeError or, for an integer beyond floats, OverflowError."""
    if get_origin(kind) is list:
        if not isinstance(value, list | tuple):
            raise TypeError
        return [_as(get_args(kind)[0], item) for item in value]
    if get_origin(kind) is dict:
        if not isinstance(value, dict) or not value:
            raise TypeError
        name, item = get_args(kind)
        return {_as(name, key): _as(item, one) for key, one in value.items()}
    if kind is str and isinstance(value, str) and value.strip():
        return value
    if kind is bool and (isinstance(value, bool) or str(value).lower() in WORDS):
        return WORDS[str(value).lower()]
    if kind is float and not isinstance(value, bool):
        return float(value.lower().replace(".inf", "inf").replace(".nan", "nan") if isinstance(value, str) else value)
    if kind is int and isinstance(value, int | str) and not isinstance(value, bool):
        return int(value)
    raise TypeError
