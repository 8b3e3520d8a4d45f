"""Old names of keys stand for the new ones: on the command line, in files, and in the files of earlier versions."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from dist_condense.engine.coordinator import LocalCoordinator
from dist_condense.evaluation.rows import Row, append_csv, read_csv
from dist_condense.job import checkpoint, worker
from dist_condense.job.job import Job
from dist_condense.settings import config
from dist_condense.settings.config import ConfigError, differences, from_dict, identity
from dist_condense.settings.keys import KEYS, RENAMED
from dist_condense.settings.schema import DataConfig
from dist_condense.system.storage import Folder
from tests.engine import cases

MOVED = ("slices", "threads", "reproducible")
SAME = [
    (["cluster.slices=3"], ["compute.slices=3"]),
    (["cluster={threads: 2, reproducible: off}"], ["compute.threads=2", "compute.reproducible=false"]),
    (["evaluation.whole_epochs=7"], ["evaluation.full_epochs=7"]),
    (["data.source=files", "data.tier=disk"], ["data.tier=disk"]),
    (["data.source=ffcv", "data.tier=disk"], ["data.tier=ffcv"]),
    (
        ["method.parameterisation.decoding=bounded", "method.parameterisation.budget=64"],
        ["method.parameterisation.decoding=bounded", "method.synthetic_limit=64"],
    ),
    # It had no effect on the other decodings.
    (["method.parameterisation.budget=64", "method.synthetic_limit=5"], ["method.synthetic_limit=5"]),
]


def digits(*given: str) -> config.RunConfig:
    return config.load("configs/digits.yaml", given)


def test_the_old_name_of_a_set_in_the_files_of_earlier_versions(tmp_path):
    """`whole` is `full` now, in config.yaml and in evaluation.csv."""
    made = digits("evaluation.sets=[random,full]")
    (tmp_path / "old.yaml").write_text(config.to_yaml(made).replace("- full", "- whole"))
    assert "- whole" in (tmp_path / "old.yaml").read_text() and config.read(tmp_path / "old.yaml") == made
    row = Row(set="full", protocol="dc", architecture="mlp", seed=0, epochs=1, top1_last=50.0, top1_best=None)
    append_csv(tmp_path / "evaluation.csv", [row])
    file = tmp_path / "evaluation.csv"
    file.write_text(file.read_text().replace("full,", "whole,"))
    assert read_csv(file) == [row]


def test_a_new_name_is_a_key_and_an_old_one_is_not():
    assert {entry.name for entry in RENAMED.values()} <= KEYS.keys()
    assert not RENAMED.keys() & KEYS.keys()


@pytest.mark.parametrize(("old", "new"), SAME)
def test_an_old_name_on_the_command_line_and_in_a_file(old, new, tmp_path, capsys):
    made = digits(*old)
    told = capsys.readouterr().err
    assert made == digits(*new) and capsys.readouterr().err == ""
    lines = [f"note: {key} is called {RENAMED[key].name} now" for key in RENAMED if key.split(".")[-1] in str(old)]
    assert [line.partition(";")[0] for line in told.splitlines()] == lines
    (tmp_path / "mine.yaml").write_text(config.to_yaml(digits(*new)))
    with (tmp_path / "old.yaml").open("w") as file:
        yaml.safe_dump(dict(text.split("=") for text in old if "{" not in text), file)
    if "{" not in old[0]:
        assert config.load(str(tmp_path / "mine.yaml"), old) == digits(*new)
        assert from_dict(yaml.safe_load((tmp_path / "old.yaml").read_text())) == from_dict(
            dict(text.split("=") for text in new)
        )


def test_what_is_typed_comes_before_what_a_file_says_under_either_name(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("cluster: {slices: 4}\ncompute: {threads: 4}\ndata: {source: ffcv, threads: '${cluster.slices}'}\n")
    assert config.load(str(file)).data == DataConfig(tier="ffcv", threads=4)
    made = config.load(str(file), ["compute.slices=2", "cluster.threads=2", "data.tier=ram"])
    assert (made.compute.slices, made.compute.threads, made.data.tier) == (2, 2, "ram")


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (
            {"cluster.slices": 2, "compute.slices": 3},
            "cluster.slices: 2, but compute.slices, which replaces it, is 3; give compute.slices only",
        ),
        (
            {
                "method.parameterisation.decoding": "bounded",
                "method.parameterisation.budget": 64,
                "method.synthetic_limit": 128,
            },
            "method.parameterisation.budget: 64, but method.synthetic_limit, which replaces it, is 128; "
            "give method.synthetic_limit only",
        ),
    ],
)
def test_both_names_with_different_values_are_refused(given, line):
    with pytest.raises(ConfigError) as refused:
        from_dict(given)
    assert refused.value.problems == [line]
    assert line in differences(given, identity(from_dict({})))


def before(stored: dict) -> dict:
    """Return a stored config under the old names."""
    stored["cluster"] |= {key: stored["compute"].pop(key) for key in MOVED}
    stored["data"]["source"] = "files"
    stored["method"]["parameterisation"]["budget"] = 128
    return stored


def test_a_run_of_the_version_before_goes_on_to_the_same_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    stated = ("compute.slices=3", "compute.threads=1", "compute.reproducible=true")
    whole = cases.alone("dc", tmp_path / "whole", *stated)
    folder, store = tmp_path / "run", Folder(tmp_path / "run" / "checkpoints")
    cases.first_steps("dc", 2, folder, *stated)
    found = checkpoint.newest(store)
    assert found is not None and found.steps == 2
    old = {
        key.replace("compute.", "cluster.") if key.endswith(MOVED) else key: x
        for key, x in found.state.identity.items()
    }
    old["method.parameterisation.budget"] = 128
    checkpoint.commit(store, replace(found.state, identity=old), found.entries)
    (folder / "config.yaml").write_text(
        yaml.safe_dump(before(config.to_dict(cases.load("dc", f"output={folder}", *stated))))
    )
    capsys.readouterr()

    again = digits(*cases.TINY, *cases.CASES["dc"], f"output={folder}", "cluster.workers=0")
    job = Job.prepare(again)
    assert job.start is not None and job.start.steps == 2
    later = {
        "second_derivative": "reverse",
        "cudnn_benchmark": False,
        "deterministic": False,
        "microbatch": 0,
    }  # keys that the version before had not
    assert job.config.compute == replace(cases.load("dc", *stated).compute, **later)
    assert "is called" not in capsys.readouterr().err  # nobody typed it
    worker.work(job.config, LocalCoordinator(), torch.device("cpu"))
    assert torch.equal(cases.result(folder), whole)
    with pytest.raises(ConfigError, match=r"compute.slices: 3 there, 2 now"):
        Job.prepare(digits(*cases.TINY, *cases.CASES["dc"], f"output={folder}", "cluster.slices=2"))
