"""``dist-condense check``: what it prints, what it refuses in one list, and that it leaves no trace."""

from __future__ import annotations

from pathlib import Path

import pytest

from dist_condense.commands import cli
from dist_condense.job import preflight
from dist_condense.settings import resolve
from tests.data.reading.test_checking import truncated
from tests.data.shards.shard_cases import photograph, tree

SMALL = ("network.width=4", "network.depth=1", "trajectory.networks=2", "evaluation.epochs=1", "cluster.workers=0")


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """Two classes of 16 photographs, not divided into training and test images."""
    for position, name in enumerate(("cat", "dog")):
        (tmp_path / "mine" / name).mkdir(parents=True)
        for index in range(16):
            photograph(100 * position + index).save(tmp_path / "mine" / name / f"{index:02}.jpg")
    return tmp_path / "mine"


def checked(mine: Path, *given: str, command: str = "check") -> int:
    own = ["dataset.name=image_folder", f"dataset.root={mine}", "dataset.size=8", "dataset.test_fraction=0.25"]
    return cli.main([command, "configs/digits.yaml", *SMALL, *own, f"output={mine.parent}/run", *given])


def test_a_run_that_would_start(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(mine.parent)
    assert checked(mine) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[:6] == [
        f"data set image_folder at {mine}",
        "classes  2",
        "images   24 training and 8 test images of 3 x 8 x 8",
        "method   dc, ipc 1",
        "steps    2 (network: 2, matching step: 1)",
        "workers  none: one process, device auto",
    ]
    assert said.out.splitlines()[-1].startswith("fine ")
    assert "24 of 24 training images" in said.err and "8 of 8 test images" in said.err
    assert tree(mine.parent) == before and not (mine.parent / "run").exists()


def test_the_folder_of_a_finished_run_is_unchanged(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert checked(mine, command="run") == 0
    before = tree(mine.parent)
    assert checked(mine) == 0
    assert checked(mine, "seed=5") == 2
    assert "contains a run with other settings" in capsys.readouterr().err
    assert checked(mine, "dataset.test_fraction=0.5") == 2
    assert "dataset.test_fraction: 0.25 there, 0.5 now" in capsys.readouterr().err
    assert tree(mine.parent) == before


def test_unreadable_images_and_other_problems_are_one_list(
    mine: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in [*sorted((mine / "cat").iterdir())[:7], *sorted((mine / "dog").iterdir())[:6]]:
        truncated(file)
    monkeypatch.setattr(preflight, "refusal", lambda uri, experiment: "no runs for you")
    assert checked(mine) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("refused: ")]
    assert sum("the image cannot be read (" in line for line in lines) == 10
    assert any("3 more images of dataset.root cannot be read; `dist-condense prepare" in line for line in lines)
    assert lines[-1].startswith("refused: tracking: ") and lines[-1].endswith("no runs for you") and len(lines) == 12
    assert checked(mine, "ipc=0", "training.batch=x") == 2
    said = capsys.readouterr()
    *lines, note = said.err.splitlines()
    assert {line.split(":")[1].strip() for line in lines} == {"ipc", "training.batch"}
    assert note.startswith("note: the images were not decoded; check again without these problems")
    assert said.out == "" and not (mine.parent / "run").exists()


def test_unreadable_images_are_named_together_with_an_output_that_cannot_be_used(
    mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", "configs/digits.yaml", *SMALL, "evaluation.epochs=0", f"output={mine.parent}/run"]) == 0
    truncated(broken := next((mine / "cat").iterdir()))
    capsys.readouterr()
    assert checked(mine) == 2
    said = capsys.readouterr()
    output, image = [line for line in said.err.splitlines() if line.startswith("refused: ")]
    assert "contains a run with other settings" in output and broken.name in image and "cannot be read" in image
    assert "not decoded" not in said.err and said.out == ""


def test_without_an_evaluation_no_test_image_is_decoded(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert checked(mine, "evaluation.epochs=0") == 0
    said = capsys.readouterr()
    assert "24 training images of 3 x 8 x 8" in said.out and "test images" not in said.err


def test_a_data_set_that_cannot_be_opened(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert checked(mine, "dataset.test_fraction=null", "ipc=0") == 2
    said = capsys.readouterr()
    assert said.err.count("refused: ") == 3 and "or <class>/ alone with dataset.test_fraction" in said.err


@pytest.mark.parametrize("command", ["check", "run"])
def test_nothing_is_written_among_the_class_folders(
    mine: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    before = tree(mine)
    monkeypatch.chdir(mine)
    for key, value in {
        "output": f"{mine}/run",
        "tracking.checkpoints": f"{mine}/cat/states",
        "tracking.uri": f"sqlite:///{mine}/mlflow.db",
    }.items():
        assert checked(mine, f"{key}={value}", command=command) == 2
        assert f"refused: {key}: " in (said := capsys.readouterr().err) and "is in dataset.root, whose folders" in said
        assert said.count("refused: ") == 1  # one line for one cause
    assert tree(mine) == before


def test_a_cluster_that_is_too_small(
    mine: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolve, "machines", lambda: [(1, 0, 2**34)])
    assert checked(mine, "cluster.workers=3") == 2
    assert "3 workers of 1 threads need 3 cores, the cluster has 1" in capsys.readouterr().err
