"""Keys without effect are named with the key that makes them so; shipped configs have none."""

import re
from pathlib import Path

import pytest

from dist_condense.settings import config, effects
from dist_condense.settings.keys import KEYS

NAMES = sorted(file.stem for file in config.shipped().glob("*.yaml"))
DOCS = [*(Path(__file__).parents[2] / "docs").glob("*.md"), Path(__file__).parents[2] / "README.md"]
PAIR = re.compile(r"(?<![\w.])((?:[a-z_]+\.)*[a-z_]+)=(\[[^\]]*\]|[\w/-]+(?:\.\w+)*)")
COMMAND = re.compile(r"configs/([a-z0-9_]+)\.yaml((?:[ \t]|\\\n|--[^\s`]+|[a-z_.]+=[^\s`]+)*)")


def remarks(name, *keys):
    path = f"configs/{name}.yaml"
    return list(effects.remarks(config.load(path, keys), config.given_keys(path, keys)))


@pytest.mark.parametrize(
    ("keys", "key", "reason"),
    [
        (["training.cutmix=0.5", "training=frozen"], "training.cutmix", "training.source=frozen"),
        (
            ["training.epochs=5", "training=real", "training.images=9", "trajectory.matching_steps=2"],
            "training.epochs",
            "training.source=real",
        ),
        (["training.epochs=5", "trajectory.matching_steps=1"], "training.epochs", "trajectory.matching_steps=1"),
        (
            ["trajectory.pool_size=3", "trajectory.start=pretrained"],
            "trajectory.pool_size",
            "trajectory.start=pretrained",
        ),
        (["trajectory.pretrain_epochs=3"], "trajectory.pretrain_epochs", "trajectory.start=fresh"),
        (["method.representatives.images=99"], "method.representatives.images", "method.real_draw=fresh"),
        (
            ["method.parameterisation.decoding=multi"],
            "method.parameterisation.decoding",
            "method.parameterisation.factor=1",
        ),
        (
            ["method.statistic={name: embedding, parameters: all}", "method.distance=sum_squared"],
            "method.statistic.parameters",
            "method.statistic.name=embedding",
        ),
        (["method.grouping.number=2"], "method.grouping.number", "method.grouping.name=per_class"),
        (["method.grouping.warmup_steps=2"], "method.grouping.warmup_steps", "method.grouping.name=per_class"),
        (["compute.cuda_graphs=2", "cluster.device=cpu"], "compute.cuda_graphs", "cluster.device=cpu"),
        (["cluster.max_failures=2", "cluster.workers=0"], "cluster.max_failures", "cluster.workers=0"),
        (["method.selection.epochs=2"], "method.selection.epochs", "method.procedure=matching"),
        (["method=random", "method.selection.epochs=2"], "method.selection.epochs", "method.selection.name=random"),
        (["method=herding", "method.images.lr=2"], "method.images.lr", "method.procedure=selecting"),
        (["method=random", "compute.compile=true"], "compute.compile", "method.selection.name=random"),
    ],
)
def test_the_key_and_its_reason(keys, key, reason):
    assert remarks("cifar10_dc", *keys) == [f"{key} has no effect: {reason.replace('=', ' is ')}"]


@pytest.mark.parametrize(
    "keys",
    [
        ["training=frozen", "trajectory.start=pool", "trajectory.pretrain_epochs=1", "training.lr=0.5"],
        ["method.start=representative", "method.representatives.images=99"],
        ["method.grouping.name=random", "method.grouping.number=2", "method.grouping.warmup_networks=1"],
        ["compute.cuda_graphs=2", "cluster.device=cuda"],
        ["compute.cuda_graphs=2", "cluster.device=auto"],
        ["method=herding", "method.selection.epochs=2"],
        ["method=herding", "compute.compile=true"],
        ["method=dc", "compute.compile=true"],
        ["method.selection.epochs=20", "trajectory.pool_size=10"],  # the defaults
    ],
)
def test_keys_with_an_effect_are_not_named(keys):
    assert remarks("cifar10_dc", *keys) == []


def _documented():
    """Yield each shipped config alone, and with the overrides that its header and the documentation give for it."""
    commands = [each for file in DOCS for each in COMMAND.findall(file.read_text())]
    for name in NAMES:
        yield pytest.param(name, [], id=name)
        header = (config.shipped() / f"{name}.yaml").read_text().partition("\ndefaults")[0]
        lines = [part for line in header.split("\n") for part in re.split("[;:]", line)]
        for text in [*lines, *(keys for other, keys in commands if other == name)]:
            pairs = [f"{key}={text}" for key, text in PAIR.findall(text) if key in {*KEYS, "method", "training"}]
            if pairs:
                yield pytest.param(name, pairs, id=f"{name} {' '.join(pairs)}")


DOCUMENTED = list(_documented())


def test_overrides_are_documented():
    assert sum(bool(each.values[1]) for each in DOCUMENTED) > 20


@pytest.mark.parametrize(("name", "keys"), DOCUMENTED)
def test_no_shipped_config_and_no_documented_override_is_without_effect(name, keys, monkeypatch):
    """Keys of the shipped files count as well here, except in a selection, which ignores those of matching."""
    for variable in ("IMAGENET_ROOT", "DIST_CONDENSE_WORKERS"):
        monkeypatch.delenv(variable, raising=False)
    assert remarks(name, *keys) == []
    loaded = config.load(f"configs/{name}.yaml", keys)
    if loaded.method.procedure == "matching" and loaded.trajectory.matching_steps > 1 and not keys:
        assert list(effects.remarks(loaded, KEYS)) == []


def test_keys_of_an_own_file_count_and_those_of_a_resolved_config_do_not(tmp_path):
    own, resolved = tmp_path / "own.yaml", tmp_path / "config.yaml"
    own.write_text("defaults: [method: dm, training: frozen, _self_]\ntraining: {lr: 0.5}\nipc: 2\n")
    assert config.given_keys(str(own), ["cluster.slices=2", "method=dc"]) == {"training.lr", "ipc", "compute.slices"}
    resolved.write_text(config.to_yaml(config.load(str(own))))
    assert config.given_keys(str(resolved), ["seed=1"]) == {"seed"}
    assert config.given_keys("configs/digits.yaml") == set()
