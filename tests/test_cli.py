"""The commands answer --help, list what there is, and refuse in one line."""

import json

import pytest

from dist_condense import cli, config
from dist_condense.engine import checkpoint


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--help"], ["run", "evaluate", "list", "replay"]),
        (["run", "--help"], ["--cfg", "key=value"]),
        (["evaluate", "--help"], ["output", "key=value", "evaluation."]),
        (["list", "--help"], ["name"]),
        (["replay", "--help"], ["--uri", "--experiment", "output"]),
    ],
)
def test_help(arguments, words, capsys):
    try:
        code = cli.main(arguments)
    except SystemExit as done:
        code = done.code
    said = capsys.readouterr().out
    assert code == 0
    assert [word for word in words if word not in said] == []


def test_run_is_the_main_command(capsys):
    assert cli.main(["run", "configs/digits.yaml", "seed=7", "--cfg"]) == 0
    assert "seed: 7\n" in capsys.readouterr().out
    assert cli.main(["run", "configs/digits.yaml", "sede=7"]) == 2
    assert "sede: unknown key; did you mean seed?" in capsys.readouterr().err


def test_list_names_everything(capsys):
    assert cli.main(["list"]) == 0
    said = capsys.readouterr().out.split()
    wanted = ["digits", "cifar10", "imagenet100_idc", "convnet", "resnet10_ap", "dsac", "idc_i", "frozen"]
    wanted += ["layerwise_cosine", "idc_imagenet100", "configs/fashion_mnist_dc.yaml"]
    assert [word for word in wanted if word not in said] == []


def test_a_misspelt_option_is_refused(capsys):
    with pytest.raises(SystemExit) as done:
        cli.main(["replay", "folder", "--url=x"])
    assert done.value.code == 2 and "--url=x" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["evaluate", "replay"])
def test_what_is_no_run_is_refused(command, tmp_path, capsys):
    assert cli.main([command, str(tmp_path / "nothing")]) == 2
    assert f"{tmp_path}/nothing is not the folder of a run" in capsys.readouterr().err


@pytest.fixture
def run(tmp_path):
    """A run's folder, made elsewhere and moved, without a set."""
    made = config.from_dict({"output": "/elsewhere", "trajectory": {"networks": 3}, "evaluation": {"seeds": 5}})
    (tmp_path / "config.yaml").write_text(config.to_yaml(made))
    return tmp_path


def write_card(run, complete):
    (run / "synthetic_set").mkdir()
    fields = {"method": "dc", "dataset": "digits", "classes": [], "ipc": 1, "channels": 1, "size": 8}
    fields |= {"value_space": "normalised", "mean": [0], "std": [1], "factor": 1, "seed": 0, "networks_done": 2}
    fields |= {"networks_total": 3, "matching_steps": 1, "steps": 3 if complete else 2, "complete": complete}
    (run / "synthetic_set" / "card.json").write_text(json.dumps({**fields, "format_version": 1}))


def refusal(run, *overrides):
    with pytest.raises(config.ConfigError) as refused:
        cli.finished(cli.run_folder(str(run)), overrides)
    return str(refused.value)


def test_only_a_finished_run_is_evaluated_again(run, monkeypatch):
    assert "no synthetic set" in refusal(run) and "continues it" in refusal(run)
    write_card(run, complete=False)
    assert "step 2 of 3" in refusal(run)


def test_a_finished_run_takes_evaluation_keys_only(run, monkeypatch):
    write_card(run, complete=True)
    assert "condense again" in refusal(run)  # a set without its checkpoint
    newest = type("Newest", (), {"steps": 3})()
    monkeypatch.setattr(checkpoint, "newest", lambda folder: newest)
    assert "ipc=2: a finished run takes only" in refusal(run, "ipc=2", "evaluation.seeds=2")
    assert "evaluation.epochs: 0" in refusal(run, "evaluation.epochs=0")
    made = cli.finished(cli.run_folder(str(run / "synthetic_set")), ["evaluation.architectures=[vgg11,lenet]"])
    assert made.evaluation.architectures == ["vgg11", "lenet"] and made.evaluation.seeds == 5
    assert made.output == str(run)
