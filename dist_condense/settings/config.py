"""The configuration of a run: from files and ``key=value`` texts to a typed RunConfig, and back to text.

A config file names its parts (``defaults: [method: idc, training: real, _self_]``) and states its budget; every key of
schema.py can also be given on the command line as ``key=value``. How files are read stands in yaml_files.py.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dist_condense.settings import keys, overrides, values, yaml_files
from dist_condense.settings.identity import differences, identity
from dist_condense.settings.keys import KEYS, RENAMED, SECTIONS, leaves
from dist_condense.settings.schema import RunConfig
from dist_condense.settings.values import ConfigError, Misfit
from dist_condense.settings.yaml_files import Unusable
from dist_condense.system import terminal
from dist_condense.system.credentials import address, is_half, is_hidden, masked

__all__ = [
    "ConfigError",
    "RunConfig",
    "differences",
    "find",
    "from_dict",
    "identity",
    "in_submitted_job",
    "load",
    "not_stored",
    "read",
    "shipped",
    "to_dict",
    "to_yaml",
]

PACKAGE = Path(__file__).resolve().parents[1]
GROUPS = ("method", "training")
PATHS = ("output", "dataset.root", "data.cache", "tracking.checkpoints")
"""Keys in which `~` is the home of whoever starts the run; `sqlite:///~/` in tracking.uri likewise."""
ADDRESSES = ("tracking.uri", "tracking.checkpoints", "dataset.root", "data.cache")
"""Keys whose values may be addresses with a password or a token in them, which no file of a run holds."""
WHOLE_PATHS = ("output", "dataset.root")
"""Those that ``checks`` looks at, with the folders above them, for letters that no file of a run can hold."""


def load(path: str, given: Sequence[str] = ()) -> RunConfig:
    """Compose a config file, its groups and ``key=value`` overrides into a checked RunConfig.

    :raises ConfigError: file not found (names the places looked in), unknown keys, wrong types; all at once.
    """
    file = find(path)
    read_here = overrides.parsed(given)
    try:
        nested, chosen = yaml_files.composed(file, shipped(), read_here.groups)
    except Unusable as error:
        raise ConfigError([*read_here.problems, str(error)]) from error
    composed = dict(leaves(nested))
    if "method" in chosen:
        composed.setdefault("method.name", yaml_files.escaped(chosen["method"]))
    _say_renamed([*composed, *read_here.keys])
    return _layered(composed, read_here.keys, read_here.problems)


def read(path: Path, given: Sequence[str] = ()) -> RunConfig:
    """A resolved config as a run wrote it, with overrides; these alone may have interpolations. Nothing else is
    composed. Raises ConfigError, also for what :func:`yaml_files.stored` refuses."""
    read_here = overrides.parsed(given)
    unused = [f"{group}: a run's config has no groups; give {group}.KEY=VALUE" for group in read_here.groups]
    problems = [*read_here.problems, *unused]
    try:
        stored = dict(leaves(yaml_files.stored(path)))
    except Unusable as error:
        raise ConfigError([*problems, str(error)]) from error
    _say_renamed(read_here.keys)
    return _layered(stored, read_here.keys, problems)


def from_dict(given: Mapping[str, Any]) -> RunConfig:
    """A RunConfig from plain values or their texts, nested or dotted; unknown keys and wrong types are refused all at
    once (ConfigError).
    """
    config = RunConfig()
    named, problems = keys.renamed(dict(leaves(given)))
    for key, value in named.items():
        try:
            if key not in KEYS:
                raise Misfit(_unknown(key, value))
            *sections, name = key.split(".")
            section = keys.value(config, ".".join(sections)) if sections else config
            if key not in WHOLE_PATHS:
                values.check_text(value)
            found = _at_home(key, values.converted(key, value, KEYS[key].kind))
            is_address = key in ADDRESSES and isinstance(found, str)
            setattr(section, name, address(found, bare=key not in PATHS) if is_address else found)
        except Misfit as error:
            problems.append(f"{key}: {error}")
    if problems:
        raise ConfigError(problems, config)
    return config


def to_dict(config: RunConfig) -> dict[str, Any]:
    """Plain values."""
    return asdict(config)


def to_yaml(config: RunConfig) -> str:
    """The resolved config as text that :func:`load` and :func:`read` accept; without the secrets of addresses."""
    return yaml_files.dumped(to_dict(config))


def find(path: str) -> Path:
    """The config file: as given (from the working directory), then beside the package."""
    places = list(dict.fromkeys([Path(os.path.expanduser(path)).absolute(), PACKAGE / path, PACKAGE.parent / path]))
    for place in places:
        if os.path.isfile(place):
            return place
    if os.path.exists(places[0]):
        raise ConfigError([f"config {path!r} is not a file; name one that ends in .yaml"])
    others = (place.with_suffix(ending) for place in places for ending in yaml_files.ENDINGS)
    meant = next((f"; is {other} meant?" for other in others if os.path.isfile(other)), "")
    raise ConfigError([f"config {path} was not found; looked at {', '.join(map(str, places))}{meant}"])


def shipped() -> Path:
    """The folder of the shipped configs: in the package, or beside it in a checkout."""
    inside = PACKAGE / "configs"
    return inside if inside.is_dir() else PACKAGE.parent / "configs"


def not_stored(config: RunConfig) -> list[str]:
    """A line for each data set or store whose address was stored without its secret, so that nothing can be opened;
    ``tracking_address.problems`` has that of the tracking server.
    """
    places = {"dataset.root": config.dataset.root, "tracking.checkpoints": config.tracking.checkpoints}
    return [
        f"{key}: {place}: its password is not stored; give the whole address again, {key}=..."
        for key, place in places.items()
        if place and is_hidden(place)
    ]


def in_submitted_job() -> bool:
    """Whether this is the driver of a `ray job submit`, whose working directory is thrown away."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def _layered(below: Mapping[str, Any], above: Mapping[str, Any], problems: Sequence[str]) -> RunConfig:
    """:func:`from_dict` of dotted keys, ``above`` before ``below``, whose interpolations are not resolved yet. Either
    may use old names; a problem names the interpolation that its value came from.
    """
    kept = {key: text for key, text in below.items() if key not in above}
    texts = {**kept, **above}
    resolved, unresolved = yaml_files.resolved(texts)
    problems = [*problems, *unresolved]
    given: dict[str, Any] = {}
    for layer in (kept, above):
        named, contradictions = keys.renamed({key: resolved[key] for key in layer if key in resolved}, resolved)
        given |= named
        problems += contradictions
    try:
        config = from_dict({key: given[key] for key in (*texts, *given) if key in given})
    except ConfigError as error:
        lines = ((line, texts.get(line.split(":")[0])) for line in error.problems)
        problems += [f"{line}, from {text}" if "${" in str(text) else line for line, text in lines]
        raise ConfigError(problems, error.rest) from error
    if problems:
        raise ConfigError(problems, config)
    return config


def _say_renamed(given: Sequence[str] | Mapping[str, Any]) -> None:
    for key in RENAMED:
        if key in given:
            terminal.say(f"note: {keys.note(key)}")


def _at_home(key: str, value: Any) -> Any:
    """A path without `~`. Raises Misfit where there is nobody of that name, and for half an address."""
    if isinstance(value, str) and key in PATHS and is_half(value):
        raise Misfit(
            f"{masked(value)!r} lacks a slash or the colon of an address, SCHEME://; a folder of that name is ./..."
        )
    start = "sqlite:///" if key == "tracking.uri" else ""
    if not isinstance(value, str) or key not in (*PATHS, "tracking.uri") or not value.startswith(f"{start}~"):
        return value
    path = os.path.expanduser(value.removeprefix(start))
    if path.startswith("~"):
        raise Misfit(f"{value!r}: there is no home of {path.split('/')[0]}; a folder of that name is ./{path}")
    return f"{start}{path}"


def _unknown(key: str, value: Any) -> str:
    if key in SECTIONS:
        return f"{value!r} is no key of this group, nor a file that the config's defaults choose; give {key}.KEY=VALUE"
    close = difflib.get_close_matches(key, KEYS, 1, 0.6)
    return "unknown key" + (f"; did you mean {close[0]}?" if close else "; see docs/config.md")
