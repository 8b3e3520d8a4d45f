"""A run is recorded under a paper's method only if it is that method; numbers follow the data and the budget."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dist_condense.api import condensing
from dist_condense.api.collecting import collected
from dist_condense.settings import config as configs
from dist_condense.settings import recipes
from dist_condense.settings.config import load
from dist_condense.settings.identity import differences, identity
from tests.api.test_condensing import TRAIN

DIGITS = "configs/digits.yaml"
SHIPPED = sorted(file.relative_to(configs.shipped()) for file in configs.shipped().rglob("*.yaml"))
WHOLE = [file for file in SHIPPED if file.parent.name in ("", "recipe")]


@pytest.mark.parametrize("file", WHOLE, ids=str)
def test_every_shipped_config_is_the_method_that_it_names(file: Path) -> None:
    name = load(f"configs/{file}").method.name
    assert name == "dc" if file.stem == "digits" else f"_{name}_" in f"_{file.stem}_"


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (["recipe=idc"], "idc"),
        (["method=idc"], "idc with trajectory.matching_steps=1, training.source=synthetic, training.cutmix=0"),
        (["recipe=idc", "training.cutmix=0"], "idc with training.cutmix=0"),
        (["recipe=idc", "training.cutmix=0.7", "training.lr=0.2", "method.parameterisation.factor=3"], "idc"),
        (["recipe=idc", "trajectory.start=early"], "idc with trajectory.start=early"),
        (["method=dsa"], "dsa"),
        (["method=dm"], "dm"),  # with T = 1, theta is not trained, whatever training says
        (["method=dm", "trajectory.matching_steps=2"], "dm with training.source=synthetic"),
        (["method.distance=sum_squared", "method.unit_space=true"], "dc with method.unit_space=true, "
         "method.distance=sum_squared"),
        (["method.augmentation.one_of=[crop,flip]"], "dc with method.augmentation.one_of=[crop,flip]"),
        (["method.label_lr=0.1"], "dc with method.label_lr=0.1"),
        (["ipc=10", "trajectory.matching_steps=10", "training.epochs=50", "method.real_batch=64"], "dc"),
        (["method=herding"], "herding"),
        (["method=idc", "method.name=mine"], "mine"),
    ],
)  # fmt: skip
def test_what_differs_from_the_recipe_is_in_the_name(
    given: list[str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load(DIGITS, given).method.name == name
    monkeypatch.setitem(sys.modules, "dist_condense.settings.composing", None)  # without Hydra
    assert load(DIGITS, given).method.name == name


def test_photographs_have_recipes_of_their_own() -> None:
    assert load("configs/imagenet10_idc.yaml", ["method.distance=layerwise_cosine"]).method.name == (
        "idc with method.distance=layerwise_cosine"
    )


def test_the_remark_names_the_recipe() -> None:
    [remark] = recipes.remarks(load(DIGITS, ["method=idc"]), configs.shipped())
    assert remark.startswith("the method is recorded as 'idc with ") and "; recipe=idc sets everything" in remark
    for given in (["recipe=idc"], ["method=idc", "method.name=idc with care"]):
        assert not list(recipes.remarks(load(DIGITS, given), configs.shipped()))


def test_a_run_keeps_going_under_another_name() -> None:
    """An earlier version recorded the same run as idc."""
    config = load(DIGITS, ["method=idc"])
    assert not differences(identity(config) | {"method.name": "idc"}, identity(config))


def test_the_function_names_a_method_like_the_command() -> None:
    given = {"training.source": "synthetic", "trajectory.matching_steps": 1}
    config = condensing._config("idc", collected(TRAIN, "train"), given, is_tested=False)
    assert config.method.name == "idc with trajectory.matching_steps=1, training.source=synthetic"
