"""Networks as text, such as `convnet:depth=4:width=64` or `timm:NAME:img_size=64`, and conversion of their options."""

import difflib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from inspect import Parameter
from types import NoneType, UnionType
from typing import Annotated, Union, get_args, get_origin

TIMM = "timm:"
"""Prefix of timm's networks: `timm:NAME` is the network NAME of timm."""
IN_WORDS: dict[type, str] = {int: "a whole number", float: "a number"}
Elsewhere = Callable[[], Collection[str]]
"""Function that returns names of options."""
SHOWN = 80
"""Maximum number of characters of a value in a message."""


@dataclass(frozen=True)
class Interval:
    """Interval of an option's values, ends included, as metadata of its type: ``Annotated[int, Interval(1, 100)]``."""

    least: float
    most: float

    def __str__(self) -> str:
        return f"{self.least} to {self.most}"

    def holds(self, value: float) -> bool:
        """Return whether the interval contains a number; false for NaN."""
        return self.least <= value <= self.most


WIDTH, DEPTH, SIDE, SHARE = Interval(1, 8192), Interval(1, 100), Interval(1, 4096), Interval(0, 1)
Width = Annotated[int, WIDTH]
"""Number of channels, or of units."""
Depth = Annotated[int, DEPTH]
"""Number of blocks."""
Side = Annotated[int, SIDE]
"""Side of an image in pixels for which a network is built."""
Share = Annotated[float, SHARE]
"""Probability."""


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
                f"{_shown(part)} in {_shown(text)} is not an option; options are NAME=VALUE, as in "
                "convnet:depth=4:width=64"
            )
        if key in options:
            raise ValueError(f"{_shown(text)} gives {key} twice")
        options[key] = value
    return first, options


def join(name: str, options: Mapping[str, object]) -> str:
    """Join the name and the options of a network to a text: the inverse of `split`."""
    return ":".join([name, *(f"{key}={value}" for key, value in options.items())])


def typed(
    given: Mapping[str, object], parameters: Mapping[str, Parameter], name: str, elsewhere: Elsewhere = frozenset
) -> dict[str, object]:
    """Convert the options of the network `name` to the types of its parameters.

    :param elsewhere: function that returns the options of all networks, for which no similar word is suggested.
    :raises ValueError: an option is unknown, or its parameter does not accept the value; the message names all of
        these.
    """
    problems, converted = [], {}
    for key, value in given.items():
        try:
            converted[key] = _value(key, value, parameters, elsewhere)
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError(f"{name}: {'; '.join(problems)}")
    return converted


def is_option(parameter: Parameter) -> bool:
    """Return whether a parameter has a default, and a type whose interval or words :func:`typed` checks."""
    try:
        kind, rule = _kind(parameter.annotation)
    except (ValueError, StopIteration):
        return False
    is_known = kind in IN_WORDS if isinstance(rule, Interval) else kind is str and isinstance(rule, Collection)
    return is_known and parameter.default is not Parameter.empty


def closest(word: str, known: Collection[str]) -> str:
    """Return " (did you mean WORD?)" with the most similar known word, or an empty string if none is similar."""
    matches = difflib.get_close_matches(word[:SHOWN], known, n=1, cutoff=0.5)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


def _value(key: str, value: object, parameters: Mapping[str, Parameter], elsewhere: Elsewhere) -> object:
    if key not in parameters:
        known = ", ".join(sorted(parameters)) or "none"
        meant = "" if key in elsewhere() else closest(key, parameters)
        raise ValueError(f"it has no option {_shown(key)}{meant}; its options are: {known}")
    kind, rule = _kind(parameters[key].annotation)
    if not isinstance(rule, Interval):
        if value not in rule:
            hint = closest(str(value), rule)
            raise ValueError(f"{key} is {_shown(value)}{hint}; set it to one of {', '.join(rule)}")
        return value
    try:
        converted = kind(value)
    except (TypeError, ValueError, OverflowError):
        converted = None
    if converted is None or not rule.holds(converted):
        raise ValueError(f"{key} is {_shown(value)}; give {IN_WORDS[kind]} in the range {rule}")
    return converted


def _shown(value: object) -> str:
    return f"{value!r:.{SHOWN}}"


def _kind(annotation: object) -> tuple[type, Interval | Collection[str]]:
    """Return an annotation's type, int, float or str, and its interval or its permitted words.

    For ``Annotated[int, ...] | None`` the type is int.
    """
    union = get_origin(annotation) in (Union, UnionType)
    member = next(x for x in (get_args(annotation) if union else (annotation,)) if x is not NoneType)
    kind, rule = get_args(member)
    return kind, rule
