"""Every combination of parts runs with finite numbers, or is refused before its first step with the keys to change."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from dist_condense import networks
from dist_condense.commands import cli
from dist_condense.core import distance
from dist_condense.core.distance import DISTANCES, Distance, layerwise_cosine
from dist_condense.settings.config import from_dict
from dist_condense.settings.keys import KEYS
from dist_condense.settings.limits import OneOf
from tests.doors import walk
from tests.doors.walk import Walk

SIMPLE = ("convnet", "mlp")
"""Networks of the fast walks."""
CHEAP = (*SIMPLE, "lenet", "alexnet", "vgg11", "resnet10")
"""Networks of the sample."""


@pytest.fixture(scope="module", autouse=True)
def known() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        walk.known(patch)
        yield


def small(*names: str) -> list[str]:
    """Return small networks, with BatchNorm as well if this is a word of their option ``norm``."""
    texts = [walk._small(name) for name in names]
    return [*texts, *(text for text in walk.network_texts() if text.endswith(":norm=batch") and text[:-11] in texts)]


def texts_of(*names: str) -> list[str]:
    """Return the networks of these names, and each with each word of each of its options."""
    return [text for text in walk.network_texts() if networks.split(text)[0] in names]


# --- fast: all pairs, and a sample ---------------------------------------------------------------------------------


def test_every_name_of_a_table_is_walked() -> None:
    factors = walk.factors_of(small(*SIMPLE))
    tables = {key.name for key in KEYS.values() if key.name.startswith(walk.PARTS)}
    switches = {
        name
        for name in tables
        if isinstance(KEYS[name].limit, OneOf) or bool in (KEYS[name].kind, *get_args(KEYS[name].kind))
    }
    assert switches - factors.keys() == walk.NOT_WALKED.keys() - {
        "method.augmentation.always",
        "method.augmentation.one_of",
    }
    assert walk.NOT_WALKED.keys() <= KEYS.keys()


def test_all_pairs(tmp_path: Path) -> None:
    made = Walk(walk.factors_of(small(*SIMPLE)), tmp_path)
    assert walk.cover(made, 2) > 2000
    assert made.ran > 25 and made.refused > 10


def test_all_pairs_of_a_selection(tmp_path: Path) -> None:
    made = Walk(walk.factors_of_selecting(small(*SIMPLE)), tmp_path)
    walk.cover(made, 2)
    assert made.ran > 10


def test_all_pairs_of_an_evaluation(tmp_path: Path) -> None:
    made = Walk(walk.factors_of_evaluation(small("mlp")), tmp_path, walk.evaluated)
    walk.cover(made, 2)
    assert made.ran > 40 and made.refused > 0


def test_a_sample_of_all_combinations(tmp_path: Path) -> None:
    made, rng = Walk(walk.factors_of(texts_of(*CHEAP), singly=True), tmp_path), random.Random(13)
    for _ in range(8):
        made.visit({name: rng.randrange(len(levels)) for name, levels in made.factors.items()})
    assert made.ran == 8


def test_a_selection_reads_no_other_factor(tmp_path: Path) -> None:
    factors = walk.factors_of(small(*SIMPLE))
    others = [name for name in factors if not name.startswith(walk.READ_BY_SELECTING)]
    selecting = {"method.procedure": "selecting", "method.selection.name": "herding"}
    states = []
    for last in (False, True):
        row = dict.fromkeys(factors, 0) | {name: len(factors[name]) - 1 for name in others if last}
        values = walk.values_of(factors, row) | {**selecting, "output": str(tmp_path / str(last))}
        states.append(walk.executed(from_dict(values)))
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(x, states[1][name]) for name, x in states[0].items())


# --- the walk notices ---------------------------------------------------------------------------------------------


def test_a_new_part_is_walked_and_must_say_what_it_cannot_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DISTANCES, "of_rows", Distance(layerwise_cosine))  # for matrices only, and does not say so
    factors = walk.factors_of(small("convnet"))
    names = [level["method.distance"] for level in factors["method.distance"]]
    row = dict.fromkeys(factors, 0) | {"method.distance": names.index("of_rows")}
    assert Walk(factors, tmp_path).visit(row)
    with pytest.raises(AssertionError, match="RuntimeError: stack expects a non-empty"):
        Walk(factors, tmp_path).visit(row | {"method.statistic.name": 1})


def test_a_refusal_that_hides_another_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Walk(walk.factors_of(small(*SIMPLE)), tmp_path)
    row = dict.fromkeys(made.factors, 0)
    lines = iter([["compute.slices: 3"], ["training.batch: 1"], []])
    monkeypatch.setattr(Walk, "refusal", lambda self, row: next(lines))
    with pytest.raises(AssertionError, match=r"training.batch: 1.* hidden by .*compute.slices: 3"):
        made.visit(row | {"compute.slices": 2, "training.batch": 1})


def test_numbers_that_are_not_finite_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DISTANCES, "infinite", Distance(lambda a, b: distance.sum_squared(a, b) / 0))
    made = Walk(walk.factors_of(small("convnet")), tmp_path)
    names = [level["method.distance"] for level in made.factors["method.distance"]]
    with pytest.raises(AssertionError, match="is not finite"):
        made.visit(dict.fromkeys(made.factors, 0) | {"method.distance": names.index("infinite")})


# --- what single lines say ----------------------------------------------------------------------------------------

MLP = {"network.name": "mlp", "dataset.name": "rgb_8"}
BATCH_NORM = {"network.name": "resnet10:width=4", "dataset.name": "rgb_8"}
EMBEDDING = {"method.statistic.name": "embedding"}
CONVOLUTIONS = {"method.statistic.parameters": "convolutions"}
TINY = {"network.name": "convnet:width=4:depth=2", "dataset.name": "rgb_8"}


def lines_of(*given: dict[str, Any]) -> list[str]:
    values = walk.BASE | TINY
    for each in given:
        values = values | each
    return walk.lines_of(from_dict(values))


DISTANCE_LINE = (
    "method.distance: layerwise_cosine compares tensors of 2 or more dimensions, and method.statistic.name=embedding "
    "has none; set flat_cosine or sum_squared or sum_absolute or mean_absolute"
)
PARAMETERS_LINE = (
    "method.statistic.parameters: network.name=mlp has no convolutions, of which method.statistic.name=gradient "
    "consists; set matrices or all, or another network.name"
)
CLUSTERS_LINE = (
    "method.representatives.images: 2 images cannot be clustered into method.real_batch=3 clusters; give more, or null "
    "for all"
)
LABELS_LINE = (
    "method.label_lr: 0.1, but method.statistic.name=embedding does not depend on the labels, so they would never "
    "change; set label_lr=null, or another statistic"
)


@pytest.mark.parametrize(
    ("given", "lines"),
    [
        ([EMBEDDING], [DISTANCE_LINE]),
        ([EMBEDDING, {"method.distance": "sum_squared"}], []),
        ([EMBEDDING, CONVOLUTIONS, MLP], [DISTANCE_LINE]),
        ([EMBEDDING, {"method.label_lr": 0.1}], [LABELS_LINE, DISTANCE_LINE]),
        ([CONVOLUTIONS, MLP], [PARAMETERS_LINE]),
        ([{"method.representatives.images": 2}], []),
        ([{"method.representatives.images": 2, "method.real_draw": "representative"}], [CLUSTERS_LINE]),
        ([CONVOLUTIONS, MLP, {"method.procedure": "selecting", "method.selection.name": "random"}], []),
    ],
)
def test_parts_that_do_not_fit_are_refused(given: list[dict[str, Any]], lines: list[str]) -> None:
    assert lines_of(*given) == lines


@pytest.mark.parametrize("key", ["method.statistic.name", "method.statistic.parameters", "method.distance"])
def test_an_unknown_name_is_one_line_in_every_combination(key: str) -> None:
    (line,) = lines_of({key: "nobody", "method.label_lr": 0.1}, BATCH_NORM, {"training.source": "frozen"})
    assert line.startswith(f"{key}: 'nobody' is not one of")


@pytest.mark.parametrize(
    ("groups", "problem"),
    [
        ([[0, 1, 2], []], "no label in group [1]"),
        ([[], [0, 1]], "missing [2], no label in group [0]"),
        ([[0, 1], [1, 2]], "repeated [1]"),
        ([[0], [1, 2], [-1]], "unknown [-1]"),
        ([list(range(3, 20))], "missing [0, 1, 2], unknown [3, 4, 5, 6, 7, 8, 9, 10, 11, 12] and 7 more"),
    ],
)
def test_groups_contain_each_class_once(groups: list[list[int]], problem: str) -> None:
    given = {"method.grouping.name": "given", "method.grouping.groups": groups}
    assert lines_of(given) == [f"method.grouping.groups must contain each of the 3 classes once: {problem}"]


SINGLE = "has a batch of one, which BatchNorm of resnet10:width=4 cannot normalise at 1 x 1 pixel; change"
ON_SET = {"training.source": "synthetic", "trajectory.start": "fresh"}


@pytest.mark.parametrize(
    ("given", "lines"),
    [
        ({**ON_SET, "training.batch": 4, "ipc": 2}, []),
        (
            {**ON_SET, "training.batch": 5, "ipc": 2},
            [
                f"training.batch: a pass over 6 images in batches of 5 {SINGLE} training.batch or ipc or "
                "method.parameterisation.factor or network.name"
            ],
        ),
        (
            {"training.source": "real", "training.batch": 11, "training.images": 12},
            [f"training.batch: a pass over 12 images in batches of 11 {SINGLE} training.batch or network.name"],
        ),
        ({"training.source": "real", "training.batch": 11, "training.images": 11}, []),  # never the end of a pass
        (
            {"training.source": "real", "training.batch": 1, "training.images": 1},
            [f"training.batch: a pass over 12 images in batches of 1 {SINGLE} training.batch or network.name"],
        ),
        ({"training.source": "frozen", "training.batch": 11}, []),
        (
            {"training.source": "frozen", "training.batch": 11, "trajectory.start": "pool"},
            [f"training.batch: a pass over 12 images in batches of 11 {SINGLE} training.batch or network.name"],
        ),
        (
            {"method.procedure": "selecting", "method.selection.name": "herding", "method.selection.batch": 11},
            [
                f"method.selection.batch: a pass over 12 images in batches of 11 {SINGLE} method.selection.batch or "
                "network.name"
            ],
        ),
    ],
)
def test_batch_norm_is_not_trained_on_one_image(given: dict[str, Any], lines: list[str]) -> None:
    """The last maps of a ResNet have 1 x 1 pixel where images have 8 x 8."""
    assert lines_of(BATCH_NORM, given) == lines


@pytest.mark.parametrize(("tested", "theta"), [("resnet10:width=4", TINY), ("network", BATCH_NORM)])
def test_batch_norm_is_not_tested_on_one_image(tested: str, theta: dict[str, Any]) -> None:
    evaluation = {"evaluation.epochs": 1, "evaluation.protocol": "idc", "evaluation.architectures": [tested]}
    given = [{"training.source": "frozen", "ipc": 43}, theta, evaluation]
    line = f"evaluation.sets: a pass over 129 images in batches of 64 {SINGLE} evaluation.sets or ipc or "
    assert lines_of(*given) == [f"{line}evaluation.architectures"]
    assert lines_of(*given, {"ipc": 42}) == lines_of(*given, {"evaluation.epochs": 0}) == []


def test_a_protocol_that_needs_colours_is_refused_for_grey_images() -> None:
    (line,) = lines_of({"dataset.name": "grey_8", "evaluation.protocol": "idc_imagenet", "evaluation.epochs": 1})
    assert line.startswith(
        "evaluation.protocol: idc_imagenet augments images of 3 channels, and grey_8 has 1; set dc or "
    )
    assert "imagenet100" not in line
    assert lines_of({"dataset.name": "grey_8", "evaluation.protocol": "idc_imagenet", "evaluation.epochs": 0}) == []


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (["configs/cifar10_dm.yaml", "method.distance=layerwise_cosine"], DISTANCE_LINE),
        (
            ["configs/cifar10_dcc.yaml", "method.grouping.name=given"],
            "method.grouping.groups: list the labels of each group, or select another method.grouping.name",
        ),
    ],
)
def test_a_plan_without_data_refuses_the_same(
    given: list[str], line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CIFAR10_ROOT", raising=False)
    assert cli.main(["plan", *given]) == cli.REFUSED
    assert capsys.readouterr().err == f"refused: {line}\n"


# --- slow: all triples, all networks ------------------------------------------------------------------------------


@pytest.mark.slow
def test_all_pairs_with_all_networks(tmp_path: Path) -> None:
    shallow = [text for text in walk.network_texts() if not walk.is_deep(networks.split(text)[0])]
    walk.cover(Walk(walk.factors_of(shallow), tmp_path / "matching"), 2)
    walk.cover(Walk(walk.factors_of_selecting(shallow), tmp_path / "selecting"), 2)
    walk.cover(Walk(walk.factors_of_evaluation(shallow), tmp_path / "evaluation", walk.evaluated), 2)


@pytest.mark.slow
def test_all_triples(tmp_path: Path) -> None:
    made = Walk(walk.factors_of(small(*SIMPLE)), tmp_path)
    assert walk.cover(made, 3) > 50_000


@pytest.mark.slow
@pytest.mark.parametrize("name", ["augmentation", "groups"])
def test_all_combinations_of_a_block(name: str, tmp_path: Path) -> None:
    made = Walk(walk.factors_of(small("convnet"), singly=True), tmp_path)
    for row in walk.block(made.factors, name):
        made.visit(row, frozenset(walk.BLOCKS[name]))
    assert made.ran > 90


@pytest.mark.slow
def test_deep_networks(tmp_path: Path) -> None:
    """Theta is not trained: gradients of BatchNorm at 1 x 1 pixel overflow over fifty layers, at any learning rate."""
    deep = [walk._small(name) for name in networks.names() if walk.is_deep(name)]
    made = Walk(walk.factors_of([walk._small("convnet"), *deep]), tmp_path)
    frozen = made.factors["training.source"].index({"training.source": "frozen"})
    for index in range(1, len(deep) + 1):
        row = {"network": index, "compute.microbatch": index % 2, "training.source": frozen}
        assert made.visit(dict.fromkeys(made.factors, 0) | row)
