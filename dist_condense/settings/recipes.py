"""Recipes, which set all of a paper's method, and the names of methods that deviate from theirs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, get_args

from dist_condense.settings import without_hydra
from dist_condense.settings.identity import FREE
from dist_condense.settings.keys import KEYS, RECIPE, value
from dist_condense.settings.schema import RunConfig
from dist_condense.settings.values import converted
from dist_condense.settings.yaml_files import texts

SECTIONS = ("method.", "training.", "trajectory.")
SWITCHES = ("training.cutmix", "method.label_lr")
"""Numeric keys that tell methods apart by whether they are set at all."""
STEPS = "trajectory.matching_steps"
LONGEST = 80
"""Maximum number of characters of a value in a name."""
WITH = " with "
"""Text between the name of a method and the keys in which a run deviates from it."""


def named(method: str, config: RunConfig, shipped: Path) -> str:
    """Return the name of a run's method: that of its group file, followed by the keys that differ from its recipe.

    Of several recipes of a method, such as those for photographs, the most similar one counts. Names, lists and
    switches of the method, of the training of theta and of the trajectory are compared; numbers are not, because they
    follow the data set and the budget. How theta is trained counts only where it is trained.

    :param method: name of a file of the group ``method``; without a recipe, the method is what the file says.
    :param shipped: folder of the shipped configs.
    """
    found = [list(_differences(config, recipe)) for recipe in _recipes(method, shipped)]
    least = min(found, key=len, default=[])
    return f"{method}{WITH}{', '.join(least)}" if least else method


def remarks(config: RunConfig, shipped: Path) -> Iterator[str]:
    """Yield a remark if the run was named after its deviations from a recipe, and not by the user."""
    name = config.method.name
    method, deviates, _ = name.partition(WITH)
    if deviates and name == named(method, config, shipped):
        yield f"the method is recorded as '{name}'; {RECIPE}={method} sets everything that the paper of {method} does"


@cache
def _recipes(method: str, shipped: Path) -> list[dict[str, Any]]:
    """Return the keys of all shipped recipes of a method, by dotted name."""
    return [
        {
            key: converted(key, text, KEYS[key].kind)
            for key, text in without_hydra.composed(file, shipped, {})[0].items()
        }
        for file in sorted((shipped / RECIPE).glob("*.yaml"))
        if {"/method": method} in texts(file)["defaults"]
    ]


def _differences(config: RunConfig, recipe: dict[str, Any]) -> Iterator[str]:
    own = {key.name: value(config, key.name) for key in KEYS.values()}
    its = {key.name: recipe.get(key.name, key.default) for key in KEYS.values()}
    if _is_trained(its) and not _is_trained(own):
        yield f"{STEPS}={own[STEPS]}"
    for name in _compared():
        if name.startswith("training.") and not _is_trained(its) and not _is_trained(own):
            continue
        if bool(own[name]) != bool(its[name]) if name in SWITCHES else own[name] != its[name]:
            yield f"{name}={as_given(own[name])}"


def _is_trained(values: dict[str, Any]) -> bool:
    """Return whether a run with these keys trains theta."""
    return bool(values[STEPS] > 1 or values["trajectory.pretrain_epochs"])


@cache
def _compared() -> list[str]:
    """Return the names of the keys that tell methods apart."""
    own = (key for key in KEYS.values() if key.name.startswith(SECTIONS) and not key.name.startswith(FREE))
    return [key.name for key in own if key.name in SWITCHES or not _is_number(key.kind)]


def _is_number(kind: Any) -> bool:
    return {*(get_args(kind) or (kind,))} - {NoneType} <= {int, float}


def as_given(item: Any) -> str:
    """Return a value as on the command line, shortened."""
    if isinstance(item, list):
        return f"[{','.join(map(as_given, item))}]"[:LONGEST]
    if item is None or isinstance(item, bool):
        return {None: "null", True: "true", False: "false"}[item]
    return f"{item:g}" if isinstance(item, float) else str(item)[:LONGEST]
