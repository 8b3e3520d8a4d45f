"""The commands print help, list all names, and refuse in one line."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dist_condense.commands import arguments, cli, run_command
from dist_condense.data import DataError
from dist_condense.evaluation import evaluate
from dist_condense.evaluation.rows import Row, append_csv, read_csv
from dist_condense.job import checkpoint
from dist_condense.job.claim import Claim
from dist_condense.job.comparing import Comparison
from dist_condense.job.job import Job
from dist_condense.result.card import Card, CardClass
from dist_condense.result.synthetic_set import write_set
from dist_condense.settings import config, names
from dist_condense.settings.run_folder import RunFolder


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--help"], ["run", "check", "prepare", "plan", "evaluate", "export", "compare", "list", "replay"]),
        (["run", "--help"], ["--cfg", "key=value"]),
        (["evaluate", "--help"], ["SET", "key=value", "evaluation.", "--dataset", "--space"]),
        (["compare", "--help"], ["--by", "--format", "OUTPUT", "examples:"]),
        (["list", "--help"], ["name"]),
        (["prepare", "--help"], ["SOURCE", "DEST", "cifar10:/data", "{0000..0146}", "--size", "--ffcv", "--ray"]),
        (["check", "--help"], ["config", "key=value", "examples:"]),
        (["plan", "--help"], ["--gpus", "--calibration", "key=value"]),
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


def test_a_checkout_below_a_folder_of_any_name_starts(tmp_path):
    checkout = tmp_path / "it's (a) [b]=#&, {c}" / "é🎉\\"
    checkout.mkdir(parents=True)
    for name in ("dist_condense", "configs"):
        (checkout / name).symlink_to(Path(__file__).parents[2] / name)
    # The package finds its configs from where it really lies; only a copy would lie below the odd folder.
    code = "import sys\nfrom pathlib import Path\nfrom dist_condense.commands import cli\n"
    code += "from dist_condense.settings import config\n"
    code += "config.PACKAGE = Path.cwd() / 'dist_condense'\nsys.exit(cli.main(sys.argv[1:]))"
    given = ["run", "configs/digits.yaml", "method=idc", "dataset.root=My Pictures (1)", "--cfg"]
    done = subprocess.run([sys.executable, "-c", code, *given], cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0 and "root: My Pictures (1)\n" in done.stdout, done.stderr


def test_what_to_know_besides_a_refusal_is_a_note(tmp_path, capsys):
    given = ["run", "configs/digits.yaml", f"output={tmp_path}/run", "cluster.workers=3"]
    assert cli.main([*given, "cluster.timeout=0"]) == 2
    refused, note = capsys.readouterr().err.splitlines()
    assert refused == "refused: cluster.timeout: 0.0 is not in the range 1 to 10000000"
    assert note.startswith("note: cluster.workers is not compared")
    assert cli.main([*given, "ipc=0"]) == 2
    assert capsys.readouterr().err == "refused: ipc: 0 is not in the range 1 to 100000\n"


def test_list_names_everything(capsys):
    assert cli.main(["list"]) == 0
    said = capsys.readouterr().out.split()
    wanted = ["digits", "cifar10", "imagenet100_idc", "convnet", "resnet10_ap", "dsac", "idc_i", "frozen"]
    wanted += ["layerwise_cosine", "idc_imagenet100", "configs/fashion_mnist_dc.yaml"]
    wanted += ["embedding", "convolutions", "kmeans", "cutout", "mixed", "bounded", "pool", "epochs", "full", "cuda"]
    wanted += ["(method.statistic.name)", "(method.augmentation.always,", "method.augmentation.one_of)", "timm:NAME"]
    assert [word for word in wanted if word not in said] == []


def test_list_explains_the_names_of_a_table(capsys):
    assert cli.main(["list", "networks", "method.distance"]) == 0
    titles = [line for line in capsys.readouterr().out.splitlines() if line[0] != " "]
    assert titles[0] == "networks (network.name, evaluation.architectures)" and "distances (method.distance)" in titles
    assert cli.main(["list", "evaluation.protocol"]) == 0
    title, first, *_ = capsys.readouterr().out.splitlines()
    assert title == "evaluation protocols (evaluation.protocol)"
    assert first.startswith("  dc                 DC (Zhao et al. 2021): 300 epochs")
    assert cli.main(["list", "networks", "quux"]) == 2
    assert capsys.readouterr().err.startswith("refused: no table is called quux; ")


EXPLAINED = ["shipped configs", "data sets", "networks", "recipes, all of a paper's method", "methods, what is matched"]
EXPLAINED += ["distances", "augmentation operations", "evaluation protocols", "decodings"]


def test_every_name_is_explained(capsys):
    """By itself, or where that is enough, by the meaning of its key."""
    tables = {table.title: table for table in names.listed()}
    assert [title for title in EXPLAINED if not all(tables[title].names.values())] == []
    tables.pop("options of networks")  # lenet has none
    assert [title for title, table in tables.items() if not table.about and not all(table.names.values())] == []


@pytest.mark.parametrize("command", [*arguments.EXAMPLES])
def test_examples_of_help_are_commands(command, capsys):
    with pytest.raises(SystemExit) as done:
        cli.main([*command.split(), "--help"])
    said = capsys.readouterr().out
    assert done.value.code == 0 and "\nexamples:\n" in said
    parsers = {
        "run": arguments.run_parser,
        "plan": arguments.plan_parser,
        "evaluate": arguments.evaluate_parser,
        "check": arguments.check_parser,
    }
    for example in arguments.EXAMPLES[command]:
        words = f"{command} {example}".split()
        assert f"  dist-condense {' '.join(words)}\n" in said
        if words[0] in parsers:
            assert parsers[words[0]]().parse_intermixed_args(words[1:])
        else:
            assert arguments.parser().parse_args(words).command == words[0]


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
    """Create the folder of a run without a set that was made elsewhere and moved."""
    made = config.from_dict({"output": "/elsewhere", "trajectory": {"networks": 3}, "evaluation": {"seeds": 5}})
    (tmp_path / "config.yaml").write_text(config.to_yaml(made))
    return tmp_path


def write_card(run, complete):
    card = Card(
        method="dc", dataset="digits", classes=(CardClass(0, "0"),), ipc=1, channels=1, size=8,
        value_space="normalised", mean=(0.0,), std=(1.0,), factor=1, seed=0,
        steps=3 if complete else 2, complete=complete,
    )  # fmt: skip
    write_set(run / "synthetic_set", torch.zeros(1, 1, 8, 8), torch.zeros(1, dtype=torch.int64), card)


def refusal(run, *overrides):
    with pytest.raises(config.ConfigError) as refused:
        run_command.finished(run_command.run_folder(str(run)), overrides)
    return str(refused.value)


def test_only_a_finished_run_is_evaluated_again(run, monkeypatch):
    assert "no synthetic set" in refusal(run) and "continues it" in refusal(run)
    write_card(run, complete=False)
    assert "is incomplete (step 2)" in refusal(run)


def test_a_damaged_set_is_not_evaluated(run):
    write_card(run, complete=True)
    with (run / "synthetic_set" / "synthetic_set.safetensors").open("ab") as file:
        file.write(b"x")
    (line,) = refusal(run).splitlines()
    assert "synthetic_set.safetensors, header: its tensors have" in line and "continues it" in line


def test_a_finished_run_takes_evaluation_keys_only(run, monkeypatch):
    write_card(run, complete=True)
    assert "compute again" in refusal(run)  # a set without its checkpoint
    newest = type("Newest", (), {"steps": 3})()
    monkeypatch.setattr(checkpoint, "newest", lambda store: newest)
    assert "ipc=2: a finished run takes only" in refusal(run, "ipc=2", "evaluation.seeds=2")
    assert "evaluation.epochs: 0" in refusal(run, "evaluation.epochs=0")
    made = run_command.finished(
        run_command.run_folder(str(run / "synthetic_set")), ["evaluation.architectures=[vgg11,lenet]"]
    )
    assert made.evaluation.architectures == ["vgg11", "lenet"] and made.evaluation.seeds == 5
    assert made.output == str(run)


def test_the_report_has_the_rows_that_there_are_when_a_trial_fails(tmp_path, monkeypatch, capfd):
    whole = evaluate.run_trial

    def first_fails(trial, evaluation):
        if trial.seed == 0:
            raise RuntimeError("out of memory")
        return whole(trial, evaluation)

    keys = ("trajectory.networks=1", "trajectory.matching_steps=1", "evaluation.seeds=2", "evaluation.epochs=1")
    sets = ("evaluation.sets=[condensed]", "network.width=4", "network.depth=2", "method.real_batch=8", "ipc=1")
    more = ("cluster.workers=0", f"output={tmp_path}", "tracking.uri=http://127.0.0.1:9")
    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "run_trial", first_fails)
        assert cli.main(["run", "configs/digits.yaml", *keys, *sets, *more]) == cli.FAILED
    reported = capfd.readouterr().err
    assert "failed: evaluation: 1 of 2 trials failed:" in reported
    assert "condensed / convnet:width=4:depth=2 / seed 0: RuntimeError: out of memory" in reported
    (row,) = read_csv(tmp_path / "evaluation.csv")
    report = (tmp_path / "report.html").read_text()
    assert row.seed == 1 and 'title="seed 1"' in report and 'title="seed 0"' not in report
    assert cli.main(["run", "configs/digits.yaml", *keys, *sets, *more]) == 0
    assert 'title="seed 0"' in (tmp_path / "report.html").read_text()
    (tmp_path / "report.html").unlink()
    monkeypatch.setattr(Comparison, "_test_reading", gone)
    assert cli.main(["run", "configs/digits.yaml", *keys, *sets, *more]) == cli.FAILED
    assert "failed: the test images are gone" in capfd.readouterr().err
    assert 'title="seed 1"' in (tmp_path / "report.html").read_text()


def gone(self):
    raise DataError(["the test images are gone"])


def test_the_table_has_earlier_rows_too(tmp_path, capfd):
    first = [
        Row(
            set="condensed",
            protocol="dc",
            architecture="convnet",
            seed=seed,
            epochs=6,
            top1_last=60.0 + seed,
            top1_best=70.0,
        )
        for seed in (0, 1)
    ]
    latest = [
        Row(set="random", protocol="dc", architecture="convnet", seed=0, epochs=6, top1_last=20.0, top1_best=30.0)
    ]
    append_csv(tmp_path / "evaluation.csv", [*first, *latest])
    run = SimpleNamespace(folder=tmp_path, files=RunFolder(tmp_path), claim=Claim.present(tmp_path))
    Job._report(run, latest, SimpleNamespace(log_artifacts=lambda path: None))
    lines = [" ".join(line.split()) for line in capfd.readouterr().err.splitlines()]
    assert lines[1:] == ["random convnet 20.0 (1)", "condensed convnet 60.5 ± 0.7 (2)"]


NOT_TEXT = "caf\udce9"  # as Python reads a byte that is no UTF-8


@pytest.mark.parametrize(
    ("given", "reported"),
    [
        ([f"method.name={NOT_TEXT}"], r"method.name: 'caf\udce9' is not UTF-8"),
        (
            [f"dataset.classes=[a,{NOT_TEXT}]"],
            r"dataset.classes: '[a,caf\udce9]' cannot be read: unacceptable character",
        ),
        (["evaluation.sets=[]"], "evaluation.sets: names none; name one, or set evaluation.epochs=0"),
        (["evaluation.architectures=[]"], "evaluation.architectures: names none"),
        (["network.name=resnet18_cifar"], "unset options that the config sets: network.depth=null"),
    ],
)
def test_what_would_fail_at_the_end_is_refused_at_the_start(given, reported, capsys, tmp_path):
    assert cli.main(["run", "configs/digits.yaml", "cluster.workers=0", f"output={tmp_path / 'run'}", *given]) == 2
    assert reported in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_working_directory_that_is_not_utf8_is_refused(monkeypatch, tmp_path, capsys):
    place = tmp_path / NOT_TEXT
    place.mkdir()
    monkeypatch.chdir(place)
    assert cli.main(["run", str(Path(__file__).parents[2] / "configs/digits.yaml"), "output=run"]) == 2
    assert r"caf\xe9/run is not UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["evaluate", ""], ["compare", ""], ["replay", ""], ["prepare", "source", ""], ["prepare", "", "dest"]]
)
def test_an_empty_text_is_no_folder(arguments, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):  # argparse's
        sys.exit(cli.main(arguments))
    assert "empty" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"a: [", b"a:\n\tb: 1\n", b"caf\xe9: 1\n", b"", b"- 1\n"])
def test_replay_of_what_is_no_config_is_one_line(content, tmp_path, capsys):
    (tmp_path / "config.yaml").write_bytes(content)
    assert cli.main(["replay", str(tmp_path)]) == 2
    reported = capsys.readouterr().err
    assert reported.startswith(f"refused: {tmp_path}/config.yaml") and reported.count("\n") == 1
