"""A run with numbers of images by class, from the command line to the set, its pages, exports and evaluations."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dist_condense import condense, load_set, run
from dist_condense.commands import cli
from dist_condense.evaluation.rows import read_csv
from dist_condense.result.tracking.tags import tags_of
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


def test_real_sets_beside_it_have_as_many(folder: Path) -> None:
    rows = read_csv(RunFolder(folder).evaluation)
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


def test_it_is_exported_and_evaluated(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "set.pt"
    assert cli.main(["export", str(folder), str(file), "--format", "pt"]) == 0
    assert cli.main(["export", str(folder), str(tmp_path / "png"), "--format", "imagefolder"]) == 0
    keys = ["evaluation.epochs=1", "evaluation.seeds=1", "network.width=4", "network.depth=1", "cluster.workers=0"]
    sets = [str(RunFolder(folder).synthetic_set), str(file)]
    assert (
        cli.main(["evaluate", *sets, "--space", "unit", "--dataset", "digits", *keys, f"output={tmp_path / 'e'}"]) == 0
    )
    assert len(read_csv(RunFolder(tmp_path / "e").evaluation)) >= 2


def test_it_is_checked_and_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = [f"output={tmp_path / 'run'}", "method=random", cases.BY_CLASS]
    assert cli.main(["check", "configs/digits.yaml", *keys]) == 0
    assert "ipc 1 to 4" in capsys.readouterr().out
    assert cli.main(["plan", "configs/digits.yaml", *keys]) == 0
    out = capsys.readouterr().out
    assert "10 classes, 1 to 4 images each" in out and "21 real images for the set" in " ".join(out.split())


@pytest.mark.parametrize(("keys", "line"), [
    (['ipc={"3": 200, "*": 2}', "method=random"], "would be selected than there are: 3 (147 of 200)"),
    (['ipc={"3": 200, "*": 2}', "method=dm", "method.start=noise"], "evaluation.sets: ipc is larger than the number"),
    (['ipc={"3": 200, "*": 2}', "method=dm", "evaluation.epochs=0"], "than there are of 3 (147 of 200); set"),
    (["ipc={three: 2}"], "ipc: digits has no class 'three'"),
])  # fmt: skip
def test_too_many_for_one_class_are_refused_by_its_name(
    keys: list[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["check", "configs/digits.yaml", f"output={tmp_path / 'run'}", *keys]) == cli.REFUSED
    assert line in capsys.readouterr().err


def test_from_python(tmp_path: Path) -> None:
    images, labels = torch.rand(12, 1, 8, 8).numpy(), torch.arange(12).numpy() % 2
    tiny = {"trajectory.networks": 1, "network.width": 4, "network.depth": 1}
    made = condense((images, labels), method="dm", ipc={"0": 3, "*": 1}, output=tmp_path / "run", **tiny)
    assert made.dataset.card.counts == (3, 1)


def test_mlflow_has_them_as_one_text(folder: Path) -> None:
    tags = tags_of(folder)
    assert tags["ipc"] == "3: 1, 7: 4, *: 2" and "- images per class: 3: 1, 7: 4" in tags["mlflow.note.content"]
