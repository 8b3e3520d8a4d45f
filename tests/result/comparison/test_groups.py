"""Statistics of groups against sums by hand, and what divides groups."""

from math import sqrt

import pytest

from dist_condense.result.comparison.formats import cells
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
    assert group.over_random == (pytest.approx(15), pytest.approx((means[1] - means[0]) / sqrt(2) / sqrt(2)), 2)


def test_the_difference_of_one_seed_has_the_error_of_its_networks(make):
    [group] = compared([make("a", {"random": [50, 51, 55], "condensed": [60, 62, 64]})]).groups
    assert group.over_random == (10, pytest.approx(1 / sqrt(3)), 1)
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
        ({"dataset__constants": "measured"}, "settings"),
        ({"compute__autocast": True}, "settings"),
        ({"compute__tf32": False}, "settings"),
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


def test_no_digit_is_lost(make):
    made = compared(
        [make(str(n), {"condensed": [60]}, dataset__mean=[x]) for n, x in enumerate((0.12345678, 0.12345679))]
    )
    assert [labels["settings"] for labels in made.labels()] == [
        "dataset.mean=[0.12345678]",
        "dataset.mean=[0.12345679]",
    ]


@pytest.mark.parametrize(
    "keys",
    [{"dataset__orientation": True}, {"dataset__test_fraction": 0.2}, {"dataset__columns": ["image", "label"]}],
    ids=str,
)
def test_rows_with_other_test_images_have_a_note(make, keys):
    made = compared([make("a", {"condensed": [60]}), make("b", {"condensed": [80]}, seed=1, **keys)])
    [key] = (name.replace("__", ".") for name in keys)
    assert [labels["settings"].split("=")[0] for labels in made.labels()] == [key, key]
    assert made.notes == [f"the top-1 of different rows cannot always be compared: they differ in {key}"]


def test_runs_on_other_images_are_separate_rows(make):
    digests = [{"data": "a" * 64, "test_data": None}, {"data": "b" * 64}, {"data": "a" * 64, "test_data": "c" * 64}]
    runs = [make(str(n), {"condensed": [n]}, seed=n, digests=own) for n, own in enumerate([*digests, None])]
    made = compared(runs)
    assert [[member.run.config.seed for member in group.members] for group in made.groups] == [[0, 2, 3], [1]]
    assert [labels["settings"] for labels in made.labels()] == [f"data={12 * 'a'}", f"data={12 * 'b'}"]
    assert made.notes == ["rows have different training images, by their hashes in environment.json (data)"]


def test_runs_on_other_test_images_are_separate_rows_with_a_note(make):
    digests = [{"data": "a", "test_data": "b"}, {"data": "a", "test_data": "c"}, {"data": "a"}]
    runs = [make(str(n), {"condensed": [60 + n]}, seed=n, digests=own) for n, own in enumerate(digests)]
    made = compared(runs)
    assert [len(group.members) for group in made.groups] == [2, 1]
    assert [labels["settings"] for labels in made.labels()] == ["test_data=b", "test_data=c"]
    assert made.notes == ["the top-1 of different rows cannot always be compared: they differ in test_data"]


def test_other_data_sets_have_no_note_on_hashes(make):
    first = make("a", {"condensed": [60]}, digests={"data": "a"})
    second = make("b", {"condensed": [60]}, digests={"data": "b"}, dataset__name="mnist")
    assert not any("hashes" in note for note in compared([first, second]).notes)


def test_settings_of_the_user_are_before_what_follows_from_the_data(make):
    def labels(*all_keys):
        folder = str(len(all_keys))
        runs = [make(f"{folder}{n}", {"condensed": [60]}, **keys) for n, keys in enumerate(all_keys)]
        return [own["settings"] for own in compared(runs).labels()]

    first, second, third = ({"dataset__mean": [x], "dataset__std": [0.5]} for x in (0.1, 0.2, 0.3))
    assert labels(first, second) == ["dataset.mean=[0.1]", "dataset.mean=[0.2]"]
    parts = [{**first, "dataset__test_fraction": 0.1}, {**second, "dataset__test_fraction": 0.2}]
    assert [text.split() for text in labels(*parts, {**third, "dataset__test_fraction": 0.2})] == [
        ["dataset.test_fraction=0.1", "dataset.mean=[0.1]"],
        ["dataset.test_fraction=0.2", "dataset.mean=[0.2]"],
        ["dataset.test_fraction=0.2", "dataset.mean=[0.3]"],
    ]
    more = {**third, "dataset__test_fraction": 0.3}
    assert labels(*parts, more, more)[:2] == ["dataset.test_fraction=0.1", "dataset.test_fraction=0.2"]


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


def test_a_set_that_is_not_complete_is_a_row_of_its_own(make):
    partial = make("a", {"condensed": [20]}, complete=False)
    made = compared([partial, *(make(str(n), {"condensed": [60 + n]}, seed=n) for n in (1, 2))])
    assert [group.mean for group in made.groups] == [61.5, 20]
    assert [labels["set"] for labels in made.labels()] == ["", "not complete, step 3"]
    later = make("b", {"condensed": [30]}, complete=False, steps=4, seed=1)
    assert [group.mean for group in compared([partial, later]).groups] == [20, 30]


def test_of_runs_with_equal_seed_the_complete_one_counts(make):
    made = compared([make("a", {"condensed": [20]}, complete=False), make("b", {"condensed": [60]})])
    assert [group.mean for group in made.groups] == [60]
    assert any("a is left out" in note for note in made.notes)


def test_the_difference_of_some_seeds_has_their_number(make):
    first = make("a", {"condensed": [60, 62], "random": [50, 51]})
    [group] = compared([first, make("b", {"condensed": [80]}, seed=1)]).groups
    assert (group.over_random.mean, group.over_random.seeds, len(group.members)) == (10.5, 1, 2)
    [numbers] = cells(compared([first, make("c", {"condensed": [80]}, seed=1)]))[1]
    assert "+10.5 ± 0.5 (1 of 2 seeds)" in numbers


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
