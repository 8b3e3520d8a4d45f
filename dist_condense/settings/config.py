"""Conversion of config files and ``key=value`` texts to a typed RunConfig, and back to text.

A config file names its parts (``defaults: [method: idc, training: real, _self_]``) and sets other keys; every key of
schema.py can also be set on the command line as ``key=value``. Files are read by yaml_files.py.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dist_condense.settings import keys, overrides, recipes, values, yaml_files
from dist_condense.settings.identity import differences, identity
from dist_condense.settings.keys import KEYS, RENAMED, SECTIONS, leaves
from dist_condense.settings.schema import RunConfig
from dist_condense.settings.values import ConfigError, Misfit, Unusable
from dist_condense.system import terminal
from dist_condense.system.credentials import address, is_half, is_hidden, masked
from dist_condense.system.errors import SHOWN

__all__ = [
    "ConfigError",
    "RunConfig",
    "differences",
    "find",
    "from_dict",
    "given_keys",
    "identity",
    "in_submitted_job",
    "load",
    "not_stored",
    "read",
    "shipped",
    "to_dict",
    "to_yaml",
    "usable",
]

PACKAGE = Path(__file__).resolve().parents[1]
PATHS = ("output", "dataset.root", "data.cache", "tracking.checkpoints")
"""Keys in which a leading `~` is expanded to the user's home directory, as it is after `sqlite:///` in tracking.uri."""
NAME = 255
"""Largest number of bytes in the name of a file or folder."""
ADDRESSES = ("tracking.uri", "tracking.checkpoints", "dataset.root", "data.cache")
"""Keys whose values may be addresses with a password or a token, which is not written to any file of a run."""
WHOLE_PATHS = ("output", "dataset.root")
"""Keys whose absolute paths ``checks`` tests for UTF-8, so that this is not tested here."""


def load(path: str, given: Sequence[str] = ()) -> RunConfig:
    """Compose a config file, its groups and ``key=value`` overrides into a RunConfig.

    :raises ConfigError: the file was not found (with the paths tried), or keys are unknown or have values of the wrong
        type; all such keys are reported.
    """
    file = find(path)
    command = overrides.parsed(given)
    try:
        nested, files = _composed(file, command)
    except Unusable as error:
        raise ConfigError([*command.problems, str(error)]) from error
    composed = dict(leaves(nested))
    _say_renamed([*composed, *command.keys])
    method = None if "method.name" in {**composed, **command.keys} else files.get("method")
    if method:
        composed["method.name"] = yaml_files.escaped(method)
    config = _layered(composed, command.keys, command.problems)
    if method:
        config.method.name = recipes.named(method, config, shipped())
    return config


def usable(path: str, given: Sequence[str] = ()) -> tuple[RunConfig, list[str]]:
    """Return what :func:`load` returns, but without unusable keys, and an error message for each of these.

    :raises ConfigError: the file was not found or cannot be composed.
    """
    try:
        return load(path, given), []
    except ConfigError as error:
        if error.rest is None:
            raise
        return error.rest, error.problems


def given_keys(path: str, given: Sequence[str] = ()) -> set[str]:
    """Return the keys that the user has set: in ``key=value`` overrides, and in a config file of his own.

    These are not the keys of shipped files and of groups, nor those of a resolved config, which has all keys.

    :raises ConfigError: the file was not found.
    """
    file, keys_of = find(path), dict(overrides.parsed(given).keys)
    if not file.resolve().is_relative_to(shipped().resolve()):
        own = keys.renamed(dict(leaves(yaml_files.texts(file))))[0]
        keys_of |= {} if own.keys() >= KEYS.keys() else own
    return keys.renamed(keys_of)[0].keys() & KEYS.keys()


def read(path: Path, given: Sequence[str] = ()) -> RunConfig:
    """Read the resolved config of a run and apply ``key=value`` overrides.

    No other file is composed, and only overrides may contain interpolations.

    :raises ConfigError: :func:`yaml_files.stored` refuses the file, or keys are unknown or have values of the wrong
        type; all such keys are reported.
    """
    command = overrides.parsed(given)
    unused = [f"{group}: a run's config has no groups; give {group}.KEY=VALUE" for group in command.groups]
    problems = [*command.problems, *unused]
    try:
        stored = dict(leaves(yaml_files.stored(path)))
    except Unusable as error:
        raise ConfigError([*problems, str(error)]) from error
    _say_renamed(command.keys)
    return _layered(stored, command.keys, problems)


def from_dict(given: Mapping[str, Any]) -> RunConfig:
    """Convert a dict with nested or dotted keys, whose values may be texts, to a RunConfig.

    :raises ConfigError: keys are unknown or have values of the wrong type; all such keys are reported.
    """
    config, unknown = RunConfig(), 0
    named, problems = keys.renamed(dict(leaves(given)))
    for key, value in named.items():
        try:
            if key not in KEYS:
                unknown += 1
                if unknown > SHOWN:
                    continue
                raise Misfit(_unknown(key, value))
            *sections, name = key.split(".")
            section = keys.value(config, ".".join(sections)) if sections else config
            values.check_text(value, is_utf8=key not in WHOLE_PATHS)
            typed = _at_home(key, values.converted(key, value, KEYS[key].kind))
            is_address = key in ADDRESSES and isinstance(typed, str)
            setattr(section, name, address(typed, bare=key not in PATHS) if is_address else typed)
        except Misfit as error:
            problems.append(f"{key}: {error}")
    if unknown > SHOWN:
        problems.append(f"... and {unknown - SHOWN} more unknown keys")
    if problems:
        raise ConfigError(problems, config)
    return config


def to_dict(config: RunConfig) -> dict[str, Any]:
    """Return the config as nested plain values."""
    return asdict(config)


def to_yaml(config: RunConfig) -> str:
    """Return the config as YAML that :func:`load` and :func:`read` accept, without the secrets of addresses."""
    return yaml_files.dumped(to_dict(config))


def find(path: str) -> Path:
    """Find a config file by its path, relative to the working directory, the package, or the package's parent folder.

    :raises ConfigError: it is in none of them; the message contains the paths tried.
    """
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
    """Return the folder of the shipped configs: in the package, or beside it in a checkout."""
    inside = PACKAGE / "configs"
    return inside if inside.is_dir() else PACKAGE.parent / "configs"


def not_stored(config: RunConfig) -> list[str]:
    """Return an error message for each address of data or checkpoints whose secret was not stored.

    Such an address cannot be used. For the address of the tracking server, see
    :func:`dist_condense.settings.tracking_address.problems`.
    """
    places = {"dataset.root": config.dataset.root, "tracking.checkpoints": config.tracking.checkpoints}
    return [
        f"{key}: {place}: its password is not stored; give the whole address again, {key}=..."
        for key, place in places.items()
        if place and is_hidden(place)
    ]


def in_submitted_job() -> bool:
    """Return whether this process was started by ``ray job submit``, so that its working directory is temporary."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def _composed(file: Path, command: overrides.Overrides) -> tuple[dict[str, Any], dict[str, str]]:
    """Compose the file and the groups of the command line; a group that cannot be composed becomes a problem.

    Raises Unusable if the file cannot be composed without them, with the error of the groups if it is another.
    """
    try:
        from dist_condense.settings.composing import composed  # imports Hydra
    except ModuleNotFoundError:
        from dist_condense.settings.without_hydra import composed
    try:
        return composed(file, shipped(), command.groups)
    except Unusable as error:
        problem = str(error)
    try:
        composed(file, shipped(), {})
    except Unusable as alone:
        raise Unusable(_hinted(problem, file, command.groups)) from alone
    usable = {}
    for group, name in command.groups.items():
        try:
            composed(file, shipped(), {group: name})
            usable[group] = name
        except Unusable as error:
            command.problems.append(_hinted(str(error), file, {group: name}))
    return composed(file, shipped(), usable)


def _hinted(problem: str, file: Path, groups: Mapping[str, str]) -> str:
    """Append the most similar name to the problem that the file of one of the ``groups`` was not found."""
    for group, name in groups.items():
        if problem.startswith(f"{group}/{name} was not found"):
            known = (path.stem for place in (file.parent, shipped()) for path in (place / group).glob("*.yaml"))
            return f"{problem}{values.meant(name, known)}"
    return problem


def _layered(below: Mapping[str, Any], above: Mapping[str, Any], problems: Sequence[str]) -> RunConfig:
    """Merge two layers of dotted keys, resolve interpolations and old names, and return the RunConfig.

    ``above`` takes precedence. A problem is reported with the interpolation that gave its value.
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
    """Expand `~` in the value of a path key.

    Raises Misfit for an unknown user, for an incomplete address, and for a name that no file system accepts.
    """
    is_path = isinstance(value, str) and key in PATHS and "://" not in value  # names in a store may be longer
    if is_path and any(len(os.fsencode(name)) > NAME for name in value.split("/")):
        raise Misfit(
            f"{values.shown(masked(value))} has a name of more than {NAME} bytes, which no file system accepts"
        )
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
        return f"{value!r} is neither a key of this section nor a file of the config's defaults; give {key}.KEY=VALUE"
    return f"unknown key{values.meant(key, [*SECTIONS, *KEYS]) or '; see docs/config.md'}"
