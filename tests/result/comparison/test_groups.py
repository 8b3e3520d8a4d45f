"""Statistics of groups against sums by hand, and what divides groups."""

from math import sqrt

import pytest

from dist_condense.result.comparison.groups import compared
from dist_condense.result.comparison.runs import read
from dist_condense.result.metrics_file import process_hours
from dist_condense.settings.values import ConfigError
from tests.result.comparison.folders import folder_of_run


@pytest.fixture
def make(tmp_path):
    """Return a function that writes and reads the folder of a run."""
    return lambda name, top1, **keys: read(folder_of_run(tmp_path / name, top1, **keys))


def test_deviations_over_seeds_and_over_networks_are_apart(make):
    first = make("a", {"condensed": [60, 62, 64], "random": [50, 51, 55]}, seed=0)
    second = make("b", {"condensed": [70, 71], "random": [50, 51, 55]}, seed=1)
    [group] = compared([first, second]).groups
    assert group.mean == (62 + 70.5) / 2
    assert group.std_seeds == pytest.approx(8.5 / sqrt(2))
    assert group.std_networks == pytest.approx(sqrt((4 + 0 + 4 + 0.25 + 0.25) / (2 + 1)))
    assert (len(group.members), group.networks) == (2, 5)
    means = [(10 + 11 + 9) / 3, (20 + 20) / 2]
    assert group.over_random == (pytest.approx(15), pytest.approx((means[1] - means[0]) / sqrt(2) / sqrt(2)))


def test_the_difference_of_one_seed_has_the_error_of_its_networks(make):
    [group] = compared([make("a", {"random": [50, 51, 55], "condensed": [60, 62, 64]})]).groups
    mean, error = group.over_random
    assert (mean, error) == (10, pytest.approx(1 / sqrt(3)))
    assert group.std_seeds is None
    [alone] = compared([make("b", {"condensed": [60], "full": [90]})]).groups
    assert (alone.over_random, alone.std_networks) == (None, None)


@pytest.mark.parametrize(
    ("keys", "column"),
    [
        ({"method__name": "dsa"}, "method"),
        ({"ipc": 2}, "ipc"),
        ({"architecture": "lenet"}, "architecture"),
        ({"evaluation__protocol": "idc_cifar"}, "protocol"),
        ({"evaluation__epochs": 20}, "epochs"),
        ({"dataset__name": "arrays", "dataset__root": "/data/x.npz"}, "dataset"),
        ({"trajectory__networks": 7}, "settings"),
        ({"dataset__orientation": True}, "settings"),
    ],
    ids=str,
)
def test_runs_that_differ_in_more_than_the_seed_are_separate_rows(make, keys, column):
    made = compared([make("a", {"condensed": [60]}), make("b", {"condensed": [80]}, seed=1, **keys)])
    assert [group.mean for group in made.groups] == [60, 80]
    first, second = (labels[column] for labels in made.labels())
    assert first != second
    incomparable = column in ("protocol", "epochs", "dataset")
    assert any(column in note and "cannot always be compared" in note for note in made.notes) == incomparable


def test_what_changes_the_last_bits_alone_divides_no_group(make):
    keys = {"compute__threads": 2, "cluster__workers": 3, "data__tier": "disk"}
    [group] = compared([make("a", {"condensed": [60]}), make("b", {"condensed": [80]}, seed=1, **keys)]).groups
    assert group.mean == 70


def test_runs_can_be_compared_by_any_key(make):
    runs = [make(str(n), {"condensed": [n]}, trajectory__networks=n) for n in (10, 20)]
    made = compared(runs, "trajectory.networks")
    assert made.labels() == [{"trajectory.networks": "10"}, {"trajectory.networks": "20"}]
    assert [labels["settings"] for labels in compared(runs).labels()] == [
        "trajectory.networks=10",
        "trajectory.networks=20",
    ]
    with pytest.raises(ConfigError, match="did you mean trajectory"):
        compared(runs, "trajectory.network")


def test_a_repeated_run_counts_once(make):
    made = compared([make("a", {"condensed": [60]}), make("b", {"condensed": [62]})])
    assert [group.mean for group in made.groups] == [60]
    assert any("b is left out" in note for note in made.notes)


def test_a_set_that_is_not_complete_has_a_note(make):
    assert "not complete (step 3)" in compared([make("a", {"condensed": [60]}, complete=False)]).notes[0]


def test_process_hours_follow_from_the_recorded_rates():
    entries = [{"step": 1, "steps_per_second": 0.5}, {"step": 11, "steps_per_second": 2.0}]
    assert process_hours(entries, processes=4) == 4 * (1 / 0.5 + 10 / 2) / 3600
    assert process_hours([], 1) is None
    assert process_hours([{"step": 1}], 1) is None
    assert process_hours([{"step": 1, "steps_per_second": float("nan")}], 1) is None


def test_sets_other_than_the_runs_own_are_no_rows(make):
    with pytest.raises(ConfigError, match="none of the runs"):
        compared([make("a", {"random": [60]})])
