"""Configs are the same where neither Hydra nor OmegaConf is installed, and what needs them is refused in one line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dist_condense.settings import config
from dist_condense.settings.config import ConfigError

CONFIGS = sorted(path.name for path in config.shipped().glob("*.yaml"))
MODULES = ("hydra", "omegaconf", "dist_condense.settings.composing")


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in MODULES:
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.parametrize("given", [[], ["method=dsa", "ipc=3", "dataset.classes=['3','8']", "network={width: 16}"]])
def test_shipped_configs_are_the_same(given: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIFAR10_ROOT", "/data/cifar10")
    monkeypatch.delenv("DIST_CONDENSE_WORKERS", raising=False)
    with_hydra = {name: config.load(f"configs/{name}", given) for name in CONFIGS}
    for name in MODULES:
        monkeypatch.setitem(sys.modules, name, None)
    assert {name: config.load(f"configs/{name}", given) for name in CONFIGS} == with_hydra


def test_a_stored_config_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(config.to_yaml(config.load("configs/cifar10_idc.yaml", ["output=a b"])))
    with_hydra = config.read(file, ["ipc=7"])
    for name in MODULES:
        monkeypatch.setitem(sys.modules, name, None)
    assert config.read(file, ["ipc=7"]) == with_hydra


@pytest.mark.usefixtures("without")
@pytest.mark.parametrize(
    ("text", "given", "problem"),
    [
        ("ipc: ${seed}", [], "ipc: '${seed}' needs hydra-core and omegaconf"),
        ("output: ${oc.env:NO_SUCH_VARIABLE}/x", [], "output: the environment variable NO_SUCH_VARIABLE is not set"),
        ("defaults: [digits]", [], "defaults: 'digits' needs hydra-core and omegaconf"),
        ("defaults: [{override method: dc}]", [], "needs hydra-core and omegaconf"),
        ("defaults: [{method: dq}]", [], "method/dq was not found"),
        ("", [], "is empty; a config consists of keys and values"),
        ("# @package foo\nipc: 1", [], "its header, # @package, needs hydra-core and omegaconf"),
        ("ipc: 1", ["method=dc"], "name no method to replace; give method.KEY=VALUE"),
    ],
)
def test_what_needs_hydra_is_refused(text: str, given: list[str], problem: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(f"{text}\n")
    with pytest.raises(ConfigError) as refused:
        config.load(str(tmp_path / "mine.yaml"), given)
    assert problem in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.usefixtures("without")
def test_a_file_without_defaults_and_one_with_its_own_groups_are_composed(tmp_path: Path) -> None:
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text("real_batch: 7\n")
    (tmp_path / "mine.yaml").write_text("defaults: [_self_, {method: mine}]\nmethod: {real_batch: 9}\n")
    made = config.load(str(tmp_path / "mine.yaml"))
    assert (made.method.real_batch, made.method.name) == (7, "mine")
    (tmp_path / "plain.yaml").write_text("ipc: 4\n")
    assert config.load(str(tmp_path / "plain.yaml")).ipc == 4
