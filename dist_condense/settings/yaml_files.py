"""Reading and writing of config files as nested dicts of texts. OmegaConf, where it is installed, resolves ``${...}``;
it is imported only if a text contains one.

Every scalar stays the text of the file, so that only the type of its key decides its value: ``20241126_001`` is a name,
and ``no`` can be a class. No path and no text of a user is parsed by Hydra's grammar.
"""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import yaml

from dist_condense.settings import interpolations, variables
from dist_condense.settings.interpolations import LONGEST, texts_of
from dist_condense.settings.values import Unusable
from dist_condense.system.records import DEPTH, YAML_BYTES, Unreadable, YamlLoader, bytes_of, document, text_of
from dist_condense.system.terminal import printable

ENDINGS = (".yaml", ".yml")
DEEP = "its ${...} are nested too deep; give the value"
SHAPE = "a config consists of keys and values, `ipc: 10`"
DEFAULTS = 50
"""Largest number of files in all lists ``defaults``, each counted as often as it is included."""
TAG = "tag:yaml.org,2002:"
STR, NULL, MERGE, LIST, DICT = (f"{TAG}{name}" for name in ("str", "null", "merge", "seq", "map"))
TYPES = (f"{TAG}int", f"{TAG}float", f"{TAG}bool")
"""Tags of scalars that have no effect, because the key has a type."""
RESOLVED = "the config of a run is resolved and has no ${...}, no defaults and no anchors"
_REAL = re.compile(r"(?<!\\)(\\\\)*\$\{")
"""Pattern of an interpolation that is not escaped, with an even number of backslashes before it."""
_VARIABLE = re.compile(r"\$\{oc\.env:\s*([^,}\s]+)\s*(,\s*(?:''|\"\")?\s*\})?")
_SCALARS = (str, int, float, type(None))
"""Types of scalars that JSON can represent (bool is an int)."""


# --- YAML whose scalars stay texts --------------------------------------------------------------------------------


class _Texts(YamlLoader):
    """YAML loader that reads every scalar as text, except that an unquoted ``null``, ``~`` or empty value of a key is
    None. Tags of other types than those of JSON are refused.
    """

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {
        first: [(tag, pattern) for tag, pattern in known if tag in (NULL, MERGE)]
        for first, known in YamlLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        node = super().compose_node(parent, index)
        if node is not None and node.tag in TYPES and isinstance(node, yaml.ScalarNode):
            node.tag = STR
        if node is not None and node.tag not in (STR, NULL, MERGE, LIST, DICT):
            tag = node.tag.replace(TAG, "!!")
            _require(False, node, f"the tag {tag!r:.80} is not read; write the value without a tag")
        return node

    def compose_sequence_node(self, anchor: str | None) -> yaml.Node:
        node = super().compose_sequence_node(anchor)
        _as_texts(node.value, NULL, MERGE)
        return node

    def compose_mapping_node(self, anchor: str | None) -> yaml.Node:
        node = super().compose_mapping_node(anchor)
        _as_texts([key for key, _ in node.value], NULL)
        _as_texts([value for _, value in node.value], MERGE)
        return node

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[str, Any]:
        known: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                _require(key.value not in known, key, f"the key {key.value!r} is here a second time")
                known.add(key.value)
        return cast(dict[str, Any], super().construct_mapping(node, deep))

    def construct_scalar(self, node: yaml.Node) -> Any:
        try:
            return checked(super().construct_scalar(node))
        except Unusable as error:
            raise yaml.MarkedYAMLError(problem=str(error), problem_mark=node.start_mark) from error


class _Resolved(_Texts):
    """Loader that refuses anchors, because a few of them can expand to more data than fits in memory."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem=f"an anchor; {RESOLVED}", problem_mark=self.peek_event().start_mark)
        return super().compose_node(parent, index)


def _as_texts(nodes: Sequence[yaml.Node], *tags: str) -> None:
    for node in nodes:
        if node.tag in tags:
            node.tag = STR


def _require(holds: bool, node: yaml.Node, problem: str) -> None:
    if not holds:
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


def checked(text: str) -> str:
    """Return ``text`` if every ``${`` starts an interpolation or is escaped, ``\\${``; raise Unusable otherwise."""
    if "${" not in text:
        return text
    if len(text) > LONGEST:
        raise Unusable(
            f"{text!r:.80}...: a text with ${{ has at most {LONGEST} characters, not {len(text)}; shorten it"
        )
    try:
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException
    except ModuleNotFoundError:  # then without_hydra refuses all but one form
        return text
    try:
        OmegaConf.create([text])
    except RecursionError as error:
        raise Unusable(f"{text!r:.80}...: {DEEP}") from error
    except OmegaConfBaseException as error:
        hint = "is no interpolation, as ${oc.env:NAME} would be; write \\${ for literal text"
        raise Unusable(f"{text!r:.200} {hint}") from error
    return text


def parsed(text: str) -> Any:
    """Parse a value of the command line to text, None, or lists and dicts of these. Raises Unusable if not YAML."""
    try:
        if len(text) > YAML_BYTES:
            raise Unusable(f"it has more than {YAML_BYTES} characters")
        return _spaced(_loaded(text, _Texts))
    except yaml.YAMLError as error:
        raise Unusable(" ".join(str(getattr(error, "problem", None) or error).split())) from error


def _loaded(text: str, kind: type[YamlLoader]) -> Any:
    loader = kind(text)
    try:
        node = document(loader)
        return None if node is None else loader.construct_document(node)
    finally:
        loader.dispose()


def _spaced(value: Any) -> Any:
    """Split keys such as ``lr:0.1`` that have no value, so that ``{lr:0.1}`` equals ``{lr: 0.1}``."""
    if not isinstance(value, dict):
        return value
    pairs = ((key.split(":", 1) if item is None and ":" in key else (key, item)) for key, item in value.items())
    return {key: _spaced(item) for key, item in pairs}


def texts(file: Path, kind: type[_Texts] = _Texts) -> dict[str, Any]:
    """Read a config file as nested dicts, including ``defaults``. Raises Unusable, with the line number if known."""
    loader = None
    try:
        text = _decoded(file)
        loader = kind(text)
        node = document(loader)
        if node is None or node.tag == NULL:
            return {}
        _require(isinstance(node, yaml.MappingNode), node, SHAPE)
        _check_defaults(node)
        values = cast(dict[str, Any], loader.construct_document(node))
        twice = (key for key, count in Counter(key for key, _ in _dotted(values)).items() if count > 1)
        if (key := next(twice, None)) is not None:
            raise Unusable(f"{file}: the key {key!r:.80} is here a second time, with and without dots")
        return values
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise Unusable(
            f"{file}, line {line}: a character that text cannot contain (U+{error.character:04X}); is it UTF-8?"
        ) from error
    except yaml.MarkedYAMLError as error:
        raise Unusable(_placed(file, error)) from error
    except Unreadable as error:
        raise Unusable(str(error)) from error
    finally:
        if loader is not None:
            loader.dispose()


def package(file: Path) -> str | None:
    """Return the package that the header of a config file names, ``# @package NAME``, else None."""
    header = re.match(r"(?:\s*#.*\n)*?\s*#\s*@package\s+(\S+)", _decoded(file))
    return header[1] if header else None


def _decoded(file: Path) -> str:
    return text_of(bytes_of(file, YAML_BYTES), str(file))


def _placed(file: Path, error: yaml.MarkedYAMLError) -> str:
    mark, context = error.problem_mark or error.context_mark, error.context or ""
    since = f" from line {error.context_mark.line + 1}" if context and error.context_mark else ""
    problem = "a tab is here; indent by spaces" if "'\\t'" in error.problem else error.problem
    return f"{file}, line {mark.line + 1}: " + " ".join(f"{context}{since}{context and ': '}{problem}".split())


def _check_defaults(node: yaml.MappingNode) -> None:
    """Check that ``defaults`` is a list of names, and of groups with one name each."""
    for value in (value for key, value in node.value if key.value == "defaults"):
        shape = "defaults is a list, a line `- method: dc` for each group, then `- _self_`"
        _require(isinstance(value, yaml.SequenceNode), value, shape)
        files = [item for item in value.value if item.value != "_self_"]
        _require(len(files) <= DEFAULTS, value, f"defaults has more than {DEFAULTS} entries")
        for item in value.value:
            names = [item]
            if isinstance(item, yaml.MappingNode) and len(item.value) == 1:
                [(_, name)] = item.value
                names = name.value if isinstance(name, yaml.SequenceNode) else [name]
            _require(all(isinstance(name, yaml.ScalarNode) and name.value for name in names), item, shape)


def stored(file: Path) -> dict[str, Any]:
    """Read a config that a run wrote, as nested dicts of texts.

    Such a file is resolved: it has no defaults, no anchors, and ``${`` only as ``\\${``. Raises Unusable for any other
    file, so that an untrusted file cannot read environment variables of this machine.
    """
    values = texts(file, _Resolved)
    if "defaults" in values:
        raise Unusable(f"{file}: defaults: {RESOLVED}; remove the key")
    for key, value in _dotted(values):
        if "${" in key:
            raise Unusable(f"{file}: the key {key!r:.80}: {RESOLVED}, in keys neither; remove it")
        if any(_REAL.search(text) for text in texts_of(value)):
            raise Unusable(f"{file}: {key}: {RESOLVED}, and {value!r:.80} is one; give the value, or write \\${{")
    return values


def stored_values(file: Path) -> dict[str, Any]:
    """Read a config that a run wrote, like :func:`stored`, but with values typed by YAML instead of texts.

    Raises Unusable also if JSON cannot represent a value.
    """
    stored(file)
    try:
        values = cast(dict[str, Any], _unescaped(_loaded(_decoded(file), YamlLoader) or {}))
    except (yaml.YAMLError, ValueError, OverflowError, LookupError) as error:  # a value that does not fit its tag
        raise Unusable(f"{file} cannot be read: {' '.join(str(error).split())}") from error
    for key, value in _dotted(values):
        for other in _others(value):
            raise Unusable(f"{file}: {key}: {other!r:.80} is no text, number or list; quote it")
    for other in _others(values):
        raise Unusable(f"{file}: the key {other!r:.80} is no text; quote it")
    return values


def _others(value: Any) -> Iterator[Any]:
    """Yield each scalar in nested values, and each key of a dict, that JSON cannot represent."""
    if isinstance(value, list | dict):
        for item in (*value, *value.values()) if isinstance(value, dict) else value:
            yield from _others(item)
    elif not isinstance(value, _SCALARS):
        yield value


def _dotted(values: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


# --- interpolations -----------------------------------------------------------------------------------------------


def resolved(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Resolve the interpolations ``${...}`` in the values of dotted keys.

    Return the values that could be resolved, and an error message for each value that could not.
    """
    found = interpolations.interpolating(values)
    done = {key: value for key, value in values.items() if key not in found}
    if refused := [f"{key}: {reason}" for key, reason in interpolations.refusals(values)]:
        return done, refused
    if not found:
        return done, []
    select, problems = _selector(values), []
    for key, texts in found.items():
        if empty := [name for text in texts for name in _empty_variables(text)]:
            problems.append(f"{key}: the variable {empty[0]} is set, but empty; unset it, or give it a value")
        else:
            try:
                done[key] = select(key)
            except Unusable as error:
                problems.append(f"{key}: {error}")
    return {key: done[key] for key in values if key in done}, problems


def _selector(values: Mapping[str, Any]) -> Callable[[str], Any]:
    """Return a function from a dotted key to its resolved value, which raises Unusable if that is impossible."""
    try:
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException
    except ModuleNotFoundError:
        return lambda key: variables.resolved(values[key])
    root = OmegaConf.create(_nested({key: value for key, value in values.items() if key.count(".") < DEPTH}))

    def select(key: str) -> Any:
        try:
            with warnings.catch_warnings(action="ignore"):
                item = OmegaConf.select(root, key)
                return OmegaConf.to_container(item, resolve=True) if OmegaConf.is_config(item) else item
        except RecursionError as error:
            raise Unusable(DEEP) from error
        except OmegaConfBaseException as error:
            words = re.sub(r"^\w+ raised while resolving interpolation: |\"", "", str(error).splitlines()[0])
            raise Unusable(words) from error

    return select


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    root: dict[str, Any] = {}
    for key, value in values.items():
        *sections, last = key.split(".")
        section = root
        for name in sections:
            if not isinstance(section.get(name), dict):
                section[name] = {}
            section = section[name]
        section[last] = value
    return root


def _empty_variables(text: str) -> Iterator[str]:
    """Yield each environment variable in a text that is set but empty, unless its default is empty as well."""
    for name, allows_empty in _VARIABLE.findall(text):
        if not allows_empty and os.environ.get(name, "set").strip() == "":
            yield name


def dumped(values: Mapping[str, Any]) -> str:
    """Return nested values as YAML text, from which :func:`texts` and :func:`resolved` restore them.

    If the text would contain invisible characters, all characters outside ASCII are written as YAML escapes.
    """
    written = escaped(values)
    text = yaml.dump(written, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False)
    return text if printable(text, kept="\n") == text else yaml.safe_dump(written, sort_keys=False)


class _Dumper(yaml.SafeDumper):
    """YAML dumper that quotes every text that Python or YAML 1.1 would read as a number or a truth value."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        return self.represent_scalar(STR, text, style="'" if text in _TRUTHS or _is_number(text) else None)


_Dumper.add_representer(str, _Dumper.represent_text)
_TRUTHS = {form for word in ("y", "n", *YamlLoader.bool_values) for form in (word, word.title(), word.upper())}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _unescaped(value: Any) -> Any:
    """Invert :func:`escaped`."""
    if isinstance(value, Mapping):
        return {key: _unescaped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_unescaped(item) for item in value]
    if not isinstance(value, str):
        return value
    return re.sub(r"(?<!\\)(\\+)\$\{", lambda match: match[1][: len(match[1]) // 2] + "${", value)


def escaped(value: Any) -> Any:
    """Escape ``${`` in all texts of a value, so that it is taken literally."""
    if isinstance(value, Mapping):
        return {key: escaped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [escaped(item) for item in value]
    return re.sub(r"(?<!\\)(\\*)\$\{", r"\1\1\\${", str(value)) if isinstance(value, str) else value
