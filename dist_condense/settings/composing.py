"""Composition of a config file with the files that its ``defaults`` name, and the grammar of sweeps, both by Hydra.

No other module imports Hydra.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from contextvars import ContextVar
from itertools import islice
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, unquote_to_bytes

from hydra import compose, initialize
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Transformer
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dist_condense.settings.values import Unusable, shown
from dist_condense.settings.yaml_files import DEFAULTS, ENDINGS, SHAPE, package, parsed, texts

PRIMARY = "the config"
"""Name under which Hydra finds the file of the command line, because the file's own name may contain any character."""
READS = 2
"""Number of times that Hydra reads the header of a file for each inclusion: to order the files, and to merge them."""
_EMPTY = re.compile(r"(^|,)\s*(,|$)")
"""A comma that separates no two values."""
_PART = re.compile(r"""(?:\{[^{}]*\}|\[[^\[\]]*\]|"[^"]*"|'[^']*'|[^,])+""")
"""A value, whose brackets, braces and quotation marks may contain commas."""
_LOCATIONS: ContextVar[tuple[Path, ...]] = ContextVar("locations", default=())
_HEADERS: ContextVar[Counter[str]] = ContextVar("headers")
"""Number of headers that Hydra has read since :func:`composed` was called."""


class Files(ConfigSource):
    """Source of configs for Hydra: a folder of config files and groups, or a single file under the name PRIMARY."""

    def __init__(self, provider: str, path: str) -> None:
        super().__init__(provider, path)
        self.location = os.fsdecode(unquote_to_bytes(self.path))

    @staticmethod
    def scheme() -> str:
        """Return the scheme of the addresses that :meth:`address` returns."""
        return "dist-condense"

    @staticmethod
    def address(location: Path) -> str:
        """Return a path as an address without characters that are special to Hydra or OmegaConf."""
        return f"{Files.scheme()}://{quote(os.fsencode(location))}"

    def available(self) -> bool:
        """Return whether the folder or file exists."""
        return os.path.exists(self.location)

    def is_group(self, config_path: str) -> bool:
        """Return whether ``config_path`` is a folder."""
        return os.path.isdir(os.path.join(self.location, config_path))

    def is_config(self, config_path: str) -> bool:
        """Return whether ``config_path`` is a config file."""
        return self._file(config_path) is not None

    def load_config(self, config_path: str) -> ConfigResult:
        """Read a config file and its ``@package`` header. Raises Unusable."""
        file = self._file(config_path)
        assert file is not None  # Hydra asks is_config first
        values = texts(file)
        if config_path == PRIMARY and not values:
            raise Unusable(f"{file} is empty; {SHAPE}")
        if "hydra" in values:
            raise Unusable(f"{file}: hydra: unknown key; Hydra's own settings are not used")
        if config_path == PRIMARY and "_self_" not in values.get("defaults", ["_self_"]):
            values["defaults"].append("_self_")  # as Hydra does, with a warning
        return ConfigResult(self.provider, self.full_path(), OmegaConf.create(values), _Header(package(file)))

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Return the names of the configs in a group."""
        names = os.listdir(os.path.join(self.location, config_path))
        return sorted({os.path.splitext(name)[0] for name in names if name.endswith(ENDINGS)})

    def _file(self, config_path: str) -> Path | None:
        if os.path.isfile(self.location):
            return Path(self.location) if config_path == PRIMARY else None
        files = (os.path.join(self.location, config_path) + ending for ending in ENDINGS)
        return next((Path(file) for file in files if os.path.isfile(file)), None)


class _Header(dict[str, str | None]):
    """Header of a config. Hydra reads it for each inclusion of the config, and never bounds their number."""

    def __init__(self, package: str | None) -> None:
        super().__init__(package=package)

    def __getitem__(self, key: str) -> str | None:
        _HEADERS.get()["read"] += 1
        if _HEADERS.get()["read"] > READS * (1 + DEFAULTS):  # 1: the file of the command line
            raise RecursionError
        return super().__getitem__(key)


class Locations(SearchPathPlugin):
    """Plugin that extends Hydra's search path while :func:`composed` runs."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the file and the folders in which :func:`composed` searches."""
        for location in _LOCATIONS.get():
            search_path.append("dist_condense", Files.address(location))


def composed(file: Path, shipped: Path, groups: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Compose a config file with its defaults.

    :param shipped: folder of groups that is searched after the folder of the file.
    :param groups: names of files, by group, that replace the defaults of the file.
    :returns: the nested keys, with interpolations unresolved, and the name of the selected file of each group.
    :raises Unusable: a file is missing or is no config, or the defaults are wrong.
    """
    for plugin in (Files, Locations):
        Plugins.instance().register(plugin)
    before = _LOCATIONS.set((file, file.parent, shipped))
    _HEADERS.set(Counter())
    try:
        with initialize(version_base="1.3", config_path=None, job_name="dist_condense"):
            overrides = [f"{group}={_quoted(name)}" for group, name in groups.items()]
            keys = cast(dict[str, Any], OmegaConf.to_container(compose(PRIMARY, overrides, return_hydra_config=True)))
        return keys, keys.pop("hydra")["runtime"]["choices"]
    except RecursionError as error:
        themselves = f"refer to themselves, or include more than {DEFAULTS} files"
        raise Unusable(f"{file}: its defaults, or those of a file that they name, {themselves}") from error
    except (HydraException, OmegaConfBaseException) as error:
        raise Unusable(_last_words(error, file, groups)) from error
    except OSError as error:  # a name that no file can have
        raise Unusable(f"{file}: a file of its defaults cannot be read: {error.strerror or error}") from error
    finally:
        _LOCATIONS.reset(before)


def choices(override: str, most: int) -> list[str]:
    """Return the values that Hydra's grammar of a sweep reads in ``key=value``, as texts; none if there is one value.

    ``key=a,b`` has two values, ``key=[a,b]`` and ``key='a,b'`` have one.

    :param most: largest number of values that is returned.
    :raises Unusable: a text with a comma is not of the grammar, or its values cannot be listed.
    """
    text = override.partition("=")[2]
    try:
        read = OverridesParser.create().parse_override(override)
        values = list(islice(read.sweep_iterator(_as_text), most)) if read.is_sweep_override() else []
    except (HydraException, RecursionError) as error:
        if "," not in text or _is_nested(text):  # a single value, whose grammar is that of overrides.py
            return []
        if _EMPTY.search(text):
            raise Unusable(f"{shown(text)} has a comma without a value beside it; leave the comma out") from error
        if parts := _parts(text):
            return [*dict.fromkeys(parts)][:most]
        reason = str(error).partition("\n")[0].partition(" expecting ")[0] or "nested too deep"
        raise Unusable(f"{shown(text)} has a comma, but is no list of values ({reason}); quote each value") from error
    return [*dict.fromkeys(map(str, values))]


def _parts(text: str) -> list[str]:
    """Split a text, one of whose values is a list or dict that Hydra cannot read, into its values.

    Hydra refuses quotation marks in the keys of a dict, such as ``ipc={"3": 1, "*": 2},5`` has. Returns an empty list
    if a part cannot be read.
    """
    parts = [part.strip() for part in _PART.findall(text)]
    try:
        values = [parsed(part) for part in parts]
    except Unusable:
        return []
    return parts if any(isinstance(value, list | dict) for value in values) else []


def _is_nested(text: str) -> bool:
    """Return whether a text is one list or dict, in which Hydra's grammar refuses an ``=``."""
    try:
        return isinstance(parsed(text), list | dict)
    except Unusable:
        return False


def _as_text(value: Any) -> str:
    """Return a parsed value as overrides.py reads it, which knows no backslash before a special character."""
    return value if isinstance(value, str) else Transformer.str(value)


def _quoted(name: str) -> str:
    """Quote a text for Hydra's grammar, in which backslashes are special only before a quotation mark."""
    return "'" + re.sub(r"(?<!\\)(\\*)('|\Z)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), name) + "'"


def _last_words(error: BaseException, file: Path, groups: Mapping[str, str]) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        select = f"; choose one of {', '.join(error.options)}" if error.options else ""
        return f"{error.missing_cfg_file} was not found{select or f', but the defaults of {file} name it'}"
    words = " ".join(str(error).split())
    if "hydra.runtime.cwd" in words:
        return f"{os.getcwd()}: Hydra cannot read a ${{ in the name of the working directory; start from another"
    for group in groups:
        if re.search(f"Could not override '{group}'|Key '{group}' is not in struct", words):
            return f"{group}: the defaults of {file} name no {group} to replace; give {group}.KEY=VALUE"
    return f"{file}: {words}"
