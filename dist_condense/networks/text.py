"""Networks as text, such as `convnet:depth=4:width=64` or `timm:NAME:img_size=64`, and conversion of their options."""

import difflib
from collections.abc import Collection, Mapping
from inspect import Parameter
from types import NoneType
from typing import get_args, get_origin

TIMM = "timm:"
"""Prefix of timm's networks: `timm:NAME` is the network NAME of timm."""
IN_WORDS: dict[type, str] = {int: "a whole number of at least 1", float: "a number"}


def split(text: str) -> tuple[str, dict[str, str]]:
    """Split the text of a network into its name and options.

    Raises ValueError if an option is not `NAME=VALUE` or is given twice.
    """
    first, *rest = text.split(":")
    if text.startswith(TIMM):
        first, *rest = TIMM + rest[0], *rest[1:]
    options: dict[str, str] = {}
    for part in rest:
        key, equals, value = part.partition("=")
        if not (key and equals and value):
            raise ValueError(
                f"{part!r} in {text!r} is not an option; options are NAME=VALUE, as in convnet:depth=4:width=64"
            )
        if key in options:
            raise ValueError(f"{text!r} gives {key} twice")
        options[key] = value
    return first, options


def join(name: str, options: Mapping[str, object]) -> str:
    """Join the name and the options of a network to a text: the inverse of `split`."""
    return ":".join([name, *(f"{key}={value}" for key, value in options.items())])


def typed(given: Mapping[str, object], parameters: Mapping[str, Parameter], name: str) -> dict[str, object]:
    """Convert the options of the network `name` to the types of its parameters.

    :raises ValueError: an option is unknown, or its parameter does not accept the value; the message names all of
        these.
    """
    problems, converted = [], {}
    for key, value in given.items():
        try:
            converted[key] = _value(key, value, parameters)
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError(f"{name}: {'; '.join(problems)}")
    return converted


def closest(word: str, known: Collection[str]) -> str:
    """Return " (did you mean WORD?)" with the most similar known word, or an empty string if none is similar."""
    matches = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


def _value(key: str, value: object, parameters: Mapping[str, Parameter]) -> object:
    if key not in parameters:
        known = ", ".join(sorted(parameters)) or "none"
        raise ValueError(f"it has no option {key!r}{closest(key, parameters)}; its options are: {known}")
    kind, choices = _kind(parameters[key].annotation)
    if choices and value not in choices:
        raise ValueError(f"{key} is {value!r}{closest(str(value), choices)}; set it to one of {', '.join(choices)}")
    try:
        converted = kind(value)
    except (TypeError, ValueError):
        converted = None
    if converted is None or (kind is int and converted < 1):
        raise ValueError(f"{key} is {value!r}; give {IN_WORDS[kind]}")
    return converted


def _kind(annotation: object) -> tuple[type, Collection[str]]:
    """Return an annotation's type (int, float or str; int for `int | None`) and its permitted words (empty: all)."""
    choices: Collection[str] = getattr(annotation, "__metadata__", ((),))[0]
    plain = getattr(annotation, "__origin__", annotation) if choices else annotation
    members = get_args(plain) if get_origin(plain) else (plain,)
    return next(member for member in members if member is not NoneType), choices
