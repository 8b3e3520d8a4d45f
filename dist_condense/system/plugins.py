"""Plug-ins: modules outside this package that register parts when they are imported.

Only three places name them: entry points of installed distributions (:data:`GROUP`), the environment variable
:data:`VARIABLE`, and the option :data:`OPTION`. No file of a run or a config can, because they are data, and the import
path is never extended. ``dist_condense/register.py`` has the functions that a plug-in calls.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, MutableMapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module, metadata
from typing import Any, TypeVar

from dist_condense.system.errors import words_of

GROUP = "dist_condense.plugins"
"""Group of the entry points that name plug-ins; the value of an entry point is the name of a module."""
VARIABLE = "DIST_CONDENSE_PLUGINS"
"""Environment variable with names of modules, separated by commas."""
OPTION = "--plugin"
"""Option of commands with the name of a module."""
DRIVER = "the driver of this run"
"""What names the plug-ins of a worker."""

Part = TypeVar("Part")


@dataclass(frozen=True)
class Plugin:
    """A module that is a plug-in.

    :param named_by: what named it: an entry point, the variable, the option, or the driver.
    :param version: version of the installed distribution that contains it; None if there is none, and in workers.
    """

    module: str
    named_by: str
    version: str | None = None

    def __str__(self) -> str:
        return f"{self.module}{f' {self.version}' if self.version else ''} ({self.named_by})"


@dataclass(frozen=True)
class Registered:
    """A part that a module outside this package has registered, such as the distance ``huber`` of ``mypkg``."""

    kind: str
    name: str
    module: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name} of {self.module}"


class PluginError(ValueError):
    """Error with one line in ``problems`` for each plug-in that cannot be imported."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        return "; ".join(self.problems)


class Refused(ValueError):
    """Error for a part that cannot be registered; the message says which, why, and what to change."""


_loaded: dict[str, Plugin] = {}
_registered: list[Registered] = []
_tables: dict[str, MutableMapping[str, Any]] = {}
"""Tables of the registered parts, by kind."""


def load(given: Iterable[str] = ()) -> None:
    """Import every plug-in that is named, each once per process.

    The given names are added to the variable, so that processes that this one starts load them as well.

    :param given: values of the option.
    :raises PluginError: some of them cannot be imported.
    """
    given = list(given)
    _import([*_named(), *(Plugin(module, OPTION, _version(module)) for module in given)])
    if given:
        os.environ[VARIABLE] = ",".join(dict.fromkeys([*_in_variable(), *given]))


def load_only(modules: Iterable[str]) -> None:
    """Import the plug-ins of the driver in a worker, which may be on a machine where others are installed.

    Raises PluginError.
    """
    _import([Plugin(module, DRIVER) for module in modules])


def loaded() -> tuple[Plugin, ...]:
    """Return the plug-ins that were imported in this process, in this order."""
    return tuple(_loaded.values())


def registered() -> tuple[Registered, ...]:
    """Return the registered parts, by kind and name."""
    return tuple(sorted(_registered, key=lambda part: (part.kind, part.name)))


def enter(table: MutableMapping[str, Part], name: str, part: Part, own: Registered) -> None:
    """Add a part to its table, behind the parts of this package.

    The parts of plug-ins are sorted by name, so that the order in a table, in which augmentations are applied, does not
    depend on the order of the plug-ins.
    """
    table[name] = part
    _registered.append(own)
    _tables[own.kind] = table
    for other in sorted(each.name for each in _registered if each.kind == own.kind):
        table[other] = table.pop(other)


def owner(kind: str, name: str) -> str:
    """Return the module that registered a part, or the name of this package."""
    return next((each.module for each in _registered if (each.kind, each.name) == (kind, name)), "dist_condense")


def _named() -> Iterator[Plugin]:
    """Yield the plug-ins that entry points name, in the order of their names, then those that the variable names."""
    for point in sorted(metadata.entry_points(group=GROUP), key=lambda point: (point.name, point.value)):
        named_by = f"entry point {point.name}" + (f" of {point.dist.name}" if point.dist else "")
        yield Plugin(point.value, named_by, point.dist.version if point.dist else None)
    yield from (Plugin(module, VARIABLE, _version(module)) for module in _in_variable())


@cache
def _version(module: str) -> str | None:
    owners = metadata.packages_distributions().get(module.partition(".")[0], ())
    return metadata.version(owners[0]) if owners else None


def _in_variable() -> list[str]:
    names = (name.strip() for name in os.environ.get(VARIABLE, "").split(","))
    return [name for name in names if name]


def _import(plugins: Iterable[Plugin]) -> None:
    problems = []
    for plugin in plugins:
        if plugin.module in _loaded:
            continue
        before = len(_registered)
        if reason := _failure(plugin.module):
            problems.append(f"plug-in {plugin}: {reason}")
            _withdraw(before)
        else:
            _loaded[plugin.module] = plugin
    if problems:
        raise PluginError(problems)


def _withdraw(kept: int) -> None:
    """Remove the parts that were registered after the first ``kept``, by a module whose import then failed."""
    for part in _registered[kept:]:
        del _tables[part.kind][part.name]
    del _registered[kept:]


def _failure(module: str) -> str | None:
    """Import a module; return why this is impossible, in one line; None if it is imported."""
    if not all(part.isidentifier() for part in module.split(".")):
        return "this is not the name of a module, such as mypkg or mypkg.parts"
    try:
        import_module(module)
    except Refused as error:
        return str(error)
    except ModuleNotFoundError as error:
        return f"{error}; install it here, or add the folder that contains it to PYTHONPATH"
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plug-in may raise anything
        return f"its import fails ({type(error).__name__}: {words_of(error)}); repair it, or leave it out"
    return None
