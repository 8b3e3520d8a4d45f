"""All names that a config can use, in the tables of ``dist-condense list``, each with its meaning in one line."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dist_condense import networks
from dist_condense.data import SUBSETS
from dist_condense.data.catalogue import KNOWN, Known
from dist_condense.networks import resnet
from dist_condense.networks.catalogue import NETWORKS
from dist_condense.settings import schema
from dist_condense.settings.architectures import GROUPS
from dist_condense.settings.config import shipped
from dist_condense.settings.keys import KEYS
from dist_condense.settings.limits import OneOf
from dist_condense.system import docstrings, plugins

SHORT = 20
"""Number of characters below which a sentence, such as the name of a method, says too little."""
TIMM_NAMES = f"{networks.TIMM}NAME"


@dataclass(frozen=True)
class Table:
    """Names, and their meanings in one line.

    :param keys: keys that take the names.
    :param names: meanings by name; empty where a name has none.
    :param about: meaning of the keys, where names have none.
    """

    title: str
    names: Mapping[str, str]
    keys: tuple[str, ...] = ()
    about: str = ""

    @property
    def heading(self) -> str:
        """Title and keys."""
        return f"{self.title} ({', '.join(self.keys)})" if self.keys else self.title

    def is_called(self, word: str) -> bool:
        """Return whether a word is in the title, or a key or its last part; a final s counts for nothing."""
        words = [*self.title.lower().replace(",", "").split(), *self.keys, *(key.split(".")[-1] for key in self.keys)]
        return word.lower().removesuffix("s") in {each.removesuffix("s") for each in words}


def listed() -> Iterator[Table]:
    """Yield the table of each kind of names: files, data sets, networks, then the tables of the schema's keys."""
    yield Table("shipped configs", {f"configs/{stem}.yaml": text for stem, text in _files("").items()})
    yield Table("data sets", {name: _of_data(known) for name, known in KNOWN.items()}, ("dataset.name",))
    subsets = {name: f"{len(classes)} classes of ImageNet" for name, classes in SUBSETS.items()}
    yield Table("named classes", subsets, ("dataset.classes",))
    known = {name: _of_network(name) for name in networks.names()} | {TIMM_NAMES: "A network of the package timm"}
    yield Table("networks", known, ("network.name", "evaluation.architectures"))
    yield Table("options of networks", {name: _options(name) for name in networks.names()})
    groups = {name: ", ".join(texts) for name, texts in GROUPS.items()}
    yield Table("groups of networks", groups, ("evaluation.architectures",))
    yield Table("recipes, all of a paper's method", _files("recipe"), ("recipe",))
    yield Table("methods, what is matched", _files("method"), ("method",))
    yield Table("groups of training keys", _files("training"), ("training",))
    yield from _of_keys()
    if own := [*map(str, plugins.registered())]:
        yield Table("of these, registered by plug-ins", dict.fromkeys(own, ""))


def _of_keys() -> Iterator[Table]:
    keys: dict[OneOf, list[str]] = {}
    for key in KEYS.values():
        if isinstance(key.limit, OneOf):
            keys.setdefault(key.limit, []).append(key.name)
    meanings = docstrings.of_fields(schema, "RunConfig")
    for table, names in keys.items():
        values = table.names if isinstance(table.names, Mapping) else dict.fromkeys(table.names)
        own = {name: meaning(item) for name, item in values.items()}
        if len({*own.values()} - {""}) == len(own):
            yield Table(table.title, own, tuple(names))
        else:
            yield Table(table.title, dict.fromkeys(own, ""), tuple(names), meanings[names[0]])


def meaning(part: Any) -> str:
    """Return what a part of a table is, in one line: its ``about``, or the docstring of it or of its function."""
    if isinstance(text := getattr(part, "about", None), str) and text:
        return text
    if isinstance(part, Known):
        return _of_data(part)
    values = [getattr(part, each.name) for each in fields(part)] if _is_made(part) else [part]
    described = next((each for each in values if inspect.isfunction(each) or inspect.isclass(each)), None)
    return docstrings.first_sentence(getattr(described, "__doc__", "")) if described else ""


def _is_made(part: Any) -> bool:
    """Return whether a part is an object of a data class, rather than the class."""
    return is_dataclass(part) and not inspect.isclass(part)


def _of_network(name: str) -> str:
    builder = NETWORKS[name]
    if not isinstance(builder, partial):
        return docstrings.first_sentence(builder.__doc__)
    return docstrings.first_sentence(docstrings.of_assignments(resnet).get(name))


def _options(name: str) -> str:
    """Return the options of a network as they are written after its name, with their default values."""
    return "".join(f":{option}={default}" for option, default in networks.defaults(name).items())


def _of_data(known: Known) -> str:
    facts = known.facts
    return facts.family if facts.own else f"{facts.family}, {facts.size} px"


def _files(group: str) -> dict[str, str]:
    """Return the first sentence of each shipped file of a group, by the file's name."""
    return {file.stem: _heading(file) for file in sorted((shipped() / group).glob("*.yaml"))}


def _heading(file: Path) -> str:
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if "@package" not in line]
    comment = [line.removeprefix("#").strip() for line in lines[: next(i for i, x in enumerate(lines) if x[:1] != "#")]]
    return docstrings.first_sentence(" ".join(comment), SHORT)
