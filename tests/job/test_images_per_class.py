"""A run with numbers of images by class, from the command line to the set, its pages, exports and evaluations."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dist_condense import condense, load_set, run
from dist_condense.commands import cli
from dist_condense.evaluation.evaluate import Evaluation, TrainingSet, Trial
from dist_condense.evaluation.rows import Row, read_csv
from dist_condense.job import comparing
from dist_condense.result.tracking.tags import tags_of
from dist_condense.settings.config import ConfigError
from dist_condense.settings.run_folder import RunFolder
from tests.engine import cases

NUMBERS = [1 if c == 3 else 4 if c == 7 else 2 for c in range(10)]
OWN = ("cluster.workers=0", "evaluation.epochs=1", "evaluation.seeds=2", "evaluation.sets=[condensed,random]")


def executed(folder: Path, *more: str) -> int:
    given = (*cases.TINY, *cases.CASES["idc_by_class"], *OWN, f"output={folder}", *more)
    keys = {pair.split("=", 1)[0]: pair for pair in (*given, "tracking.uri=null")}
    return run.main(["configs/digits.yaml", *keys.values()])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("numbers") / "run"
    assert executed(folder) == 0
    return folder


def test_the_set_has_them(folder: Path) -> None:
    dataset = load_set(folder)
    assert list(dataset.card.counts) == NUMBERS and torch.equal(dataset.labels.bincount(), 4 * torch.tensor(NUMBERS))
    text = RunFolder(folder).synthetic_set.joinpath("README.md").read_text()
    assert "# 1 to 4 images per class of " in text and "21, 1 to 4 per class, decoded to 84" in text
    assert "1 to 4" in RunFolder(folder).report.read_text()


def test_real_sets_beside_it_have_as_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = dict[str, TrainingSet]()
    train = comparing.evaluate

    def evaluate(trials: Sequence[Trial], evaluation: Evaluation, *given: Any, **how: Any) -> list[Row]:
        sets.update(evaluation.sets)
        return train(trials, evaluation, *given, **how)

    monkeypatch.setattr(comparing, "evaluate", evaluate)
    assert executed(tmp_path, "trajectory.networks=1") == 0
    assert sets["random"].labels.bincount().tolist() == [2 * n for n in NUMBERS]  # two draws
    assert sets["condensed"].labels.bincount().tolist() == [4 * n for n in NUMBERS]  # four tiles
    rows = read_csv(RunFolder(tmp_path).evaluation)
    assert sorted((row.set, row.seed) for row in rows) == [
        ("condensed", 0),
        ("condensed", 1),
        ("random", 0),
        ("random", 1),
    ]


def test_a_second_start_has_nothing_left_to_do(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = RunFolder(folder).evaluation.read_bytes()
    assert executed(folder) == 0 and RunFolder(folder).evaluation.read_bytes() == before
    assert executed(folder, "ipc=2") == cli.REFUSED
    assert "ipc" in capsys.readouterr().err


def test_it_is_exported_and_evaluated(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "set.pt"
    assert cli.main(["export", str(folder), str(file), "--format", "pt"]) == 0
    assert cli.main(["export", str(folder), str(tmp_path / "png"), "--format", "imagefolder"]) == 0
    assert [len([*place.iterdir()]) for place in sorted((tmp_path / "png").rglob("?"))] == [4 * n for n in NUMBERS]
    assert torch.load(file, weights_only=True)[1].bincount().tolist() == [4 * n for n in NUMBERS]
    drawn = list[tuple[int, ...]]()
    select = comparing.real_sets

    def real_sets(*given: Any, numbers: Sequence[int], **more: Any) -> Any:
        drawn.append(tuple(numbers))
        return select(*given, numbers=numbers, **more)

    monkeypatch.setattr(comparing, "real_sets", real_sets)
    keys = ["evaluation.epochs=1", "evaluation.seeds=1", "network.width=4", "network.depth=1", "cluster.workers=0"]
    copied = shutil.copytree(RunFolder(folder).synthetic_set, tmp_path / "copied")
    keys.append("evaluation.sets=[random]")
    assert cli.main(["evaluate", str(copied), *keys, f"output={tmp_path / 'alone'}"]) == 0
    assert drawn == [tuple(NUMBERS)]
    sets = [str(copied), str(file)]
    assert (
        cli.main(["evaluate", *sets, "--space", "unit", "--dataset", "digits", *keys, f"output={tmp_path / 'e'}"]) == 0
    )
    assert {row.set for row in read_csv(RunFolder(tmp_path / "e").evaluation)} == {"copied", "set.pt", "random"}
    assert drawn == [tuple(NUMBERS), (9,) * 10]  # 21 images, and the 84 that were decoded from them
    note = "note: 9 real images per class are selected; the sets have copied 21, set.pt 84 images"
    assert note in capsys.readouterr().err


def test_it_is_checked_and_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = [f"output={tmp_path / 'run'}", "method=random", cases.BY_CLASS]
    assert cli.main(["check", "configs/digits.yaml", *keys]) == 0
    assert "ipc 1 to 4" in capsys.readouterr().out
    assert cli.main(["plan", "configs/digits.yaml", *keys]) == 0
    out = capsys.readouterr().out
    assert "10 classes, 1 to 4 images each" in out and "21 real images for the set" in " ".join(out.split())


def test_it_is_planned_without_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = ["plan", "configs/cifar10_dc.yaml", "dataset.root=null", "--gpu", "h100"]
    assert cli.main([*keys, 'ipc={"airplane": 1, "cat": 100, "*": 10}']) == 0
    assert "classes have different numbers of images" in " ".join(capsys.readouterr().out.split())
    assert cli.main([*keys, "--classes", "2", "ipc={a: 1, b: 1, c: 1}"]) == cli.REFUSED
    assert "ipc: it names 3 classes, and 2 are assumed; give --classes N" in capsys.readouterr().err


@pytest.mark.parametrize(("keys", "line"), [
    (['ipc={"3": 200, "*": 2}', "method=random"], "would be selected than there are: 3 (147 of 200)"),
    (['ipc={"3": 200, "*": 2}', "method=dm", "method.start=noise"], "evaluation.sets: ipc is larger than the number"),
    (['ipc={"3": 200, "*": 2}', "method=dm", "evaluation.epochs=0"], "than there are of 3 (147 of 200); set"),
    (["ipc={three: 2}"], "ipc: digits has no class 'three'"),
    (
        ["ipc={0: 1, 1: 2, 2: 3, 3: 4, 4: 5, 5: 6, 6: 7, 7: 8, 8: 9, 9: 1}", "compute.compile=true"],
        "compute.compile: ipc has 9 different numbers, and a step is compiled for at most 8",
    ),
])  # fmt: skip
def test_too_many_for_one_class_are_refused_by_its_name(
    keys: list[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["check", "configs/digits.yaml", f"output={tmp_path / 'run'}", *keys]) == cli.REFUSED
    assert line in capsys.readouterr().err


def test_from_python(tmp_path: Path) -> None:
    images, labels = torch.rand(12, 1, 8, 8).numpy(), torch.arange(12).numpy() % 2
    tiny = {"trajectory.networks": 1, "network.width": 4, "network.depth": 1}
    data, monkeypatch = (images, labels), pytest.MonkeyPatch()
    made = condense(data, method="dm", ipc={"0": 3, "*": 1}, output=tmp_path / "run", **tiny)
    assert made.dataset.card.counts == (3, 1)
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path)
        names = [{0: np.int64(3), "*": 1}, {"*": 1, np.int64(0): 3}, {np.str_("0"): 3, "*": 1}]
        folders = {condense(data, method="dm", ipc=ipc, **tiny).folder for ipc in names}
    assert len(folders) == 1 and folders.pop().name.startswith("dm_ipc1to3_")
    for odd in (None, True, 2.5):
        with pytest.raises(ConfigError, match=r"ipc: .* does not fit"):
            condense(data, method="dm", ipc={odd: 3, "*": 1}, **tiny)


def test_mlflow_has_them_as_one_text(folder: Path) -> None:
    tags = tags_of(folder)
    assert tags["ipc"] == "3: 1, 7: 4, *: 2" and "- images per class: 3: 1, 7: 4" in tags["mlflow.note.content"]
