"""After a run dies in its evaluation, the same command trains only the missing networks."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dist_condense.commands import cli
from dist_condense.evaluation import evaluate
from dist_condense.evaluation.evaluate import Trial
from dist_condense.evaluation.rows import Row, read_csv
from dist_condense.job import comparing
from dist_condense.settings.run_folder import RunFolder
from tests.engine import cases

SEEDS = [0, 1, 2]


class Death(BaseException):
    """Exception in place of a power cut, which no code catches."""


def command(folder: Path) -> int:
    """Run a small evaluation in this process."""
    evaluation = ("evaluation.sets=[condensed]", f"evaluation.seeds={len(SEEDS)}", "evaluation.epochs=2")
    given = (*cases.TINY, *cases.CASES["dc"], "trajectory.networks=1", "trajectory.matching_steps=2", *evaluation)
    overrides = {pair.split("=", 1)[0]: pair for pair in (*given, "cluster.workers=0", f"output={folder}")}
    return cli.main(["run", "configs/digits.yaml", *overrides.values()])


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert command(folder) == 0
    return read_csv(folder / RunFolder.evaluation.name)


def in_training(patch: pytest.MonkeyPatch) -> None:
    """Die in the training of seed 1."""
    _die_at(patch, evaluate, "train_and_test", lambda *given, seed, **named: seed == 1)


def before_its_row_is_there(patch: pytest.MonkeyPatch) -> None:
    """Die when the second row is in a temporary file that has not replaced evaluation.csv."""
    replaced: list[Path] = []

    def second(writing: Path, path: Path) -> bool:  # the tracker's thread replaces files of its own
        if path.name != RunFolder.evaluation.name:
            return False
        replaced.append(path)
        return len(replaced) == 2

    _die_at(patch, os, "replace", second)


def before_it_is_told(patch: pytest.MonkeyPatch) -> None:
    """Die after the row of seed 1 is written."""
    _die_at(patch, comparing, "_report", lambda row: row.seed == 1)


def _die_at(patch: pytest.MonkeyPatch, where: Any, name: str, when: Callable[..., bool]) -> None:
    whole = getattr(where, name)

    def until(*given: Any, **named: Any) -> Any:
        if when(*given, **named):
            raise Death
        return whole(*given, **named)

    patch.setattr(where, name, until)


@pytest.mark.parametrize(
    ("death", "kept"), [(in_training, [0]), (before_its_row_is_there, [0]), (before_it_is_told, [0, 1])]
)
def test_a_death_within_evaluation(
    death: Callable[[pytest.MonkeyPatch], None],
    kept: list[int],
    uninterrupted: list[Row],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch:
        death(patch)
        with pytest.raises(Death):
            command(tmp_path)
    assert [row.seed for row in read_csv(tmp_path / RunFolder.evaluation.name)] == kept
    trained, whole = [], evaluate.run_trial

    def run_trial(trial: Trial, *given: Any) -> Row:
        trained.append(trial.seed)
        return whole(trial, *given)

    monkeypatch.setattr(evaluate, "run_trial", run_trial)
    capfd.readouterr()
    assert command(tmp_path) == 0
    assert "the set is complete after" in capfd.readouterr().err
    assert trained == [seed for seed in SEEDS if seed not in kept]
    assert read_csv(tmp_path / RunFolder.evaluation.name) == uninterrupted
