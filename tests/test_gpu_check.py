"""The check of a machine's GPU: every part runs on a CPU without Ray, Hydra and MLflow, and none stops the others."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import gpu_check, gpu_data, gpu_parts, gpu_run, gpu_steps
from benchmarks.cases import assembled, plain_idc, random_images
from benchmarks.gpu_task import Row, Skipped, Task
from dist_condense.engine.coordinator import Placement
from dist_condense.planning import calibrate, rates
from dist_condense.planning.images import assumed
from dist_condense.planning.rates import Calibration
from dist_condense.planning.workload import Workload, workload_of
from dist_condense.settings.config import ConfigError, RunConfig, load
from dist_condense.system import records
from tests.conftest import ROOT
from tests.planning.cases import RATES
from tests.test_directions import ABSENT

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")  # fork, from Python 3.12 on


def test_every_part_runs_on_a_cpu_without_ray_hydra_and_mlflow(tmp_path: Path) -> None:
    refusing = f"import sys\nsys.modules.update(dict.fromkeys({ABSENT}))\n"
    (tmp_path / "sitecustomize.py").write_text(refusing)  # in the parts, too
    output = tmp_path / "output"
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--device", "cpu", "--smoke", "--output", str(output)]
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((output / "gpu-check.json").read_text())["parts"]
    assert {name: result["status"] for name, result in results.items()} == {
        **dict.fromkeys(gpu_check.PARTS, "done"),
        "tests": "skipped",
    }
    assert "tests: skipped: all" in done.stdout and "tests: done" not in done.stdout
    assert "ModuleNotFoundError: import of mlflow halted" in (output / "work" / "run.log").read_text()
    names = [row["name"] for row in results["step32"]["rows"]]
    assert [name for name in names if name != names[0]] == list(gpu_steps.VARIANTS)
    measured = [row for row in results["step32"]["rows"] if "ms" in row]
    assert all(row["ms"] > 0 and row["x plain"] > 0 for row in measured) and len(measured) == 4
    assert [row["that differ"] for row in results["twice"]["rows"] if "steps" in row] == [0, 0, 0]
    [calibration] = results["rates"]["calibrations"].values()
    assert calibration["kind"] == "cpu" and calibration["alone"] and calibration["matrix_rate"] > 0
    [saved] = (output / "work" / "rates").glob("*.json")
    assert saved.name == "cifar10_idc_bf16.json" and records.read(Calibration, saved).matrix_rate
    variant, condensing, stored, accuracy = results["run"]["rows"]
    fastest = min((row for row in measured if "training ms" in row), key=lambda row: row["ms"] + row["training ms"])
    assert variant["heading"].startswith(f"{fastest['name']}: ")
    assert condensing["steps"] == 4 and "top-1" in accuracy and stored["MiB"] < 16
    assert (output / gpu_run.STORED).stat().st_size == stored["MiB"] * 2**20
    note = (output / "gpu-check.md").read_text()
    assert all(f"## {part.title}" in note for part in gpu_check.PARTS.values()) and "mean nothing" in note


def test_a_variant_that_fails_is_told_and_the_next_one_is_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def measured(*given: object, variant: gpu_steps.Variant, operations: float) -> Row:
        if variant.plain:
            raise RuntimeError("out of memory\nand more")
        return {"ms": 2.0, "took s": 1.0}

    monkeypatch.setattr(gpu_steps, "_measured", measured)
    monkeypatch.setattr(gpu_steps, "step_operations", lambda *given: 1.0)
    words = ["step32", "--device=cpu", "--seconds=60", f"--json={tmp_path}/x", f"--work={tmp_path}", "--smoke"]
    with pytest.raises(RuntimeError, match=r"not measured: 32 px, 64 real \+ 40 decoded: plain loop, fl"):
        gpu_parts.main(words)
    result = json.loads((tmp_path / "x").read_text())
    rows = {row["name"]: row for row in result["rows"]}
    assert result["status"] == "failed" and rows["engine, eager, bf16"]["ms"] == 2
    line = next(x for x in gpu_check.table({"step32": result}) if x.startswith("  plain loop, float32"))
    assert line.split(maxsplit=3)[3] == "failed: RuntimeError: out of memory"


def fragile(task: Task) -> None:
    """Measure four things on a GPU, of which one fails and one ends the process."""
    work = {"one": lambda: {"ms": 1.0}, "two": lambda: 1 / 0, "three": lambda: os._exit(9), "four": lambda: {"ms": 4.0}}
    task.device = torch.device("cuda")
    for name, each in work.items():
        task.attempt({"name": name, "shape": "s"}, each)
    task.check()


def test_what_fails_on_a_gpu_costs_neither_what_was_measured_nor_what_comes_after(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(gpu_parts, "PARTS", {**gpu_parts.PARTS, "step32": fragile})
    words = ["--device", "cpu", "--minutes", "5", "--output", str(tmp_path), "--smoke", "--parts", "step32"]
    assert gpu_check.main(words) == 1
    result = json.loads((tmp_path / "gpu-check.json").read_text())["parts"]["step32"]
    reasons = {row["name"]: row.get("failed_because") for row in result["rows"]}
    ended = f"its process ended with 9; see {tmp_path}/work/step32.log"
    assert reasons == {"one": None, "two": "ZeroDivisionError: division by zero", "three": ended, "four": None}
    assert result["reason"] == "RuntimeError: not measured: s: two; s: three" and "current" not in result


def task(folder: Path, **given: Any) -> Task:
    keys = {"device": torch.device("cpu"), "seconds": 100.0, "json": folder / "x", "work": folder}
    return Task("run", **{**keys, **given})


def measured(name: str, ms: float, prepare: float) -> Row:
    return {"name": name, "shape": "32 px", "ms": ms, "training ms": 5.0, "prepare s": prepare, "took s": prepare}


def test_the_run_takes_the_variant_that_takes_the_most_steps_in_its_time(tmp_path: Path) -> None:
    rows = [measured("engine, eager, bf16", 95, 1), measured("engine, compiled, captured, bf16", 15, 60)]
    rows += [{"name": "plain loop, TF32", "ms": 1.0}, {"name": "engine, eager, float32", "failed_because": "x"}]
    given = task(tmp_path, before={"step32": {"rows": rows}})
    name, keys = gpu_run.fastest(given, 100.0)
    assert name == "engine, compiled, captured, bf16"
    assert keys == (*gpu_steps.EAGER, "compute.autocast=true", "compute.compile=true", "compute.cuda_graphs=5")
    eager = *gpu_steps.EAGER, "compute.autocast=true"
    assert gpu_run.fastest(given, 70.0) == ("engine, eager, bf16", eager)
    assert gpu_run.fastest(task(tmp_path), 70.0) == ("engine, eager, bf16, because none was measured", eager)


def test_what_does_not_fit_into_the_time_left_is_not_started(tmp_path: Path) -> None:
    given = task(tmp_path, before={"step32": {"rows": [measured("engine, compiled, bf16", 1, 90)]}})
    compiled = gpu_steps.VARIANTS["engine, compiled, bf16"]
    assert given.lacks(0, "x") is None and given.lacks(70, "x") is None
    reason = "another variant that is compiled took 90 s before, and 100 s are left"
    assert gpu_steps._skipped(given, compiled) == {"skipped_because": reason}
    eager = gpu_steps.VARIANTS["engine, eager, bf16"]
    assert gpu_steps._skipped(given, eager) is None
    given.seconds = 130
    assert gpu_steps._skipped(given, compiled) is None
    given.add(measured("engine, eager, float32", 1, 125))
    reason = "another variant took 125 s before, and 130 s are left"
    assert gpu_steps._skipped(given, eager) == {"skipped_because": reason}


def test_the_variants_that_matter_come_first_and_the_small_shape_last(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(gpu_steps, "_measured", lambda *given, variant, operations: {"ms": 2.0, "took s": 1.0})
    monkeypatch.setattr(gpu_steps, "step_operations", lambda *given: 1.0)
    monkeypatch.setattr(Task, "on_gpu", True)
    given = task(tmp_path)
    given.part = "step224"
    gpu_steps.steps(given)
    rows = [(row["shape"], row["name"]) for row in given.rows if "ms" in row]
    large, small = gpu_steps.SHAPES["step224"]
    assert rows == [(shape, name) for shape in (large, small) for name in gpu_steps.VARIANTS]
    assert [name for _, name in rows[:5]] == [
        "plain loop, TF32",
        "plain loop, float32",
        "engine, captured, bf16",
        "engine, compiled, captured, bf16",
        "engine, compiled, bf16",
    ]


NUMBERS = {"name": "a", "ms": 1.0}
REST = {"name": "b", "heading": "x"}, {"name": "c", "skipped_because": "it took until the limit"}


@pytest.mark.parametrize(
    ("status", "rows", "is_bad"),
    [
        ("stopped", [NUMBERS, *REST], False),
        ("stopped", [*REST], True),
        ("stopped", [NUMBERS, {"name": "d", "failed_because": "memory"}], True),
        ("failed", [NUMBERS], True),
        ("skipped", [], False),
        ("done", [NUMBERS, *REST], False),
    ],
)
def test_a_part_that_was_only_short_of_time_is_no_failure(status: str, rows: list[Row], is_bad: bool) -> None:
    assert gpu_check.is_bad({"status": status, "rows": rows}) == is_bad


def slow(task: Task) -> None:
    """Measure one thing, and another one until the limit."""
    task.attempt({"name": "one"}, lambda: {"ms": 1.0})
    task.attempt({"name": "two"}, lambda: {"ms": threading.Event().wait()})


def test_what_is_measured_at_the_limit_is_skipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu_parts, "PARTS", {**gpu_parts.PARTS, "step224": slow})
    file, ended = tmp_path / "work" / "step224.json", gpu_check.ended

    def ended_in_the_second(process: ForkProcess, seconds: float) -> bool:
        deadline = time.monotonic() + 60
        while not file.exists() or json.loads(file.read_text()).get("current") != {"name": "two"}:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return ended(process, 0.0)

    monkeypatch.setattr(gpu_check, "ended", ended_in_the_second)
    words = ["--device", "cpu", "--output", str(tmp_path), "--smoke", "--parts", "step224"]
    assert gpu_check.main(words) == 0
    result = json.loads((tmp_path / "gpu-check.json").read_text())["parts"]["step224"]
    assert result["status"] == "stopped"
    assert result["rows"] == [NUMBERS | {"name": "one"}, {"name": "two", "skipped_because": "it took until the limit"}]


def test_a_shipped_config_uses_the_rates_of_its_plan_in_bf16(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def timed(config: RunConfig, dataset: Any, load: Workload, tell: object = None) -> Calibration:
        return replace(RATES, compared=calibrate.compared(config, dataset, load))

    monkeypatch.setattr(calibrate, "calibrate", timed)
    [title, (name, keys)], *_ = gpu_parts.PLANNED.items()
    assert gpu_parts._planned(task(tmp_path), title, name, keys=keys)["hours"] > 0
    for name in ("cifar10", "cifar100"):
        config = load(f"configs/{name}_idc.yaml", ["dataset.root=null"])
        dataset = assumed(config, 10, 100)
        needed = calibrate.compared(config, dataset, workload_of(config, dataset))
        assert rates.read(tmp_path / "cifar10_idc_bf16.json", needed).compared["compute.compile"]


def test_a_plan_that_compiles_is_started_only_if_compiling_fits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(gpu_parts, "_planned", lambda *given, keys: {"hours": 1.0})
    given = task(tmp_path, before={"step32": {"rows": [measured("engine, compiled, bf16", 1, 90)]}})
    gpu_parts.rates(given)
    first, *others = given.rows
    assert first["skipped_because"].startswith("another plan or compiling took 90 s before, and ")
    assert [row["hours"] for row in others] == [1.0] * 3


@pytest.mark.parametrize(
    ("ms", "advice"), [(2.0, "2 x as fast; set compute.second_derivative=forward"), (8.0, "0.5 x")]
)
def test_the_key_of_the_faster_second_derivative_is_named(ms: float, advice: str, tmp_path: Path) -> None:
    given = task(tmp_path)
    names = {"engine, eager, TF32": 4.0, "engine, eager, TF32, forward": ms, "engine, eager, bf16": 1.0}
    given.add(*({"name": name, "shape": "32 px", "ms": x} for name, x in names.items()))
    gpu_steps._advise(given)
    assert given.rows[-1]["name"] == "32 px: engine, eager, TF32, with the other second derivative"
    assert given.rows[-1]["heading"].startswith(advice) and len(given.rows) == 4


def test_two_runs_that_differ_fail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    states = iter([torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0000002])] * 2 + [torch.ones(1)] * 6)
    monkeypatch.setattr(gpu_steps, "_state_after", lambda *given: ([next(states)], 1.0))
    with pytest.raises(RuntimeError, match=r"compute.deterministic=true differ: eager, bf16; eager, float32$"):
        gpu_steps.twice(task(tmp_path, smoke=True))


@pytest.mark.parametrize(("seconds", "is_compiled"), [(130.0, False), (140.0, True)])
def test_compiled_runs_come_first_if_they_fit(
    seconds: float, is_compiled: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(gpu_steps, "_compared", lambda *given: {"that differ": 0})
    monkeypatch.setattr(Task, "on_gpu", True)
    rows = [measured("engine, compiled, bf16", 1, 90)]
    given = task(tmp_path, before={"step32": {"rows": rows}}, seconds=seconds)
    gpu_steps.twice(given)
    first, *others = given.rows
    assert first["name"] == "compiled, captured, bf16" and ("that differ" in first) == is_compiled
    assert all("that differ" in row for row in others) and len(others) == 4


def test_a_run_goes_on_from_the_file_of_an_earlier_check(tmp_path: Path) -> None:
    def after(folder: Path, *keys: str, **given: Any) -> list[Row]:
        (folder / "work" / "run").mkdir(parents=True)
        own = task(folder / "work", smoke=True, work=folder / "work" / "run", json=folder / "work" / "x", **given)
        own.keys = keys
        gpu_run.run(own)
        return own.rows

    steps = "tracking.checkpoint_steps=1", "tracking.checkpoints_kept=1"
    first = after(tmp_path / "one", "trajectory.networks=1", *steps)
    assert first[1]["steps"] == 2 and "compute.compile=false" in first[0]["heading"]
    stored = tmp_path / "one" / gpu_run.STORED
    with pytest.raises(ConfigError, match=r"trajectory.networks: 1 there, 2 now"):
        after(tmp_path / "two", resume=stored)
    again = after(tmp_path / "three", "trajectory.networks=1", *steps, resume=stored)
    assert (again[1]["steps"], again[1]["of them before"]) == (2, 2) and "top-1" in again[-1]
    (tmp_path / "four").mkdir()
    with pytest.raises(Skipped, match="contains a run on digits, IDC, tiny, and the data are those of FashionMNIST"):
        gpu_run._restored(task(tmp_path / "four", resume=stored), gpu_run.FASHION)


def test_cifar10_is_carried_in_two_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels = torch.randint(256, (4, 2, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for c, name in enumerate(("cat", "dog", "frog", "ship")):
        for split in ("train", "val"):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            Image.fromarray(pixels[c, int(split == "val")].numpy()).save(tmp_path / "data" / split / name / "1.png")
    assert gpu_check.main(["--pack", str(tmp_path / "data"), str(tmp_path / "packed")]) == 0
    halves = [tmp_path / "packed" / name for name in gpu_data.HALVES]
    assert capsys.readouterr().out.splitlines() == [f"{half}: 0.0 MiB" for half in halves]
    title, _, root = gpu_run._data_set(task(tmp_path, data=tmp_path / "packed"))
    assert title == gpu_run.CIFAR and root is not None
    with Image.open(root / "val" / "ship" / "1.webp") as image:
        assert torch.equal(torch.from_numpy(np.array(image)), pixels[3, 1])
    halves[1].unlink()
    with pytest.raises(Skipped, match=r"has one half of CIFAR-10 and lacks cifar10_2of2\.zip"):
        gpu_run._data_set(task(tmp_path, data=tmp_path / "packed"))
    assert gpu_check.main(["--pack", str(tmp_path / "packed"), str(tmp_path / "again")]) == 1
    assert "no two equal sets of classes" in capsys.readouterr().out


def test_without_a_gpu_it_exits_with_2_and_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_check, "has_gpu", lambda: False)
    assert gpu_check.main(["--output", str(tmp_path / "output")]) == 2
    [line] = capsys.readouterr().out.splitlines()
    assert "no CUDA device" in line and not (tmp_path / "output").exists()


def hang(task: Task) -> None:
    task.add({"name": "before", "ms": 1.0})
    child = subprocess.Popen(["sleep", "600"])
    (task.work / "child").write_text(str(child.pid))
    child.wait()


def raise_error(task: Task) -> None:
    task.add({"name": "before", "ms": 1.0})
    raise RuntimeError("out of luck\nand more")


def die(task: Task) -> None:
    os._exit(7)


def skip(task: Task) -> None:
    raise Skipped("it is Friday")


def test_a_part_that_hangs_fails_or_dies_is_reported_and_the_next_one_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = {"machine": hang, "tests": raise_error, "step32": die, "step224": skip, "profile": lambda task: None}
    monkeypatch.setattr(gpu_parts, "PARTS", {**gpu_parts.PARTS, **parts})
    chosen = {name: gpu_check.Part(name, 1 if name == "machine" else 20) for name in parts}
    monkeypatch.setattr(gpu_check, "PARTS", chosen)
    words = ["--device", "cpu", "--minutes", "2", "--output", str(tmp_path), "--smoke"]
    assert gpu_check.main(words) == 1
    results = json.loads((tmp_path / "gpu-check.json").read_text())["parts"]
    states = {name: gpu_check.state(result) for name, result in results.items()}
    assert states.pop("profile").startswith("done in ")
    assert states == {
        "machine": "stopped: at its limit of 1 s",
        "tests": "failed: RuntimeError: out of luck",
        "step32": f"failed: its process ended with 7; see {tmp_path}/work/step32.log",
        "step224": "skipped: it is Friday",
    }
    assert results["machine"]["rows"] == results["tests"]["rows"] == [{"name": "before", "ms": 1.0}]
    child = Path("/proc", (tmp_path / "work" / "machine" / "child").read_text())
    deadline = time.monotonic() + 30
    while child.exists() and "(sleep) Z" not in (child / "stat").read_text():  # killed, though init may reap it later
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert "machine: stopped: at its limit of 1 s" in capsys.readouterr().out


def test_a_part_that_is_not_chosen_is_skipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = [{"name": "x", "ms": 1.0}]
    monkeypatch.setattr(gpu_check, "run_part", lambda name, *_, **__: {"status": "done", "seconds": 1.0, "rows": rows})
    assert gpu_check.main(["--device", "cpu", "--parts", "machine,run", "--output", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "gpu-check.json").read_text())["parts"]
    assert [name for name, result in results.items() if result["status"] == "done"] == ["machine", "run"]
    assert gpu_check.state(results["tests"]) == "skipped: not in --parts"
    assert gpu_check.main(["--device", "cpu", "--parts", "run", "--output", str(tmp_path)]) == 0
    machine = json.loads((tmp_path / "gpu-check.json").read_text())["parts"]["machine"]
    assert gpu_check.state(machine).startswith("skipped: not in --parts; the rows are those of 20")
    assert machine["rows"] == rows and gpu_check.earlier(tmp_path, gpu_check.parse(["--parts", "run"])) == {}
    refusals = (["--parts", "machin"], ["--minutes", "0"], ["--minutes", "nan"], ["compute.foo=1"], ["--resume", "x"])
    for refused in refusals:
        with pytest.raises(SystemExit):
            gpu_check.parse(refused)


def test_the_limits_of_the_parts_share_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    names, limits = list(gpu_check.PARTS), list[float]()
    for name in names:  # each takes all that it may
        limits.append(gpu_check.limit(name, names, 485.0))
        now[0] += limits[-1]
    assert now[0] == pytest.approx(480) and limits[-1] > 100
    now[0] = limits[0] / 2  # what the machine does not take is for the others
    assert gpu_check.limit("tests", names, 485.0) > limits[1]
    assert gpu_check.limit("rates", ["rates"], 485.0) == pytest.approx(480 - now[0])


def test_the_share_of_time_without_a_kernel() -> None:
    [row] = gpu_steps.gaps([(0.0, 10.0), (5.0, 12.0), (20.0, 30.0), (21.0, 22.0)])
    assert row["ms"] == 0.03 and row["idle %"] == pytest.approx(100 * 8 / 30) and row["calls"] == 4


@pytest.mark.parametrize(
    ("part", "pass_of_an_image", "images"),
    [("step32", 0.1015e9, 3 * 64 + 8 * 40), ("step224", 3.64e9, 3 * 64 + 8 * 90)],
)
def test_the_operations_of_a_step(part: str, pass_of_an_image: float, images: int) -> None:
    shape = next(iter(gpu_steps.SHAPES[part].values()))
    config = load(f"configs/{shape.config}", ["cluster.workers=0"])
    counted = gpu_steps.step_operations(config, random_images(10, shape.size, 1))
    assert counted == pytest.approx(10 * images * pass_of_an_image, rel=0.01)


def test_the_plain_loop_has_the_gradient_of_the_engine() -> None:
    keys = [*gpu_steps.EAGER, "ipc=2", "method.real_batch=8", "network.width=4", "network.depth=2"]
    keys += ["method.augmentation.always=[]", "method.augmentation.one_of=[]", "method.images.momentum=0.5"]
    keys += ["trajectory.start=fresh"]
    config, data = load("configs/cifar10_idc.yaml", keys), random_images(2, 16, per_class=8)
    # every step sees all real images, whatever their order
    engine = assembled(config, data, Placement(torch.device("cpu"), torch.float64))
    plain = plain_idc(config, data, engine)
    plain.match()
    engine.match()
    buffer = plain.optimiser.state[plain.pixels]["momentum_buffer"]
    gradient = buffer / torch.tensor([0.5, 0.5, 1.0, 1.0]).view(4, 1, 1, 1)  # the first class is one step older
    torch.testing.assert_close(engine.shard.momentum["pixels"], gradient)
    engine.shard.source.close()


def test_the_run_takes_the_data_set_that_is_there(tmp_path: Path) -> None:
    def found(folder: Path | None) -> tuple[str, Path | None]:
        title, _, root = gpu_run._data_set(task(tmp_path, data=folder))
        return title, root

    raw = tmp_path / "data" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    with gzip.open(raw / "labels.gz", "wb") as file:
        file.write(b"labels")
    (tmp_path / "other" / "cifar10" / "train").mkdir(parents=True)
    assert found(tmp_path / "data") == ("FashionMNIST, IDC, ipc 10", tmp_path / "FashionMNIST")
    assert (tmp_path / "FashionMNIST" / "raw" / "labels").read_bytes() == b"labels"
    for folder in ("other", "other/cifar10"):
        assert found(tmp_path / folder) == ("CIFAR-10, IDC, ipc 10", tmp_path / "other" / "cifar10")
    for folder in (tmp_path / "none", None):
        with pytest.raises(Skipped, match="--data names no folder with FashionMNIST or cifar10 or"):
            found(folder)


def test_shipped_configs_of_the_run_are_accepted() -> None:
    for known in gpu_run.KNOWN.values():
        config = load(f"configs/{known.config}", known.keys)
        assert config.trajectory.networks * config.trajectory.matching_steps == 200_000
        assert config.ipc == 10 and config.method.parameterisation.factor == 2


def test_numbers_and_reasons_in_the_table() -> None:
    rows = [{"name": "a", "heading": "b"}, {"name": "x", "ms": 1.23456}, {"name": "y", "skipped_because": "no"}]
    results = {"machine": {"status": "done", "seconds": 2.0, "rows": rows}}
    lines = [line.split() for line in gpu_check.table(results)]
    assert lines == [["machine:", "done", "in", "2", "s"], ["a:", "b"], ["x", "1.235", "ms"], ["y", "skipped:", "no"]]
    note = list(gpu_check.note({"time": "2026-01-01T", "minutes": 8, "smoke": False}, results))
    assert "| x | 1.235 |" in note and "| y | skipped: no |" in note and "a: b" in note
