"""`evaluate` on sets of any origin: the rows are those of the run whose set it is, in whatever form it comes."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.ExifTags import Base

from dist_condense import load_set
from dist_condense.commands import cli
from dist_condense.data import open_dataset
from dist_condense.evaluation.rows import Row, read_csv
from dist_condense.job import any_set

SHORT = ["evaluation.epochs=3", "evaluation.seeds=2"]
NETWORK = ["network.width=4", "network.depth=1"]
DIGITS = ["--dataset", "digits"]
ORIENTATION = Base.Orientation


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


def test_with_an_output_a_run_stays_as_it_is(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    for number, given in enumerate((run, run / "synthetic_set")):
        rows = evaluated(tmp_path / str(number), given)
        assert scores(rows, run.name) == scores(read_csv(run / "evaluation.csv"), "condensed")
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before
    assert cli.main(["evaluate", str(run), *SHORT, f"output={run}"]) == cli.REFUSED
    assert f"output: {run} is the folder of a run, whose own rows" in capsys.readouterr().err
    for place, words in ((run / "synthetic_set", "is in the folder of a synthetic set"), (run / "x", "is in ")):
        assert cli.main(["evaluate", str(run), *SHORT, f"output={place}"]) == cli.REFUSED
        assert f"output: {place} {words}" in capsys.readouterr().err
    (tmp_path / "card.json").write_text("{}")  # that of another program
    evaluated(tmp_path / "free", run)
    assert cli.main(["evaluate", str(run), *SHORT, "output=/proc/nowhere"]) == cli.REFUSED
    assert "output: /proc/nowhere cannot be written" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before


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
        ([torch.randn(10, 1, 8, 8), torch.arange(10)], "which image values in [0, 1] cannot have"),
        ([torch.zeros(10, 1, 8, 8), torch.arange(10) // 2], "it has no image of 5, 6, 7"),
        ([torch.zeros(10, 1, 8, 8), torch.ones(10, 10)], "its class probabilities are not from 0 with the sum 1"),
        ([torch.zeros(10, 1, 8, 8).to_sparse(), torch.arange(10)], "its tensors are sparse, quantised or without"),
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


def test_a_card_that_names_no_protocol_needs_one(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Cards of earlier versions do not name it."""
    shutil.copytree(run / "synthetic_set", tmp_path / "mine")
    card = tmp_path / "mine" / "card.json"
    content = json.loads(card.read_text())
    assert content.pop("protocol") == "idc"
    card.write_text(json.dumps(content))
    assert cli.main(["evaluate", str(tmp_path / "mine"), *NETWORK, *SHORT, f"output={tmp_path}/out"]) == cli.REFUSED
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"refused: evaluation.protocol: {card} names none that is known; give one of dc, ")
    rows = evaluated(tmp_path / "out", tmp_path / "mine", *NETWORK, "evaluation.protocol=idc")
    assert scores(rows, "mine") == scores(read_csv(run / "evaluation.csv"), "condensed")


def test_an_unfinished_set_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(run / "synthetic_set", tmp_path / "mine")
    card = tmp_path / "mine" / "card.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {"complete": False}))
    assert cli.main(["evaluate", str(tmp_path / "mine"), *NETWORK, *SHORT, f"output={tmp_path}/out"]) == cli.REFUSED
    assert "is incomplete (step 2); finish its run, or copy the set again" in capsys.readouterr().err


def test_a_group_of_architectures_is_its_members(tmp_path: Path) -> None:
    torch.save([torch.rand(10, 1, 8, 8), torch.arange(10)], tmp_path / "set.pt")
    keys = [*DIGITS, *NETWORK, "--space", "unit", "evaluation.architectures=[norms,network:norm=batch]"]
    rows = evaluated(tmp_path / "out", tmp_path / "set.pt", *keys)
    norms = ["none", "batch", "layer", "instance", "group"]
    names = [f"convnet:width=4:depth=1:norm={norm}".removesuffix(":norm=instance") for norm in norms]
    assert list(dict.fromkeys(row.architecture for row in rows)) == names and len(rows) == 2 * len(names)


def test_files_are_turned_as_the_test_images_are(tmp_path: Path) -> None:
    """Rotated by EXIF where ``dataset.orientation`` says so, for folders and tables."""
    for split in ("train", "val", "turned"):
        for name in ("a", "b"):
            picture, exif = Image.new("RGB", (8, 8), "red" if name == "a" else "blue"), Image.Exif()
            picture.paste("white", (0, 0, 8, 3))
            exif[ORIENTATION] = 6
            file = tmp_path / split / name / "1.png"
            file.parent.mkdir(parents=True)
            picture.save(file, exif=exif)
    read = {}
    for upright in (False, True):
        data = open_dataset("image_folder", tmp_path, size=8, orientation=upright)
        images = any_set.read(tmp_path / "turned", data, any_set.Stated(orientation=upright)).images
        source = data.train(range(2))
        assert torch.equal(images.images, torch.cat([source.get(label, torch.tensor([0])) for label in range(2)]))
        read[upright] = images.images
    assert not torch.equal(*read.values())


def test_columns_of_a_table_can_be_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    datasets = pytest.importorskip("datasets")
    pictures = [Image.new("L", (8, 8), 20 * label) for label in range(10)]
    names = datasets.ClassLabel(names=[str(label) for label in range(10)])
    features = datasets.Features({"x": datasets.Image(), "other": datasets.Image(), "y": names})
    rows = {"x": pictures, "other": pictures[::-1], "y": list(range(10))}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "table"))
    words = ["evaluate", str(tmp_path / "table"), *DIGITS, *NETWORK, *SHORT]
    assert cli.main([*words, f"output={tmp_path}/out"]) == cli.REFUSED
    assert "x, other" in capsys.readouterr().err
    grey = torch.arange(0, 200, 20).view(10, 1, 1, 1).expand(10, 1, 8, 8) / 255
    torch.save([grey, torch.arange(10)], tmp_path / "x.pt")
    rows = evaluated(tmp_path / "out", tmp_path / "table", *DIGITS, *NETWORK, "--columns", "x", "y")
    assert scores(rows, "table") == scores(
        evaluated(tmp_path / "same", tmp_path / "x.pt", *DIGITS, *NETWORK, "--space", "unit"), "x.pt"
    )


def test_rows_of_unknown_sets_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save([torch.rand(10, 1, 8, 8), torch.arange(10)], tmp_path / "set.pt")
    keys = [*DIGITS, *NETWORK, "--space", "unit"]
    evaluated(tmp_path / "out", tmp_path / "set.pt", *keys)
    (tmp_path / "out" / "evaluation.json").unlink()
    before = (tmp_path / "out" / "evaluation.csv").read_bytes()
    words = ["evaluate", str(tmp_path / "set.pt"), *keys, *SHORT, f"output={tmp_path}/out"]
    assert cli.main(words) == cli.REFUSED
    assert "has rows of unknown sets; give another folder" in capsys.readouterr().err
    assert (tmp_path / "out" / "evaluation.csv").read_bytes() == before


def test_test_images_of_other_sizes_are_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files of the same names, with other content."""
    generator = np.random.default_rng(0)
    for split in ("train", "val", "few"):
        for name in ("a", "train"):  # a class may be called train
            file = tmp_path / split / name / "1.png"
            file.parent.mkdir(parents=True)
            Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(file)
    words = [str(tmp_path / "few"), "--dataset", "image_folder", "--root", str(tmp_path), *NETWORK, "dataset.size=8"]
    evaluated(tmp_path / "out", *words)
    Image.new("RGB", (8, 8)).save(tmp_path / "val" / "a" / "1.png")
    assert cli.main(["evaluate", *words, *SHORT, f"output={tmp_path}/out"]) == cli.REFUSED
    assert "has rows of other test images; give another folder" in capsys.readouterr().err


def test_a_damaged_table_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("set.pt", "other.pt"):
        torch.save([torch.rand(10, 1, 8, 8), torch.arange(10)], tmp_path / name)
    keys = [*DIGITS, *NETWORK, "--space", "unit"]
    evaluated(tmp_path / "out", tmp_path / "set.pt", *keys)
    record = (tmp_path / "out" / "evaluation.json").read_bytes()
    with (tmp_path / "out" / "evaluation.csv").open("a") as file:
        file.write("damaged\n")
    words = ["evaluate", str(tmp_path / "other.pt"), *keys, *SHORT]
    assert cli.main([*words, f"output={tmp_path}/out"]) == cli.REFUSED
    assert "evaluation.csv" in capsys.readouterr().err
    assert (tmp_path / "out" / "evaluation.json").read_bytes() == record
    for output in ("s3://x/y", str(tmp_path / "set.pt")):
        assert cli.main([*words, f"output={output}"]) == cli.REFUSED
        assert "output: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "probabilities"),
    [
        ([torch.rand(10, 1, 8, 8, requires_grad=True), torch.arange(10)], False),
        ([torch.rand(10, 1, 8, 8), torch.eye(10)], True),
        ({"data": [[torch.rand(10, 1, 8, 8), torch.arange(10)]], "accs": [np.float64(0.5), np.float32(0.1)]}, False),
    ],
    ids=["needs a gradient", "soft labels", "numbers of numpy"],
)
def test_what_programs_write_is_read(content: Any, probabilities: bool, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "set.pt")
    images = any_set.read(tmp_path / "set.pt", open_dataset("digits", None), any_set.Stated(space="unit")).images
    assert images.images.shape == (10, 1, 8, 8) and not images.images.requires_grad
    assert images.labels.is_floating_point() == probabilities


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
        (["SET", "evaluation.epochs=0"], ["evaluation.epochs: 0 means no evaluation"]),
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
    assert cli.main(["evaluate", *DIGITS, *SHORT, *given]) == cli.REFUSED
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(problems)
    assert [problem for line, problem in zip(lines, problems, strict=True) if problem not in line] == [], lines
