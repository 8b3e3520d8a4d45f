"""`evaluate` on sets of any origin: the rows are those of the run whose set it is, in whatever form it comes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from dist_condense import load_set
from dist_condense.commands import cli
from dist_condense.data import open_dataset
from dist_condense.evaluation.rows import Row, read_csv

SHORT = ["evaluation.epochs=3", "evaluation.seeds=2"]
NETWORK = ["network.width=4", "network.depth=1"]
DIGITS = ["--dataset", "digits"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Condense the digits with IDC, factor 2, and evaluate the set."""
    folder = tmp_path_factory.mktemp("run")
    keys = ["recipe=idc", *NETWORK, "network.name=convnet", "trajectory.networks=1", "trajectory.matching_steps=2"]
    keys += [
        "training.images=64",
        "method.real_batch=8",
        "ipc=2",
        "cluster.workers=0",
        "tracking.uri=http://127.0.0.1:9",
    ]
    sets = ["evaluation.sets=[condensed,random]"]
    assert cli.main(["run", "configs/digits.yaml", *keys, *SHORT, *sets, f"output={folder}"]) == 0
    return folder


def evaluated(output: Path, *words: object) -> list[Row]:
    assert cli.main(["evaluate", *map(str, words), *SHORT, f"output={output}"]) == 0
    return read_csv(output / "evaluation.csv")


def scores(rows: list[Row], name: str) -> list[tuple[str, int, float]]:
    return [(row.architecture, row.epochs, row.top1_last) for row in rows if row.set == name]


def test_a_copied_set_has_the_scores_of_its_run(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "synthetic_set", tmp_path / "mine")
    rows = evaluated(tmp_path / "out", tmp_path / "mine", *NETWORK, "evaluation.sets=[random]")
    own = read_csv(run / "evaluation.csv")
    assert scores(rows, "mine") == scores(own, "condensed") and scores(rows, "random") == scores(own, "random")
    assert {row.protocol for row in rows} == {"idc"}


def test_beside_another_set_a_run_says_what_it_is(run: Path, tmp_path: Path) -> None:
    """Networks, data and protocol are those of the first run."""
    shutil.copytree(run / "synthetic_set", tmp_path / "mine")
    rows = evaluated(tmp_path / "out", run, tmp_path / "mine")
    assert scores(rows, run.name) == scores(rows, "mine") == scores(read_csv(run / "evaluation.csv"), "condensed")


def test_a_file_of_tensors_is_the_set_that_it_holds(run: Path, tmp_path: Path) -> None:
    dataset = load_set(run)
    stored = dataset.labels[: len(dataset) // 4]
    torch.save([dataset.pixels(), stored], tmp_path / "idc.pt")
    torch.save([dataset.batch(torch.arange(len(dataset))), dataset.labels], tmp_path / "decoded.pt")
    means = [f"dataset.{name}={list(getattr(dataset.card, name))}" for name in ("mean", "std")]
    keys = [*DIGITS, *NETWORK, *means, "evaluation.protocol=idc", "evaluation.architectures=[network]"]
    expected = [top1 for *_, top1 in scores(read_csv(run / "evaluation.csv"), "condensed")]
    for name, how in {"idc.pt": ["--space", "unit", "--factor", "2"], "decoded.pt": ["--space", "normalised"]}.items():
        rows = evaluated(tmp_path / name.partition(".")[0], tmp_path / name, *how, *keys)
        assert [row.set for row in rows] == [name, name]
        assert [row.top1_last for row in rows] == expected


def test_rows_of_other_sets_of_the_same_name_are_not_taken_for_theirs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys, out = [*DIGITS, *NETWORK, "--space", "normalised"], tmp_path / "out"
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        torch.save([torch.randn(10, 1, 8, 8), torch.arange(10)], tmp_path / folder / "set.pt")
    first = evaluated(out, tmp_path / "a" / "set.pt", *keys)
    assert evaluated(out, tmp_path / "a" / "set.pt", *keys) == first
    assert cli.main(["evaluate", str(tmp_path / "b" / "set.pt"), *keys, *SHORT, f"output={out}"]) == cli.REFUSED
    assert "has rows of set.pt with other images or settings; give another folder" in capsys.readouterr().err
    both = evaluated(tmp_path / "both", tmp_path / "a" / "set.pt", tmp_path / "b" / "set.pt", *keys)
    assert {row.set for row in both} == {str(tmp_path / folder / "set.pt") for folder in ("a", "b")}
    assert [row.top1_last for row in both][:2] == [row.top1_last for row in first]


def test_a_name_is_no_formula(tmp_path: Path) -> None:
    torch.save([torch.randn(10, 1, 8, 8), torch.arange(10)], tmp_path / "=cmd.pt")
    rows = evaluated(tmp_path / "out", tmp_path / "=cmd.pt", *DIGITS, *NETWORK, "--space", "normalised")
    assert {row.set for row in rows} == {str(tmp_path / "=cmd.pt")}


def test_several_experiments_of_dcs_program_are_draws(tmp_path: Path) -> None:
    images = torch.randn(2, 10, 1, 8, 8)
    labels = torch.arange(10)
    torch.save({"data": [[each, labels] for each in images], "accs_all_exps": {"ConvNet": [0.5]}}, tmp_path / "res.pt")
    keys = [*DIGITS, *NETWORK, "--space", "normalised"]
    both = evaluated(tmp_path / "both", tmp_path / "res.pt", *keys)
    for number in range(2):
        torch.save([images[number], labels], tmp_path / "one.pt")
        one = evaluated(tmp_path / f"one{number}", tmp_path / "one.pt", *keys)
        assert one[number].top1_last == both[number].top1_last


def test_folders_and_tables_of_selected_images_are_those_images(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    digits = open_dataset("digits", None)
    real = digits.train(range(10))
    images = torch.cat([real.get(label, torch.tensor([3, 5])) for label in range(10)])
    labels = torch.arange(10).repeat_interleave(2)
    pictures = [Image.fromarray(image[0].numpy()) for image in images]
    for number, (picture, label) in enumerate(zip(pictures, labels.tolist(), strict=True)):
        file = tmp_path / "folder" / str(label) / f"{number:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        picture.save(file)
    names = datasets.ClassLabel(names=[str(label) for label in range(10)])
    features = datasets.Features({"image": datasets.Image(), "label": names})
    table = datasets.Dataset.from_dict({"image": pictures, "label": labels.tolist()}, features=features)
    table.save_to_disk(str(tmp_path / "table"))
    torch.save([images / 255, labels], tmp_path / "tensors.pt")
    sets = [tmp_path / "folder", tmp_path / "table", tmp_path / "tensors.pt"]
    rows = evaluated(tmp_path / "out", *sets, *DIGITS, *NETWORK, "--space", "unit")
    assert scores(rows, "folder") == scores(rows, "table") == scores(rows, "tensors.pt") != []


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ([torch.zeros(10, 1, 9, 9), torch.arange(10)], "its images are torch.float32 [10, 1, 9, 9]"),
        ([torch.zeros(10, 1, 8, 8), torch.arange(1, 11)], "its labels are not integers from 0 to 9"),
        ([torch.full((10, 1, 8, 8), torch.nan), torch.arange(10)], "a pixel is not a finite number"),
        ([torch.zeros(10, 1, 8, 8), torch.arange(9)], "its labels are torch.int64 [9] for 10 images"),
        ({"net": {"weight": torch.zeros(3)}}, "holds dict, expected [images, labels]"),
        ([torch.zeros(10, 1, 8, 8)], "holds list, expected a pair of tensors"),
        ([Path("x"), torch.arange(10)], "only tensors, lists, dicts and numbers are read"),
        (b"no tensors", "cannot be read"),
    ],
)
def test_files_of_tensors_that_are_refused(
    content: Any, problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, words = tmp_path / "set.pt", ["--space", "unit", *DIGITS]
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    assert cli.main(["evaluate", str(file), *words, *SHORT, f"output={tmp_path}/out"]) == cli.REFUSED
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"refused: {file}") and problem in line
    assert not (tmp_path / "out").exists()


def test_the_space_of_tensors_must_be_stated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save([torch.zeros(10, 1, 8, 8), torch.arange(10)], tmp_path / "set.pt")
    assert cli.main(["evaluate", str(tmp_path / "set.pt"), *DIGITS, *SHORT]) == cli.REFUSED
    [line] = capsys.readouterr().err.splitlines()
    assert "give --space unit (image values" in line and "or --space normalised (" in line


class Executed:
    """Creates a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.mark),)


def test_nothing_in_a_file_of_tensors_is_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save([torch.zeros(10, 1, 8, 8), Executed(tmp_path / "mark")], tmp_path / "set.pt")
    words = ["--space", "unit", *DIGITS, *SHORT, f"output={tmp_path}/out"]
    assert cli.main(["evaluate", str(tmp_path / "set.pt"), *words]) == cli.REFUSED
    assert "only tensors, lists, dicts and numbers are read" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["set.pt"]


@pytest.mark.parametrize(
    ("words", "problems"),
    [
        (["SET", "ipc=3", "method=dc"], ["method: it makes a set", "ipc: it makes a set"]),
        (["SET", "evaluation.epohcs=3"], ["unknown key; did you mean evaluation.epochs?"]),
        (["SET"], ["has no folder of 0, 1, 2", "the test images have no class of these folders: cat"]),
        (["SET", "nowhere"], ["has no folder", "no class of these folders", "nowhere does not exist; give the folder"]),
        (["ipc=3"], ["there is no set to evaluate; give the folder of a run"]),
    ],
)
def test_what_is_refused(
    words: list[str], problems: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "set" / "cat").mkdir(parents=True)
    given = [str(tmp_path / "set") if word == "SET" else word for word in words]
    assert cli.main(["evaluate", *given, *DIGITS, *SHORT]) == cli.REFUSED
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(problems)
    assert [problem for line, problem in zip(lines, problems, strict=True) if problem not in line] == [], lines
