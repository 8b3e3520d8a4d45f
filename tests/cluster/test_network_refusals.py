"""Networks of the condensation and of the evaluation are looked at before anything starts."""

import re
import sys
from pathlib import Path

import pytest

from dist_condense import networks
from dist_condense.evaluation.evaluate import evaluate_set
from dist_condense.evaluation.rows import read_csv
from dist_condense.job import preflight
from dist_condense.settings import assembly, names
from dist_condense.settings.config import ConfigError, RunConfig, load
from tests.evaluation.toy import evaluation


def digits(tmp_path: Path, **changes: object) -> RunConfig:
    """The shipped config of the digits (8 x 8, one channel), with dotted keys changed (`__` for the dot)."""
    config = load("configs/digits.yaml", [f"output={tmp_path}/run", "cluster.workers=0"])
    for key, value in changes.items():
        *section, name = key.split("__")
        setattr(getattr(config, section[0]) if section else config, name, value)
    return config


def problems(config: RunConfig) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        preflight.check(config)
    return refused.value.problems


def test_all_networks_are_refused_at_once_beside_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    wanted = ["resnet19", "convnet:deep=4", "timm:resnet10t", "vgg11", "mlp", "network:norm=bach", "convnet:depth=9"]
    said = problems(
        digits(tmp_path, ipc=0, network__name="resnet10_ap", network__depth=None, evaluation__architectures=wanted)
    )
    beginnings = [
        "ipc: 0",
        "evaluation.architectures: no network 'resnet19' (did you mean 'resnet1",
        "evaluation.architectures: convnet: it has no option 'deep' (did you mean 'depth'?)",
        "evaluation.architectures: The network timm:resnet10t needs timm",
        "evaluation.architectures: resnet10_ap: norm is 'bach' (did you mean 'batch'?); set it to one of none, batch,",
        "network: resnet10_ap:width=32: images of 1 x 8 x 8 do not suit it (instance norm got feature maps of 1 x 1",
        "evaluation.architectures: vgg11: images of 1 x 8 x 8 do not suit it",
        "evaluation.architectures: convnet:depth=9: depth 9 halves images of side 12",
    ]
    assert len(said) == len(beginnings)
    for line, beginning in zip(said, beginnings, strict=True):
        assert line.startswith(beginning), line


def test_names_and_options_are_refused_without_the_data(tmp_path: Path) -> None:
    gone = {"dataset__name": "image_folder", "dataset__root": str(tmp_path / "gone")}
    said = problems(digits(tmp_path, **gone, network__name="convnot", evaluation__architectures=["mlp:depth=2"]))
    assert any("no network 'convnot'" in line for line in said)
    assert any("mlp: it has no option 'depth'; its options are: width" in line for line in said)
    assert any(str(tmp_path / "gone") in line for line in said)


def test_without_an_evaluation_its_networks_are_only_spelt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    preflight.check(digits(tmp_path, evaluation__epochs=0, evaluation__architectures=["vgg11", "timm:resnet10t"]))
    (said,) = problems(digits(tmp_path, evaluation__epochs=0, evaluation__architectures=["vgg12"]))
    assert "no network 'vgg12' (did you mean 'vgg11'?)" in said


def test_a_resnet_on_the_digits_has_ways_out_that_work(tmp_path: Path) -> None:
    asked = {"network__name": "resnet10_ap", "network__depth": None}
    (said,) = problems(digits(tmp_path, **asked))
    ways = re.search(r"use dataset.size=(\d+), or another network \((.*)\)$", said)
    assert ways
    dataset, _ = preflight.check(digits(tmp_path, **asked, dataset__size=int(ways[1])))
    assert dataset.size == int(ways[1]) == 16
    for other in ways[2].split(", "):
        preflight.check(digits(tmp_path, network__name=other, network__depth=None))


def test_network_stands_for_the_one_that_condensed(tmp_path: Path) -> None:
    config = digits(tmp_path)
    assert assembly.architecture(config, "network") == "convnet:width=32:depth=2"
    assert assembly.architecture(config, "network:norm=batch:depth=1") == "convnet:width=32:depth=1:norm=batch"
    assert assembly.architecture(config, "convnet:depth=3") == "convnet:depth=3"
    papers = digits(tmp_path, network__width=128, network__depth=3)
    assert assembly.architecture(papers, "network") == "convnet"


def test_options_in_the_name_of_the_network_are_its_options(tmp_path: Path) -> None:
    config = digits(tmp_path, network__name="convnet:pooling=max")
    dataset, _ = preflight.check(config)
    network = assembly.network_builder(config, dataset)(0)
    assert isinstance(network, networks.Network) and "MaxPool2d" in repr(network)
    assert problems(digits(tmp_path, network__name="convnet:depth=1")) == [
        "network: 'convnet:depth=1:width=32:depth=2' gives depth twice"
    ]


def test_rows_carry_the_whole_text(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.csv"
    evaluate_set("bytes", evaluation(), ["mlp:width=8", "convnet:depth=1:width=4", "mlp:width=4"], [0], path)
    assert [row.architecture for row in read_csv(path)] == ["mlp:width=8", "convnet:depth=1:width=4", "mlp:width=4"]


def test_a_list_of_architectures_is_given_in_quotes() -> None:
    given = 'evaluation.architectures=[network,"resnet18_cifar:norm=instance","convnet:depth=4:width=64"]'
    read = load("configs/digits.yaml", [given]).evaluation.architectures
    assert read == ["network", "resnet18_cifar:norm=instance", "convnet:depth=4:width=64"]


def test_list_shows_the_options_of_networks() -> None:
    [shown] = [table.names for table in names.listed() if table.title == "options of networks"]
    assert shown["resnet18_cifar"] == ":width=64:norm=batch" and shown["lenet"] == ""
