"""Lists of values on the command line: Hydra's grammar, the combinations, and the names of their folders."""

import sys

import pytest

from dist_condense.settings.sweeps import MOST, NAME, points
from dist_condense.settings.values import ConfigError


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("seed=0,1", ["0", "1"]),
        ("seed=range(0,6,2)", ["0", "2", "4"]),
        ("method=choice(dc,dsa)", ["dc", "dsa"]),
        ("seed=1,0,1", ["1", "0"]),
        ("compute.threads=null,2", ["null", "2"]),
        ("dataset.root=/a/b-c,/d", ["/a/b-c", "/d"]),
        ("method.images.lr=1e-3,0.1", ["0.001", "0.1"]),
        ("dataset.classes=[cat,dog],[cow]", ["[cat,dog]", "[cow]"]),
        ("evaluation.architectures=['convnet:depth=4'],[mlp]", ["['convnet:depth=4']", "[mlp]"]),
        ("method.name='a,b',c", ["'a,b'", "c"]),
        ("evaluation.architectures=[convnet:depth=4],[mlp]", ["[convnet:depth=4]", "[mlp]"]),
        ("""data.x={"3": 2, "*": 1}, 3,{'a,b':1,"*":2}""", ['{"3": 2, "*": 1}', "3", """{'a,b':1,"*":2}"""]),
    ],
    ids=str,
)
def test_a_list_has_the_values_of_hydras_grammar(given, expected):
    key = given.partition("=")[0]
    assert [point.overrides for point in points([given, "ipc=2"])] == [("ipc=2", f"{key}={x}") for x in expected]


@pytest.mark.parametrize(
    "single",
    ["evaluation.sets=[random,full]", "dataset.root='/a,b'", "evaluation.architectures=[convnet:depth=4,mlp]"],
)
def test_lists_in_brackets_and_quotations_are_one_value(single):
    assert [point.overrides for point in points([single, "seed=0,1"])] == [(single, "seed=0"), (single, "seed=1")]


def test_every_combination_has_a_name_that_the_order_of_keys_does_not_change():
    made = points(["seed=0,1", "output=x", "method=dc,dsa"])
    assert [point.name for point in made] == [
        "method=dc,seed=0",
        "method=dsa,seed=0",
        "method=dc,seed=1",
        "method=dsa,seed=1",
    ]
    assert made[1].overrides == ("output=x", "seed=0", "method=dsa")
    again = points(["method=dc,dsa", "output=x", "seed=0,1"])
    assert {point.name for point in again} == {point.name for point in made}


def test_names_are_safe_bounded_and_different():
    names = [point.name for point in points(["dataset.root=/data/a,/data_a,../..,'a b'", "ipc=1,2"])]
    long = [point.name for point in points([f"dataset.root={'x' * 200},{'x' * 201}"])]
    assert len({*names, *long}) == 10 and max(map(len, names + long)) <= NAME
    assert all(set(name) <= set("=.,+-_") | set(map(chr, range(128))) and "/" not in name for name in names)
    assert not any(name.startswith(".") for name in names)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (["seed=0"], "-m: no key has several values"),
        ([], "-m: no key has several values"),
        (["output=a,b"], "output: several folders"),
        (["method=glob(*)", "network=a:b=1,mlp"], "network: 'a:b=1,mlp' has a comma, but is no list of values"),
        (["ipc={3: 1,{4"], "ipc: '{3: 1,{4' has a comma, but is no list of values"),
        (["method.images.lr=interval(0,1)"], "method.images.lr: 'interval(0,1)' has a comma"),
        (["seed=0,1", "method=dc,"], "method: 'dc,' has a comma without a value beside it; leave the comma out"),
        (["seed=0,,1"], "seed: '0,,1' has a comma without a value beside it"),
        (
            ["seed=(0,1)"],
            "seed: '(0,1)' has a comma, but is no list of values (extraneous input '('); quote each value",
        ),
        (["seed=range(0,1000000000)"], f"are above {MOST}"),
        (["seed=range(0,100)", "ipc=range(1,100)"], "-m: 9900 runs or more are above 1000"),
    ],
    ids=str,
)
def test_what_is_no_list_of_runs_is_refused(given, problem):
    with pytest.raises(ConfigError) as refused:
        points(given)
    assert any(line.startswith(problem) or problem in line for line in refused.value.problems)
    assert all("\n" not in line for line in refused.value.problems)


def test_without_hydra_several_runs_are_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "dist_condense.settings.composing", None)
    with pytest.raises(ConfigError, match="install hydra-core"):
        points(["seed=0,1"])
