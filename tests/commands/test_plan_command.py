"""`dist-condense plan`: every shipped config is planned without its data; all problems are refused at once."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dist_condense.commands import cli, plan_command
from dist_condense.core.program import CannotCompile
from dist_condense.engine.errors import RunFailed
from dist_condense.planning.calibrate import compared
from dist_condense.planning.images import assumed
from dist_condense.planning.workload import workload_of
from dist_condense.settings import config
from dist_condense.settings.microbatch import PROCESS, Room, fitting
from tests.planning.cases import RATES

ROOT = Path(__file__).parents[2]
NAMES = sorted(file.stem for file in config.shipped().glob("*.yaml"))
ROOTS = ("IMAGENET_ROOT", "IMAGENETTE_ROOT", "MINIIMAGENET_ROOT", "CIFAR10_ROOT", "CIFAR100_ROOT", "FASHION_MNIST_ROOT")
FLOAT32 = ["compute.autocast=false", "compute.compile=false"]
SMALL = ["network.width=4", "network.depth=2", "method.real_batch=8", "compute.threads=1"]


@pytest.fixture(autouse=True)
def no_data(monkeypatch):
    for name in (*ROOTS, "DIST_CONDENSE_WORKERS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def rates(tmp_path):
    """Return a function that writes invented rates for a config and returns the option with the file."""

    def write(path, *keys):
        loaded = config.load(path, keys)
        data = assumed(loaded, 10, 100)
        file = tmp_path / "rates.json"
        replace(RATES, compared=compared(loaded, data, workload_of(loaded, data))).write(file)
        return f"--calibration={file}"

    return write


def reported(capsys, *arguments):
    code = cli.main(["plan", *arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_config_plans_without_its_data(name, rates, capsys):
    path = f"configs/{name}.yaml"
    folder = ["--classes=100", "--images-per-class=90"] if "imagenette" in name or "mini" in name else []
    code, out, _ = reported(capsys, path, rates(path), "--gpus=8", "--gpu-memory=80", "--json", *folder)
    made = json.loads(out)
    assert code == 0 and made["does_not_fit"] == [] and made["room"] == 80 * 2**30
    assert made["chosen"]["workers"] == 8 and made["cluster"] == {
        "device": "cuda", "exact": False, "bandwidth": 2**30, "resident": False, "latency": 5e-4,
        "inside": None, "node": 8, "overlap": 0.0,
    }  # fmt: skip
    assert made["chosen"]["most"] == -(-made["workload"]["classes"] // 8)
    assert any("no GPU was measured" in remark for remark in made["remarks"])
    compiles = config.load(path).compute.compile and made["workload"]["steps"] > 0
    assert any("compiling" in remark for remark in made["remarks"]) == compiles
    assert {8, made["workload"]["classes"], made["best_workers"]} <= {found["workers"] for found in made["others"]}


@pytest.fixture
def no_timing(monkeypatch):
    """Fail if a step is timed."""
    monkeypatch.setattr("dist_condense.planning.timing.Stopwatch.seconds", None)


def test_a_known_gpu_is_planned_for_without_timing_and_says_what_is_assumed(no_timing, capsys):
    keys = ["--gpu=h100", "--gpus=64", "--classes=1000", "--images-per-class=500", "ipc=1", "method.real_batch=64"]
    code, out, err = reported(capsys, "configs/cifar100_idc.yaml", *keys, "--share=0.2", *FLOAT32)
    assert code == 0 and "timing" not in err and "nothing is timed" in err
    assert out.startswith("warning: the times hold for compute.autocast=true; in float32, as this config computes,")
    for words in (
        "rates: assumed, not measured: 20% of the 798 TFLOP/s of an NVIDIA H100",
        "15 to 16 (balance 98%)",
        "of 79.0 GiB",
        "the share is assumed; augmentation and decoding",
        "assumed of launches: 5 us for a kernel. So at least",
        "evaluation, 6 networks",
        "checkpoints, the newest 2",
        "assumed of a collective: 0.0001 s, and its bytes at 25 GB/s per worker; nothing overlaps with it",
    ):
        assert words in out
    code, out, _ = reported(capsys, "configs/cifar100_idc.yaml", *keys, "--json", "compute.autocast=true")
    made = json.loads(out)
    assert made["rates"]["share"] == 0.4 and made["cluster"]["inside"] == 2e11 and made["cluster"]["latency"] == 1e-4
    assert made["chosen"]["total"] == made["chosen"]["seconds"] + made["chosen"]["evaluating"]
    assert set(made["step_efficiency"]) == {"divided", "overlapped", "everywhere"}
    assert not any("compute.autocast=true" in line for line in made["remarks"])


def test_a_stated_rate_is_planned_for_without_timing(no_timing, capsys):
    code, out, err = reported(capsys, "configs/digits.yaml", "--rate=1000", *SMALL)
    assert code == 0 and "timing" not in err and "rates: stated, not measured: 1000 real images/s" in out
    code, out, _ = reported(capsys, "configs/digits.yaml", "--rate=1000", "method=random", "ipc=5", "--json")
    made = json.loads(out)["chosen"]
    assert code == 0 and made["seconds"] is None and made["total"] == made["evaluating"] > 0


def test_the_table_is_for_people(rates, capsys):
    path = "configs/cifar10_dcc.yaml"
    code, out, _ = reported(capsys, path, rates(path), "--rate=100", "cluster.workers=4", "ipc=2")
    for words in (
        "dcc on cifar10: 10 classes, 2 images each, 32 px, convnet; units: 1,000 networks x 10 matching steps",
        "stated: 100 real images/s",
        "4 workers",
        "classes per worker",
        "2 to 3 (balance 83%)",
        "slices divided among workers",
        "all slices on every worker",
        "all-reduced per matching step",
        "best number of workers:",
        "evaluation, 40 networks",
        "50,000 real images and 10,000 test images are assumed",
    ):
        assert words in out
    assert code == 0


@pytest.mark.parametrize("gpus", [1, 8, 64])
def test_the_tables_fit_into_80_columns(gpus, rates, capsys, monkeypatch):
    """A row that does not fit would be continued on a line with a name or a value alone."""
    monkeypatch.setenv("COLUMNS", "80")
    path, groups = "configs/cifar100_dcc.yaml", ["trajectory.start=pool", "trajectory.pretrain_epochs=3"]
    code, out, _ = reported(capsys, path, rates(path), f"--gpus={gpus}", "--gpu-memory=80", *groups)
    header, *rows = [line.rstrip() for line in out.splitlines() if line.startswith(" ")]
    assert code == 0 and f"{gpus} GPU" in header and len(rows) > 25
    assert all(len(row) <= 80 and re.search(r"\S {2,}\S", row) for row in rows)


def test_texts_fill_the_lines_of_a_terminal_and_are_one_line_elsewhere(rates, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    path = "configs/cifar100_dcc.yaml"
    arguments = path, rates(path), "--gpus=8", "--gpu-memory=80"
    _, plain, _ = reported(capsys, *arguments)
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda self: True)
    monkeypatch.setattr("rich.console.Console.is_terminal", False)
    _, shown, _ = reported(capsys, *arguments)
    assert max(map(len, plain.splitlines())) > 80 >= max(map(len, shown.splitlines()))
    assert shown.split() == plain.split() and "\n  " in shown[shown.index("- ") :]


def test_a_selection_has_the_time_of_its_training_or_none(rates, capsys):
    path = "configs/cifar10_dc.yaml"
    keys = ["method=herding", "ipc=50", "cluster.workers=2"]
    code, out, _ = reported(capsys, path, rates(path, "method=herding"), *keys)
    assert code == 0 and "training theta" in out and "matching" not in out and "units: 10 classes" in out
    assert "not estimated: the time of reading 50,000 for features and 500 real images for the set" in out
    code, out, _ = reported(capsys, path, rates(path, "method=random"), "method=random", "ipc=50", "--json")
    made = json.loads(out)
    assert code == 0 and made["chosen"]["seconds"] is None and made["others"] == []
    assert made["chosen"]["total"] == made["chosen"]["evaluating"] > 0
    assert any("reading 500 real images for the set; no network is trained" in line for line in made["remarks"])


def test_data_that_are_opened_are_checked_as_by_a_run(capsys):
    keys = ["method.start=mixed", "method.parameterisation.factor=2", "ipc=50"]
    code, _, err = reported(capsys, "configs/digits.yaml", *keys)
    assert code == cli.REFUSED and "method.start: mixed needs more real images than there are of 0 (143 of 200)" in err
    assert "timing" not in err


def test_what_is_not_read_by_a_selection_is_not_measured_nor_compared(capsys):
    keys = ["method=random", "method.grouping.name=given", "cluster.device=cuda", "ipc=5"]
    code, out, _ = reported(capsys, "configs/digits.yaml", *keys)
    assert code == 0 and "no network is trained" in out and "rates:" not in out
    assert "not estimated: the time of the evaluation" in out
    code, out, err = reported(capsys, "configs/digits.yaml", "method=herding", "--rate=100")
    assert code == 0 and "training theta" in out and "timing" not in err


def test_a_selection_takes_the_rates_of_any_matching(rates, capsys):
    path = "configs/cifar10_dc.yaml"
    measured = rates(path, "method.distance=sum_absolute", "method.statistic.parameters=all")
    code, out, _ = reported(capsys, path, measured, "method=herding")
    assert code == 0 and "training theta" in out
    code, _, err = reported(capsys, path, measured)
    assert code == cli.REFUSED and "distance is 'sum_absolute' there" in err


def test_what_does_not_fit_is_told_with_the_key(rates, capsys):
    path = "configs/cifar10_dc.yaml"
    code, out, _ = reported(capsys, path, rates(path), "--gpus=20", "--gpu-memory=1")
    assert code == 1 and "does not fit: " in out and "the process" in out
    assert "10 workers own no class" in out


def test_the_microbatch_that_a_run_would_choose_is_printed(rates, capsys):
    path, key = "configs/cifar10_dc.yaml", "compute.autocast=false"
    loaded, place = config.load(path, [key]), Room(2 * 2**30 - PROCESS["cuda"])
    expected = fitting(loaded, assumed(loaded, 10, 5000), 5, place)
    code, out, _ = reported(capsys, path, rates(path, key), "--gpus=2", "--gpu-memory=2", key)
    assert code == 0 and 0 < expected < 256 and f"compute.microbatch={expected} is chosen" in out
    code, out, _ = reported(capsys, path, rates(path, key), "--gpus=2", "--gpu-memory=80", key)
    assert code == 0 and "compute.microbatch" not in out


def test_a_run_that_captures_several_classes_is_planned_to_fit(no_timing, capsys):
    path, keys = "configs/cifar10_dc.yaml", ["compute.autocast=false", "compute.cuda_graphs=5"]
    code, out, _ = reported(capsys, path, "--gpu=h100", "--gpus=2", "--gpu-memory=3", *keys)
    assert code == 0 and "all images of 5 classes in a CUDA graph do not fit, those of " in out
    assert "compute.microbatch=" in out and "does not fit: " not in out


def test_everything_wrong_is_refused_at_once(capsys):
    wrong = ["--gpus=0", "--gpu-memory=-1", "--rate=0", "--bandwidth=nan", "--classes=0", "ipc=0"]
    code, out, err = reported(capsys, "configs/digits.yaml", *wrong)
    assert code == 2 and out == ""
    for name in ("--gpus: 0", "--gpu-memory: -1", "--rate: 0", "--bandwidth: nan", "--classes: 0", "ipc: 0"):
        assert f"refused: {name}" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--gpu-memory=80"], "--gpu-memory: give the number of GPUs"),
        (
            ["--calibration=nothing.json"],
            "nothing.json cannot be read: No such file or directory; it is not one that plan saved",
        ),
        (["--calibration=nothing.json", "--save=other.json"], "--save: nothing is measured where --calibration gives"),
        (["--rate=5", "--save=other.json"], "--save: nothing is measured where --rate gives the rates"),
        (["--gpu=h1"], "--gpu: 'h1' is not one of h100, h200; give --rate or --calibration"),
        (["--share=0.4"], "--share: it is the share of a known GPU's rate; give it with --gpu"),
        (["--gpu=h100", "--share=1.5"], "--share: 1.5 is not in the range above 0 to 1"),
        (["--gpu=h100", "evaluation.architectures=['convnet:depth=9']"], "convnet:depth=9: "),
        (["dataset.name=image_folder"], "--classes N --images-per-class M"),
        (["cluster.device=cuda"], "cluster.device: cuda, but torch sees no GPU here"),
        (["dataset.name=imagenet", "dataset.classes=imagenet99"], "'imagenet99' is not one of"),
        (["dataset.root=/nowhere", "dataset.name=cifar10"], "/nowhere is not a folder"),
        (["sede=1"], "sede: unknown key; did you mean seed?"),
    ],
)
def test_what_is_refused(arguments, words, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, _, err = reported(capsys, "configs/digits.yaml", *arguments)
    assert code == 2 and words in err


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (["dataset.name=image_folder", "dataset.rot=/x"], ["dataset.rot: unknown key; did you mean dataset.root?"]),
        (
            ["dataset.name=cifar10", "dataset.root=/nowhere", "sede=1", "evaluation.sets=[]", "--gpu=h1"],
            ["sede: ", "--gpu: ", "evaluation.sets: "],
        ),
        (
            ["dataset.name=cifar10", "dataset.root=/nowhere", "sede=1", "evaluation.sets=[]"],
            ["sede: ", "evaluation.sets: ", "cifar10: /nowhere"],
        ),
        (
            ["sede=1", "method.start=mixed", "ipc=500"],
            ["sede: ", "evaluation.sets: ipc is larger than", "method.start: "],
        ),
    ],
)
def test_one_problem_is_one_line(arguments, lines, capsys):
    """Without a root, data that cannot be opened may only lack the mistyped key."""
    code, _, err = reported(capsys, "configs/digits.yaml", *arguments)
    refused = [line.removeprefix("refused: ") for line in err.splitlines()]
    assert code == cli.REFUSED and len(refused) == len(lines), err
    assert all(line.startswith(start) for line, start in zip(refused, lines, strict=True)), err


def test_a_gpu_may_be_named_in_upper_case_and_keys_without_effect_are_named(no_timing, capsys):
    keys = ["training=frozen", "training.cutmix=0.5", "compute.cuda_graphs=2"]  # the second has no effect
    code, out, err = reported(capsys, "configs/digits.yaml", "--gpu=H100", *keys)
    assert code == 0 and "NVIDIA H100" in out
    notes = [line for line in err.splitlines() if "no effect" in line]
    assert notes == ["note: training.cutmix has no effect: training.source is frozen"]


def test_saved_rates_are_read_once(rates, capsys, monkeypatch):
    files, given = [], rates("configs/digits.yaml")
    read = plan_command.rates.read
    monkeypatch.setattr(plan_command.rates, "read", lambda file, like: files.append(file) or read(file, like))
    assert reported(capsys, "configs/digits.yaml", given)[0] == 0 and len(files) == 1


def test_rates_of_another_network_are_refused(rates, capsys):
    given = rates("configs/digits.yaml")
    code, _, err = reported(capsys, "configs/digits.yaml", given, "network.width=8")
    assert code == 2 and "network.width is 32 there, 8 here" in err


def test_a_plan_measures_here_and_starts_neither_ray_nor_mlflow(tmp_path):
    file, keys = tmp_path / "rates.json", ["trajectory.matching_steps=2", "training.epochs=1", *SMALL]
    code = "import sys\nsys.modules['ray'] = sys.modules['mlflow'] = None\nfrom dist_condense.commands import cli\n"
    code += f"sys.exit(cli.main({['plan', 'configs/digits.yaml', *keys, '--json', f'--save={file}']}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    made, kept = json.loads(done.stdout), json.loads(file.read_text())
    assert made["rates"] == kept and made["chosen"]["seconds"] > 0
    assert min(kept["alone"].values()) >= 0 and kept["updating"] and kept["shared"] is None
    assert kept["operations"]["forward"] > 0 and kept["spread"] >= 0 and kept["share"] is kept["stated"] is None
    assert "load average now" in done.stderr.splitlines()[0] and "part 3 of 3, drawing a network: done" in done.stderr


@pytest.mark.parametrize("error", [CannotCompile("no compiler"), RunFailed("out of memory")])
def test_a_step_that_cannot_be_timed_fails_in_one_line(error, capsys, monkeypatch):
    def fails(*given):
        raise error

    monkeypatch.setattr("dist_condense.planning.timing.Stopwatch.seconds", fails)
    code, out, err = reported(capsys, "configs/digits.yaml", *SMALL)
    assert code == cli.FAILED and out == "" and err.splitlines()[-1] == f"failed: {error}"


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dc", "dcc"])
def test_a_run_takes_about_what_was_planned(method, tmp_path, capsys):
    """The limit is a factor of 5, so that a busy machine passes; benchmarks/plan.py measures the accuracy."""
    keys = [f"method={method}", "method.grouping.warmup_networks=0", "training.epochs=2", "cluster.workers=0"]
    keys += ["trajectory.networks=8", "trajectory.matching_steps=3", "tracking.log_every=6", *SMALL]
    run = ["evaluation.epochs=0", f"output={tmp_path}/run", "tracking.uri=http://127.0.0.1:9", "ipc=3"]
    assert cli.main(["plan", "configs/digits.yaml", *keys, f"--save={tmp_path}/rates.json"]) == 0
    capsys.readouterr()
    more = [*keys, "ipc=3", "--json", f"--calibration={tmp_path}/rates.json"]
    assert cli.main(["plan", "configs/digits.yaml", *more]) == 0
    made = json.loads(capsys.readouterr().out)
    assert cli.main(["run", "configs/digits.yaml", *keys, *run]) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    measured = (lines[-1]["time"] - lines[0]["time"]) / (lines[-1]["step"] - lines[0]["step"])
    assert 1 / 5 < made["chosen"]["seconds"] / made["workload"]["steps"] / measured < 5
