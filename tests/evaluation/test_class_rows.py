"""evaluation_classes.csv: the accuracy on each class, written with the row of its network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dist_condense.data.reading.source import LabelledImages
from dist_condense.evaluation import class_rows
from dist_condense.evaluation.class_rows import COLUMNS, ClassTable, read_classes
from dist_condense.evaluation.evaluate import evaluate, trials
from dist_condense.evaluation.rows import Row, RowsError, read_csv
from tests.evaluation.toy import evaluation, labelled

ROW = Row(set="a", protocol="dc", architecture="mlp", seed=0, epochs=6, top1_last=50.0, top1_best=None, correct=(1, 2))
NAMES = ["=1+1", "a\nb,\u202ec", "none"]


@pytest.fixture
def table(tmp_path: Path) -> ClassTable:
    return ClassTable(tmp_path / "evaluation_classes.csv", NAMES, [3, 2, 0])


def test_every_class_has_a_row_and_no_name_is_a_formula(table: ClassTable) -> None:
    table.write(ROW)
    head, *lines = table.path.read_text().splitlines()
    assert head == "set,protocol,architecture,seed,epochs,label,name,images,top1"
    assert lines == [
        "a,dc,mlp,0,6,0,'=1+1,3,33.3333",
        r'a,dc,mlp,0,6,1,"a\nb,\u202ec",2,100.0',
        "a,dc,mlp,0,6,2,none,0,",
    ]


def test_the_rows_of_a_repeated_trial_replace_its_earlier_ones(table: ClassTable) -> None:
    for row in (ROW, replace(ROW, seed=1), replace(ROW, correct=(3, 0))):
        table.write(row)
    first, again = read_classes(table.path)[:3], read_classes(table.path)[3:]
    assert [each.top1 for each in first] == [33.3333, 100.0, None] and {each.seed for each in first} == {1}
    assert [each.top1 for each in again] == [100.0, 0.0, None] and {each.seed for each in again} == {0}


@pytest.mark.parametrize(("line", "told"), [
    ("a,dc,mlp,0,6,0,x,3", "line 2: not 9 values"),
    ("a,dc,mlp,0,6,0,=x,3,1", "line 2: '=x' is a formula"),
    ("a,dc,mlp,0,6,0,x,3,200", "line 2: '200' is not a percentage"),
    ("a,dc,mlp,0,6,zero,x,3,2", "line 2: 'zero' is not an integer"),
])  # fmt: skip
def test_a_changed_file_is_refused_and_kept(table: ClassTable, line: str, told: str) -> None:
    content = f"{','.join(COLUMNS)}\n{line}\n"
    table.path.write_text(content)
    with pytest.raises(RowsError) as error:
        read_classes(table.path)
    assert str(error.value).startswith(f"{table.path}, {told}") and table.path.read_text() == content


def test_a_full_file_stops_no_evaluation(
    table: ClassTable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table.write(ROW)
    content = table.path.read_text()
    monkeypatch.setattr(class_rows, "LARGEST", len(content) + 10)
    table.write(replace(ROW, seed=7))
    assert table.path.read_text() == content
    assert f"note: {table.path} is full, and " in capsys.readouterr().err


def test_the_accuracies_by_class_are_those_of_the_row(table: ClassTable, tmp_path: Path) -> None:
    images = labelled(20, 2)
    test = LabelledImages(images.images[5:], images.labels[5:])
    table = ClassTable(table.path, ["left", "right"], torch.bincount(test.labels).tolist())
    rows = evaluate(trials(["bytes"], ["mlp"], range(3)), evaluation(test=test), tmp_path / "rows.csv", classes=table)
    assert read_csv(tmp_path / "rows.csv") == rows
    written = read_classes(table.path)
    assert [(each.seed, each.name, each.images) for each in written] == [
        (seed, name, images) for seed in range(3) for name, images in (("left", 15), ("right", 20))
    ]
    for row in rows:
        of_row = [each for each in written if each.key == row.key]
        assert row.balanced == pytest.approx(sum(each.top1 or 0.0 for each in of_row) / 2, abs=1e-4)
        right = sum((each.top1 or 0.0) * each.images for each in of_row)
        assert row.top1_last == pytest.approx(right / 35, abs=1e-4)


def test_a_row_without_its_classes_does_not_count(table: ClassTable, tmp_path: Path) -> None:
    """The classes are written first, so a trial whose classes could not be written is repeated."""
    table.path.write_text("mine\n")
    with pytest.raises(RowsError):
        evaluate(trials(["bytes"], ["mlp"], [0]), evaluation(), tmp_path / "rows.csv", classes=table)
    assert not (tmp_path / "rows.csv").exists()
