"""Values of config keys and options of networks: each is used, or refused in a line that names the key."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import strategies as st

from dist_condense import networks
from dist_condense.commands import run_command
from dist_condense.job import preflight
from dist_condense.networks.text import Interval
from dist_condense.settings import config, memory, resolve, values
from dist_condense.settings.config import RunConfig
from dist_condense.settings.keys import KEYS, Key, refused
from dist_condense.settings.limits import Range
from dist_condense.settings.procedures import outline_of
from dist_condense.settings.values import ConfigError
from tests.doors.fuzzing import door, fuzz, mutated_values, odd_values

GIVEN = {"cluster.workers": 0, "cluster.device": "cpu", "network.depth": 2, "network.width": 8}
COMBINED = KEYS.keys() - {
    *("cluster.device", "data.tier"),
    *("dataset.name", "dataset.size", "dataset.channels", "dataset.test_fraction"),
}
"""Keys that are combined: not those whose values suit only other data or machines."""
NODES = [(64, 0, 2**34), (4, 0, 2**33)]


@pytest.fixture(autouse=True)
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A cluster of two nodes, a machine of little memory, and an empty working directory."""
    monkeypatch.setattr(resolve, "machines", lambda: NODES)
    monkeypatch.setattr(memory, "memory_and_swap", lambda: 2**28)
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text("ipc: 1\n")


def good_of(key: Key) -> st.SearchStrategy[Any]:
    """Return values in the range or table of a key, mostly small or at an end, or its default."""
    near = [st.just(key.default)]
    if isinstance(key.limit, Range):
        least, most = key.limit.least, key.limit.most
        kind = float if "float" in values.type_name(key.kind) else int
        some = map(kind, (least, most, most // 2, 0.5, 1, 2, 7, 64, 1000))
        near.append(st.sampled_from([x for x in some if key.limit.refusal(x) is None]))
    elif key.limit is not None:
        near.append(st.sampled_from(list(key.limit.names)))
    elif values.type_name(key.kind).startswith("bool"):
        near.append(st.booleans())
    if values.takes_list(key.kind):
        near = [near[0], *(st.lists(one, max_size=3) for one in near[1:])]
    return st.one_of(*near)


def values_of(key: Key) -> st.SearchStrategy[Any]:
    """Return values for a key: good ones, those beyond its range, those close to its default, and odd ones."""
    beyond = []
    if isinstance(key.limit, Range):
        ends = [key.limit.least, key.limit.most]
        beyond = [st.sampled_from([x for end in ends for x in (end - 1, end + 1, end / 2, -end, 10 * end)])]
    return st.one_of(good_of(key), *beyond, mutated_values(key.default), odd_values)


@st.composite
def changes(draw: st.DrawFn) -> dict[str, Any]:
    """Return random values for one to four random keys."""
    chosen = draw(st.lists(st.sampled_from(list(KEYS)), min_size=1, max_size=4, unique=True))
    return {name: draw(values_of(KEYS[name])) for name in chosen}


@st.composite
def combinations(draw: st.DrawFn) -> dict[str, Any]:
    """Return values in the ranges of two to eight random keys, which may be absurd together."""
    chosen = draw(st.lists(st.sampled_from(sorted(COMBINED)), min_size=2, max_size=8, unique=True))
    return {name: draw(good_of(KEYS[name])) for name in chosen}


def written(value: Any) -> str:
    """Write a value for the command line."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict | bool | type(None)) else str(value)


def answered(file: Path | str, overrides: Mapping[str, Any]) -> list[str] | None:
    """Load, check and resolve a config file with overrides."""
    given = [f"{key}={written(value)}" for key, value in overrides.items()]
    return checked(lambda: run_command.loaded(str(file), given))


def checked(load: Callable[[], RunConfig]) -> list[str] | None:
    """Check and resolve a config as a run does, and return the lines of the refusal; None if it is accepted."""
    with door(ConfigError) as answer:
        loaded = load()
        dataset, _ = preflight.check(loaded)
        resolved, _ = resolve.resolved(loaded, dataset, {})
        outline_of(resolved, dataset).units.place(1)
    if answer.is_accepted:
        assert refused(resolved) == {}
        Path("config.yaml").write_text(config.to_yaml(resolved), encoding="utf-8")
        assert config.read(Path("config.yaml")) == resolved
    return answer.lines


def check_names(lines: list[str], changed: Mapping[str, Any]) -> None:
    """Check that a refusal names changed keys or their sections, and is short."""
    sections = {part for key in changed for part in (key, key.rpartition(".")[0] or key)}
    assert any(name in line for line in lines for name in sections), lines
    assert len(lines) <= 4 * len(changed), lines


@fuzz(changes(), examples=40, seconds=3)
def test_values_on_the_command_line(changed: dict[str, Any]) -> None:
    lines = answered("base.yaml", {**GIVEN, **changed})
    if lines is not None:
        check_names(lines, changed)


@fuzz(changes(), examples=30, seconds=2)
def test_values_in_a_file(changed: dict[str, Any]) -> None:
    nested: dict[str, Any] = {}
    for key, value in {**GIVEN, **changed}.items():
        *sections, name = key.split(".")
        section = nested
        for part in sections:
            section = section.setdefault(part, {})
        section[name] = value
    Path("mine.yaml").write_bytes(yaml.safe_dump(nested, allow_unicode=True).encode("utf-8", "surrogatepass"))
    lines = answered("mine.yaml", {})
    if lines is not None:
        assert any("mine.yaml" in line or any(key in line for key in changed) for line in lines) or len(changed) > 1, (
            lines
        )


@fuzz(combinations(), examples=60, seconds=3)
def test_good_values_that_may_be_absurd_together(changed: dict[str, Any]) -> None:
    lines = checked(lambda: config.from_dict({**GIVEN, **changed}))
    assert lines is None or all("is not in the range" not in line for line in lines), lines


OPTIONS = st.sampled_from(["width", "depth", "norm", "activation", "pooling", "growth", "img_size", "drop_rate", "x"])
ODD_OPTIONS = st.one_of(
    st.sampled_from(
        ["0", "1", "-1", "8192", "8193", "100", "101", "1e9", "1000000000", "nan", "inf", "-0.0", "0.5", ""]
    ),
    st.sampled_from(["instance", "batch", "none", "layer", "relu", "max", "9" * 5000, "\0", "a:b", "=", "x" * 5000]),
    st.integers(1, 64).map(str),
    st.text(max_size=8),
)


@fuzz(
    st.sampled_from([*networks.names(), "timm:resnet10t", "timm:test_vit", "timm:", "nothing"]),
    st.lists(st.tuples(OPTIONS, ODD_OPTIONS), max_size=2),
    st.sampled_from([1, 8, 28, 32, 64]),
    examples=50,
    seconds=3,
)
def test_options_of_networks(name: str, options: list[tuple[str, str]], size: int) -> None:
    text = ":".join([name, *(f"{key}={value}" for key, value in options)])
    with door(ValueError, ImportError):
        networks.check(text)
        made = networks.sketch(text, channels=3, size=size, classes=10)
        assert networks.weight_bytes(made) > 0 and networks.largest_output(made, 3, size) > 0


@pytest.mark.parametrize("name", networks.names())
def test_every_number_among_the_options_has_an_interval(name: str) -> None:
    for key in networks.options(name) - {"norm", "activation", "pooling"}:
        least, most = _interval(name, key)
        for wrong in (least - 1, most + 1, "nan", "inf", 10**30):
            with pytest.raises(ValueError, match=f"{key} is .*in the range {least} to {most}"):
                networks.check(f"{name}:{key}={wrong}")


def _interval(name: str, key: str) -> tuple[float, float]:
    from dist_condense.networks.catalogue import _builder, _parameters

    _, rule = networks.text._kind(_parameters(_builder(name))[key].annotation)
    assert isinstance(rule, Interval)
    return rule.least, rule.most
