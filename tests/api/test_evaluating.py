"""`evaluate` as a function: the scores of a run, of the same images in any form, and refusals."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dist_condense import Result, condense, evaluate, load_set
from dist_condense.data.normalise import to_values
from dist_condense.evaluation.evaluate import TrainingSet
from dist_condense.evaluation.rows import Row
from dist_condense.job.comparing import Comparison
from dist_condense.settings.config import ConfigError
from dist_condense.system.errors import DataError
from tests.api.test_condensing import NAMES, TEST, TINY, TRAIN, Pictures

SHORT: dict[str, Any] = {"evaluation": {"epochs": 2, "seeds": 1}, "network": {"width": 4, "depth": 1}}
FEW = (TRAIN.images[:6], np.arange(6) % 3)


class Renamed(Pictures):
    """Pictures of which one class has another name than in the test images."""

    classes = ["ant", "bee", "wasp"]  # noqa: RUF012  # as torchvision has it


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """Condense with one image per class and evaluate."""
    return condense(TRAIN, TEST, output=tmp_path_factory.mktemp("run"), **TINY)


def scores(rows: Sequence[Row], name: str) -> list[float]:
    return [row.top1_last for row in rows if row.set == name]


def test_a_result_and_what_was_loaded_and_a_copy_have_the_scores_of_the_run(result: Result, tmp_path: Path) -> None:
    shutil.copytree(result.folder / "synthetic_set", tmp_path / "copy")
    sets = {"run": result, "loaded": load_set(result.folder), "copy": tmp_path / "copy"}
    done = evaluate(sets, output=tmp_path / "out", **SHORT)
    own = scores(result.scores, "condensed")
    assert own and all(scores(done.scores, name) == own for name in sets)
    assert done.folder == tmp_path / "out"


def test_the_data_of_a_run_in_memory_are_its_data(result: Result, tmp_path: Path) -> None:
    """A copied set alone does not say where its data lie."""
    shutil.copytree(result.folder / "synthetic_set", tmp_path / "copy")
    done = evaluate(tmp_path / "copy", TRAIN, TEST, output=tmp_path / "out", **SHORT)
    assert scores(done.scores, "copy") == scores(result.scores, "condensed")


def test_images_in_memory_are_those_images_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = torch.from_numpy(FEW[0]).permute(0, 3, 1, 2) / 255, torch.from_numpy(FEW[1])
    torch.save([images, labels], tmp_path / "few.pt")
    sets = {
        "bytes": FEW,
        "floats": (images, labels),
        "names": (FEW[0], [NAMES[label] for label in FEW[1]]),
        "file": str(tmp_path / "few.pt"),
    }
    trained = []

    def record(self: Comparison, sets: dict[str, TrainingSet], statistics: Any) -> list[Row]:
        trained.extend(sets.values())
        return whole(self, sets, statistics)

    whole = Comparison.trained
    monkeypatch.setattr(Comparison, "trained", record)
    done = evaluate(sets, TRAIN, TEST, space="unit", output=tmp_path / "out", **SHORT)
    assert len(done.scores) == 4 and len({row.top1_last for row in done.scores}) == 1
    values = [(to_values(each.images), each.labels) for each in trained]
    assert len(values) == 4 and all(torch.equal(x, images) and torch.equal(y, labels) for x, y in values)
    again = evaluate(FEW, TRAIN, TEST, output=tmp_path / "again", **SHORT)
    assert [row.set for row in again.scores] == ["set"]
    assert again.scores[0].top1_last == done.scores[0].top1_last


def test_real_images_beside_them_are_the_runs(result: Result, tmp_path: Path) -> None:
    """With the same data, seed and images per class, a random selection is that of a run."""
    keys = {**TINY, "evaluation": {**TINY["evaluation"], "sets": ["random"]}}
    own = condense(TRAIN, TEST, output=tmp_path / "run", **keys)
    more = {**SHORT, "evaluation": {**SHORT["evaluation"], "sets": ["random"]}}
    done = evaluate(result, output=tmp_path / "out", **more)
    assert scores(done.scores, "random") == scores(own.scores, "random") != []


def test_a_part_of_a_set_is_not_normalised_twice(result: Result, tmp_path: Path) -> None:
    loaded = load_set(result.folder)
    part = torch.utils.data.Subset(loaded, range(len(loaded)))
    with pytest.raises(DataError, match="a part of a synthetic set, whose images are normalised"):
        evaluate({"part": part}, TRAIN, TEST, output=tmp_path / "out", **SHORT)


def test_the_first_run_counts_before_a_set_of_no_run(result: Result, tmp_path: Path) -> None:
    shutil.copytree(result.folder / "synthetic_set", tmp_path / "copy")
    short = {"evaluation": SHORT["evaluation"]}
    done = evaluate({"copy": tmp_path / "copy", "run": result}, output=tmp_path / "out", **short)
    assert {row.architecture for row in done.scores} == {"convnet:width=4:depth=1"}


def test_an_evaluation_in_outputs_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = (evaluate(FEW, TRAIN, TEST, **SHORT) for _ in range(2))
    assert first == second and first.folder.parent == tmp_path / "outputs"
    assert evaluate({"set": (FEW[0][::-1].copy(), FEW[1])}, TRAIN, TEST, **SHORT).folder != first.folder


@pytest.mark.parametrize(
    ("sets", "given", "error", "message"),
    [
        ((FEW[0], FEW[1] + 5), {}, DataError, "the test images have no class 5, 6, 7; they have 0, 1, 2"),
        ((FEW[0], ["ant", "bee", "dog"] * 2), {}, DataError, "the test images have no class dog"),
        (Renamed(6, 0), {}, DataError, "the test images have no class wasp"),
        ((FEW[0][:2], [0, 1]), {}, DataError, "it has no image of 2"),
        ((FEW[0] / 64.0 - 2, FEW[1]), {}, DataError, "which image values in .0, 1. cannot have"),
        ((FEW[0] / 1.0, FEW[1]), {}, DataError, "which image values in .0, 1. cannot have"),
        (FEW, {"dataset": {"name": "digits"}}, ConfigError, "dataset.name: train and test set it"),
        (FEW, {"space": "bogus"}, ConfigError, "space: 'bogus' is not one of unit, normalised"),
        (FEW, {"factor": "2"}, ConfigError, "factor: '2' is not a number of tiles"),
        (FEW, {"space": "unit"}, ConfigError, "none of the sets is one"),
        ({"a\nb": FEW}, {}, ConfigError, "is not a name"),
        ({"\udcff": FEW}, {}, ConfigError, "is not a name"),
        ("~nouser/x", {}, ConfigError, "does not exist"),
        ((np.zeros((3, 9, 9, 3), np.uint8), [0, 1, 2]), {}, DataError, r"images are bytes \[3, 9, 9\]"),
        (FEW[0], {}, DataError, "array without labels"),
        ({}, {}, ConfigError, "there is none"),
        ({"random": FEW}, {}, ConfigError, "'random' is reserved for a set of evaluation.sets .*full"),
        ({"whole": FEW}, {}, ConfigError, "'whole' is reserved"),
        ({"=1": FEW}, {}, ConfigError, "'=1' begins like a formula"),
        ({"": FEW}, {}, ConfigError, "'' is empty; give a name"),
        ({3: FEW}, {}, ConfigError, "3 is not a name"),
        (FEW, {"ipc": 3}, ConfigError, "ipc: it makes a set"),
        (FEW, {"evaluation": {"epohcs": 3}}, ConfigError, "evaluation.epohcs"),
        (FEW, {"test": None}, ConfigError, "give both, or neither"),
        ("nowhere", {}, ConfigError, "nowhere does not exist"),
        (FEW, {"output": ""}, ConfigError, "output: the value is empty"),
        (FEW, {"output": 3}, ConfigError, "output: 3 does not fit"),
        (FEW, {"evaluation": 3}, ConfigError, "evaluation: 3 is neither a key of this section"),
    ],
)
def test_what_is_refused(
    sets: Any, given: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    keys = {"train": TRAIN, "test": TEST, "output": tmp_path / "out"} | SHORT | given
    with pytest.raises((ConfigError, DataError), match=message) as raised:
        evaluate(sets, **keys)
    assert isinstance(raised.value, error | ConfigError)
    assert not (tmp_path / "out" / "evaluation.csv").exists()
    assert not [*(tmp_path / "out").glob("data/*")]


def test_floats_are_bytes_only_where_all_are(tmp_path: Path) -> None:
    """Training images that are bytes divided by 255, beside test images that are not."""
    other = Pictures(12, 2)
    test = (other.images.astype(np.float32) / 256, np.arange(12) % 3)
    train = (TRAIN.images.astype(np.float32) / 255, np.arange(60) % 3)
    few = FEW[0].astype(np.float32) / 255, FEW[1]
    assert evaluate(few, train, test, output=tmp_path / "out", **SHORT).scores
    with pytest.raises(
        ConfigError, match=r"images are bytes .*, the test images are floats .*; give all as bytes, or all as fl"
    ):
        evaluate(FEW, train, test, output=tmp_path / "out", **SHORT)
