"""Trials, their rows, and trials that are not run twice."""

from dataclasses import replace

import pytest
import torch

from dist_condense.evaluation import evaluate as module
from dist_condense.evaluation.evaluate import TrainingSet, Trial, TrialFailed, evaluate, evaluate_set, trials
from dist_condense.evaluation.rows import Row, append_csv, read_csv

from .toy import evaluation


def row(**changes):
    return replace(
        Row(set="a", protocol="dc", architecture="mlp", seed=0, epochs=6, top1_last=12.3457, top1_best=90.1), **changes
    )


def test_trials_are_every_combination():
    made = trials(["a", "b"], iter(["x"]), range(2))
    assert made == [Trial("a", "x", 0), Trial("a", "x", 1), Trial("b", "x", 0), Trial("b", "x", 1)]


def test_csv_returns_what_was_written(tmp_path):
    path = tmp_path / "deeper" / "evaluation.csv"
    append_csv(path, [row()])
    append_csv(path, [row(seed=1, architecture='odd, "name"')])
    assert path.read_text().splitlines()[:2] == [
        "set,protocol,architecture,seed,epochs,top1_last,top1_best,balanced",
        "a,dc,mlp,0,6,12.3457,90.1,",
    ]
    assert read_csv(path) == [row(), row(seed=1, architecture='odd, "name"')]


def test_rows_in_the_csv_are_not_run_again(tmp_path, monkeypatch):
    path, run = tmp_path / "evaluation.csv", []
    original = module.run_trial
    monkeypatch.setattr(module, "run_trial", lambda trial, e: (run.append(trial.seed), original(trial, e))[1])
    first = evaluate_set("bytes", evaluation(), ["mlp"], [0], path)
    again = evaluate_set("bytes", evaluation(), ["mlp"], [1, 0], path)
    assert run == [0, 1]
    assert again[1] == first[0]
    assert read_csv(path) == [first[0], again[0]]
    evaluate_set("bytes", evaluation(protocol="dsa"), ["mlp"], [0], path)
    shorter = evaluation(sets={"bytes": replace(evaluation().sets["bytes"], epochs=5)})
    evaluate_set("bytes", shorter, ["mlp"], [0], path)
    assert run == [0, 1, 0, 0]


def test_a_row_that_could_not_be_written_is_not_done(tmp_path, monkeypatch):
    path = tmp_path / "evaluation.csv"
    append_csv(path, [row(set="bytes", seed=5)])

    def full(self, other):
        raise OSError(28, "No space left on device")

    def keeps_going(todo, shared, on_result):  # as Tune does with its callbacks
        with pytest.raises(OSError, match="No space"):
            on_result(row(set="bytes", seed=0))

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", full)
        with pytest.raises(KeyError):
            evaluate([Trial("bytes", "mlp", 0)], evaluation(), path, runner=keeps_going)
    assert read_csv(path) == [row(set="bytes", seed=5)]
    assert [entry.name for entry in tmp_path.iterdir()] == ["evaluation.csv"]


def test_a_row_is_kept_although_a_later_trial_fails(tmp_path):
    path, heard = tmp_path / "evaluation.csv", []
    with pytest.raises(TrialFailed, match=r"bytes / mlpp / seed 0: .*no network 'mlpp'"):
        evaluate(trials(["bytes"], ["mlp", "mlpp"], [0]), evaluation(), path, on_result=heard.append)
    assert [r.architecture for r in read_csv(path)] == ["mlp"]
    assert heard == read_csv(path)


def test_epochs_of_the_row_are_the_protocols_unless_given():
    train = replace(evaluation().sets["bytes"], epochs=None)
    assert evaluation(sets={"bytes": train}).key(Trial("bytes", "mlp", 0))[-1] == 300
    assert evaluation().key(Trial("bytes", "mlp", 0))[-1] == 6


def test_epochs_of_the_row_know_the_network_and_the_factor():
    large = TrainingSet(torch.zeros(2 * 200, 1, 8, 8), torch.arange(2).repeat(200), tiles=4)
    shared = evaluation(sets={"large": large}, protocol="idc")
    epochs = [shared.key(Trial("large", name, 1))[-1] for name in ("mlp", "densenet121:growth=12")]
    assert epochs == [1000, 400]
    plain = evaluation(sets={"large": replace(large, tiles=1)}, protocol="idc")
    assert plain.key(Trial("large", "densenet121", 0))[-1] == 1000


def test_a_trial_leaves_flips_to_the_data_set(monkeypatch):
    augmented = []
    monkeypatch.setattr(
        module, "train_and_test", lambda *a, **more: augmented.append(more["protocol"]) or pytest.fail("enough")
    )
    for flip in (True, False):
        with pytest.raises(pytest.fail.Exception):
            module.run_trial(Trial("bytes", "mlp", 0), evaluation(protocol="idc", flip=flip))
    assert [p.augmentation.strategy.always for p in augmented] == [("flip", "color"), ("color",)]


def test_trials_run_on_the_threads_that_are_asked_for(monkeypatch):
    before, seen = torch.get_num_threads(), []
    monkeypatch.setattr(module, "run_trial", lambda trial, e: seen.append(torch.get_num_threads()) or 1 / trial.seed)
    with pytest.raises(TrialFailed, match="ZeroDivisionError"):
        module.in_process(trials(["bytes"], ["mlp"], [1, 0]), evaluation(), lambda row: None, threads=before + 1)
    module.in_process(trials(["bytes"], ["mlp"], [1]), evaluation(), lambda row: None)
    assert seen == [before + 1, before + 1, before] and torch.get_num_threads() == before
