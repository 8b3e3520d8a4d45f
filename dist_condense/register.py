"""Functions with which a plug-in registers parts, described in docs/extending.md.

A plug-in is a module that calls them when it is imported. A part can then be used in configs by its name, like those of
this package. Each function raises :class:`dist_condense.system.plugins.Refused` if the name is taken, or if the part
does not keep the contract of its table, as far as a small example shows.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, MutableMapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from dist_condense import networks
from dist_condense.core.augmentation import OPERATIONS, Draw, Operation, Sampler, neutral
from dist_condense.core.distance import DISTANCES, Distance
from dist_condense.core.statistic import PARAMETERS, STATISTICS, Parameters, Statistic
from dist_condense.data.catalogue import KNOWN, Known
from dist_condense.data.constants import MEASURED
from dist_condense.evaluation.protocols import PROTOCOLS, REPLACED, Protocol
from dist_condense.networks.catalogue import NETWORKS, Builder
from dist_condense.selection.candidates import Candidates
from dist_condense.selection.table import SELECTIONS, Selection
from dist_condense.settings.schema import CONDENSED, FULL
from dist_condense.system import plugins
from dist_condense.system.plugins import Refused, Registered

__all__ = ["augmentation", "data_set", "distance", "network", "protocol", "selection", "statistic"]

NAME = re.compile("[a-z][a-z0-9_]*")
"""Pattern of a name."""
THETA = "network"
"""Word for the condensing network in ``evaluation.architectures``."""
SIDE, SOME = 8, 3
"""Side of the images and number of images on which a part is tested."""

Part = TypeVar("Part")


def distance(name: str, part: Distance) -> None:
    """Register a distance D, for ``method.distance``."""
    refuse = _new("distance", DISTANCES, name)
    _expect(isinstance(part, Distance), refuse, "give a core.distance.Distance")
    layer = torch.linspace(1, 2, 2**part.dimensions).view([2] * part.dimensions)
    value = _tried(lambda: part([layer], [layer + 1]), refuse)
    _expect(isinstance(value, Tensor) and value.shape == () and value.is_floating_point(), refuse, "return a scalar")
    _enter("distance", DISTANCES, name, part)


def statistic(name: str, make: Callable[[Parameters], Statistic]) -> None:
    """Register a statistic phi, for ``method.statistic.name``.

    :param make: function from the selection of parameters, which it may ignore, to the statistic.
    """
    refuse = _new("statistic", STATISTICS, name)
    _expect(callable(make), refuse, "give a function that makes the statistic")
    made = _tried(lambda: make(PARAMETERS["all"]), refuse)
    absent = [x for x in ("batch_statistics", "reads_labels", "dimensions", "value", "along") if not hasattr(made, x)]
    _expect(callable(made) and not absent, refuse, f"the made statistic lacks {', '.join(absent) or '__call__'}")
    _enter("statistic", STATISTICS, name, make)


def network(name: str, build: Builder) -> None:
    """Register a network, for ``network.name`` and ``evaluation.architectures``.

    :param build: class or function of ``channels``, ``size``, ``classes`` and options.
    """
    refuse = _new("network", NETWORKS, name, [THETA])
    _expect(callable(build), refuse, "give a class or a function that builds it")
    given = _tried(lambda: inspect.signature(build, eval_str=True).parameters, refuse)
    absent = [x for x in ("channels", "size", "classes") if x not in given]
    _expect(not absent, refuse, f"its builder lacks the parameter {', '.join(absent)}")
    for option in networks.unreadable(build):
        _expect(False, refuse, f"give the option {option} a default and a type such as Annotated[int, Interval(1, 9)]")
    _enter("network", NETWORKS, name, build)


def data_set(name: str, part: Known) -> None:
    """Register a data set, for ``dataset.name``."""
    refuse = _new("data set", KNOWN, name, [MEASURED])
    _expect(isinstance(part, Known), refuse, "give a data.catalogue.Known, its facts and a function that opens it")
    facts = part.facts
    is_complete = len(facts.mean) == len(facts.std) == facts.channels
    _expect(is_complete, refuse, f"its facts need a mean and a std for each of {facts.channels} channels")
    _enter("data set", KNOWN, name, part)


def augmentation(name: str, operation: Operation) -> None:
    """Register an operation, for ``method.augmentation``; it is applied after those of this package, in name order."""
    refuse = _new("augmentation", OPERATIONS, name)
    _expect(callable(operation), refuse, "give a function of a Draw and a Sampler")
    before = neutral(SOME)
    drawn = _tried(lambda: operation(before, Sampler(SOME, (SIDE, SIDE), torch.Generator().manual_seed(0))), refuse)
    _expect(isinstance(drawn, Draw), refuse, "return the Draw with other parameters, as dataclasses.replace does")
    for field, value in vars(before).items():
        now = getattr(drawn, field)
        is_kept = isinstance(now, Tensor) and (now.shape, now.dtype) == (value.shape, value.dtype)
        _expect(is_kept, refuse, f"its {field} must be {value.dtype} of shape {list(value.shape)} for {SOME} images")
    _enter("augmentation", OPERATIONS, name, operation)


def protocol(name: str, part: Protocol) -> None:
    """Register a protocol of the evaluation, for ``evaluation.protocol``."""
    refuse = _new("protocol", PROTOCOLS, name, REPLACED)
    _expect(isinstance(part, Protocol), refuse, "give an evaluation.protocols.Protocol")
    absent = [x for x in ("channels", "without_flip") if not hasattr(part.augmentation, x)]
    _expect(not absent, refuse, f"its augmentation lacks {', '.join(absent)}")
    _enter("protocol", PROTOCOLS, name, part)


def selection(name: str, part: Selection) -> None:
    """Register a selection of real images, for ``method.selection.name`` and ``evaluation.sets``."""
    refuse = _new("selection", SELECTIONS, name, [CONDENSED, FULL])
    _expect(isinstance(part, Selection), refuse, "give a selection.table.Selection")
    features = torch.arange(SIDE * 2.0).view(SIDE, 2) if part.features else torch.empty(SIDE, 0)
    chosen = _tried(lambda: part.select(Candidates(0, features=features, ipc=SOME, seed=0)), refuse)
    is_usable = isinstance(chosen, Tensor) and chosen.dtype == torch.int64 and chosen.shape == (SOME,)
    is_usable = is_usable and len({*chosen.tolist()} & {*range(SIDE)}) == SOME
    _expect(is_usable, refuse, f"for ipc={SOME} of {SIDE} images, return {SOME} different positions, int64 [{SOME}]")
    _enter("selection", SELECTIONS, name, part)


Refuse = Callable[[str], Refused]
"""Function from a reason to the error that refuses a part for it."""


def _new(kind: str, table: MutableMapping[str, Any], name: str, reserved: Iterable[str] = ()) -> Refuse:
    """Return the function that refuses the part; raise Refused for a name that cannot be used."""

    def refuse(reason: str) -> Refused:
        return Refused(f"{kind} {name!r:.80}: {reason}")

    _expect(isinstance(name, str) and NAME.fullmatch(name), refuse, "a name has small letters, digits and underscores")
    _expect(name not in reserved, refuse, "the word has another meaning in configs; choose another name")
    _expect(name not in table, refuse, f"{plugins.owner(kind, name)} has one of this name; choose another name")
    return refuse


def _expect(condition: object, refuse: Refuse, reason: str) -> None:
    if not condition:
        raise refuse(reason)


def _tried(call: Callable[[], Part], refuse: Refuse) -> Part:
    """Return the result of a call of a plug-in's function; its error refuses the part."""
    try:
        return call()
    except Exception as error:
        raise refuse(f"it fails on a small example ({type(error).__name__}: {' '.join(str(error).split())})") from error


def _enter(kind: str, table: MutableMapping[str, Part], name: str, part: Part) -> None:
    """Enter a part with the module that called the function of this module."""
    module = sys._getframe(2).f_globals["__name__"]
    plugins.enter(table, name, part, Registered(kind, name, module))
