"""A wrong value is one line that names its key, and hides no other problem of the config."""

import os
from pathlib import Path

import pytest

from dist_condense.job import preflight
from dist_condense.settings import checks, run_folder
from dist_condense.settings.config import ConfigError, RunConfig, from_dict, load
from dist_condense.settings.keys import KEYS, refused, value, without
from dist_condense.system.credentials import revealed

LOCAL = ["cluster.workers=0", "cluster.device=cpu", "evaluation.sets=[condensed]"]


def problems(tmp_path: Path, *overrides: str) -> list[str]:
    """Return the problems that a run reports."""
    try:
        loaded, known = load("configs/digits.yaml", [f"output={tmp_path}/run", *LOCAL, *overrides]), []
    except ConfigError as error:
        loaded, known = error.rest, error.problems
    with pytest.raises(ConfigError) as raised:
        preflight.check(loaded, known)
    return raised.value.problems


@pytest.mark.parametrize(
    ("overrides", "lines"),
    [
        (["dataset.size=1000000000"], ["dataset.size: 1000000000 is not in the range 1 to 65536"]),
        (["network.width=0"], ["network.width: 0 is not in the range 1 to 8192"]),
        (["dataset.channels=-1"], ["dataset.channels: -1 is not in the range 1 to 3"]),
        (["dataset.mean=[nan]", "dataset.std=[1]"], ["dataset.mean: nan is not in the range -1000000 to 1000000"]),
        (
            ["method.procedure=selecting", "method.selection.name=herdng"],
            ["method.selection.name: 'herdng' is not one of random, herding; did you mean herding?"],
        ),
        (
            ["method.augmentation.one_of=[flip,flop,flup]"],
            [
                "method.augmentation.one_of: 'flop' is not one of flip, color, crop, scale, rotate, cutout; "
                "did you mean flip? (and 1 more in the list)"
            ],
        ),
        (
            ["network.norm=bach", "ipc=0", "evaluation.architectures=[convnet:width=0]"],
            [
                "ipc: 0 is not in the range 1 to 100000",
                "network.norm: 'bach' is not one of none, batch, instance, group, layer; did you mean batch?",
                "evaluation.architectures: convnet: width is '0'; give a whole number in the range 1 to 8192",
            ],
        ),
        (
            ["seed=x", "network.name=convnt"],
            [
                "seed: 'x' does not fit; expected int",
                "network.name: no network 'convnt' (did you mean 'convnet'?); there",
            ],
        ),
        (
            ["method=herdng", "training=reel", "ipc=x", "training.lr=0"],
            [
                "method/herdng was not found; ",
                "training/reel was not found; ",
                "ipc: 'x' does",
                "training.lr: 0.0 is not",
            ],
        ),
        (["ipc={}", "seed=0", "dataset={}"], ["ipc: {} does not fit; expected int or {NAME: int}"]),
        (["output=" + "a" * 300], [f"output: '{'a' * 119}... has a name of more than 255 bytes"]),
        (["tracking.experiment=" + "a" * 5000], [f"tracking.experiment: '{'a' * 119}... has 5000 characters; give"]),
    ],
)
def test_one_line_for_each_wrong_value(overrides: list[str], lines: list[str], tmp_path: Path) -> None:
    found = problems(tmp_path, *overrides)
    assert len(found) == len(lines), found
    assert all(line.startswith(start) for line, start in zip(found, lines, strict=True)), found


def test_a_wrong_group_is_followed_by_the_closest_name(tmp_path: Path) -> None:
    (line,) = problems(tmp_path, "method=herdng")
    assert line.endswith("choose one of dc, dcc, dm, dsa, dsac, herding, idc, idc_i, random; did you mean herding?")


@pytest.mark.parametrize("named", ["'???'", "nothing"])
def test_so_is_one_that_replaces_a_name_of_no_file(named: str, tmp_path: Path) -> None:
    """The file cannot be composed without the command's group, which is no fault of the file."""
    (tmp_path / "c.yaml").write_text(f"defaults: [{{method: {named}}}, _self_]\nipc: 3\n")
    assert load(str(tmp_path / "c.yaml"), ["method=dcc"]).ipc == 3
    with pytest.raises(ConfigError, match=r"^method/dccc was not found; .*; did you mean dcc\?$"):
        load(str(tmp_path / "c.yaml"), ["method=dccc"])


def test_a_wrong_file_is_no_fault_of_the_group(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("ipc: [\n")
    with pytest.raises(ConfigError, match=r"^[^\n]*c.yaml, line 2: [^\n]*$"):
        load(str(tmp_path / "c.yaml"), ["method=dccc"])


def test_a_group_that_the_file_does_not_name_has_no_similar_name(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("ipc: 3\n")
    with pytest.raises(ConfigError, match=r"^method: the defaults of \S+ name no method to replace; give \S+$"):
        load(str(tmp_path / "c.yaml"), ["method=dccc"])


@pytest.mark.parametrize("key", ["dataset.root", "data.cache", "tracking.checkpoints"])
def test_only_names_on_this_machine_are_bounded(key: str) -> None:
    url = f"https://account.blob.core.windows.net/container/imagenet?sv=2024&sig={'a' * 300}"
    section, name = key.split(".")
    assert revealed(getattr(getattr(from_dict({key: url}), section), name)) == url
    assert from_dict({key: "a" * 255}) and from_dict({key: f"s3://bucket/{'a' * 300}"})
    with pytest.raises(ConfigError, match=f"^{key}: .* has a name of more than 255 bytes"):
        from_dict({key: f"/data/{'a' * 256}"})


def test_a_zero_byte_is_in_no_text() -> None:
    with pytest.raises(ConfigError, match=r"^dataset.root: 'a\\x00b' has a zero byte, which no name or path has"):
        from_dict({"dataset.root": "a\0b"})


def test_refused_values_are_replaced_by_defaults() -> None:
    config = from_dict({"ipc": 0, "method.images.lr": -1.0, "seed": 7})
    screened, lines = checks.screened(config, ["output: known"])
    assert lines == ["output: known", *refused(config).values()] and len(lines) == 3
    assert (screened.ipc, screened.method.images.lr, screened.seed) == (1, 0.1, 7)
    assert (config.ipc, config.method.images.lr) == (0, -1.0)  # the config itself is kept
    assert without(config, KEYS) == RunConfig()
    assert all(value(without(config, [name]), name) == key.default for name, key in KEYS.items())


def test_a_check_of_a_replaced_value_is_no_problem() -> None:
    found = ["dataset.mean, dataset.std: give both, or neither", "ipc: few", "network: convnet: width"]
    assert checks.joined(["dataset.std: 0 is", "network.width: 0 is"], found) == [
        "dataset.std: 0 is",
        "network.width: 0 is",
        *found[1:],
    ]


def test_an_output_folder_is_searched_only_where_a_run_opens_it(tmp_path: Path) -> None:
    """The folder may be the root of the file system."""
    for name in ("other", "logs"):
        (tmp_path / name / "deep").mkdir(parents=True)
        os.mkfifo(tmp_path / name / "deep" / "pipe")
    (tmp_path / "link").symlink_to("other")
    found = list(run_folder.problems(tmp_path))
    assert [line.split(" is ")[0] for line in found] == [str(tmp_path / "link"), str(tmp_path / "logs/deep/pipe")]
