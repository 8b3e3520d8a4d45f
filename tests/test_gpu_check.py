"""The check of a machine's GPU: every part runs on a CPU without Ray, Hydra and MLflow, and none stops the others."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_check, gpu_parts
from benchmarks.cases import assembled, plain_idc, random_images
from benchmarks.gpu_parts import Skipped, Task
from dist_condense.engine.coordinator import Placement
from dist_condense.planning.rates import Calibration
from dist_condense.settings.config import load
from dist_condense.system import records
from tests.conftest import ROOT
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
    assert [name for name in names if name != names[0]] == list(gpu_parts.VARIANTS)
    measured = [row for row in results["step32"]["rows"] if "ms" in row]
    assert all(row["ms"] > 0 and row["x plain"] > 0 for row in measured) and len(measured) == 3
    [calibration] = results["rates"]["calibrations"].values()
    assert calibration["kind"] == "cpu" and calibration["alone"] and calibration["matrix_rate"] > 0
    [saved] = (output / "work" / "rates").glob("*.json")
    assert saved.name == "cifar10_idc_bf16.json" and records.read(Calibration, saved).matrix_rate
    assert results["run"]["rows"][0]["steps"] == 4 and "top-1" in results["run"]["rows"][1]
    note = (output / "gpu-check.md").read_text()
    assert all(f"## {part.title}" in note for part in gpu_check.PARTS.values()) and "mean nothing" in note


def test_a_variant_that_fails_is_told_and_the_next_one_is_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def measured(task: Task, shape: gpu_parts.Shape, variant: gpu_parts.Variant, operations: float) -> gpu_parts.Row:
        if variant.plain:
            raise RuntimeError("out of memory\nand more")
        return {"ms": 2.0}

    monkeypatch.setattr(gpu_parts, "_measured", measured)
    monkeypatch.setattr(gpu_parts, "step_operations", lambda *given: 1.0)
    words = ["step32", "--device=cpu", "--seconds=60", f"--json={tmp_path}/x", f"--work={tmp_path}", "--smoke"]
    with pytest.raises(RuntimeError, match=r"not measured: 32 px, 64 real \+ 40 decoded: plain loop, fl"):
        gpu_parts.main(words)
    result = json.loads((tmp_path / "x").read_text())
    rows = {row["name"]: row for row in result["rows"]}
    assert result["status"] == "failed" and rows["engine, eager, bf16"]["ms"] == 2
    line = next(x for x in gpu_check.table({"step32": result}) if x.startswith("  plain loop, float32"))
    assert line.split(maxsplit=3)[3] == "failed: RuntimeError: out of memory"


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
    chosen = {name: gpu_check.Part(name, 0.02) for name in parts}
    monkeypatch.setattr(gpu_check, "PARTS", chosen)
    words = ["--device", "cpu", "--minutes", "0.5", "--output", str(tmp_path), "--smoke"]
    assert gpu_check.main(words) == 1
    results = json.loads((tmp_path / "gpu-check.json").read_text())["parts"]
    assert {name: gpu_check.state(result) for name, result in results.items()} == {
        "machine": "stopped: at its limit of 1 s",
        "tests": "failed: RuntimeError: out of luck",
        "step32": f"failed: its process ended with 7; see {tmp_path}/work/step32.log",
        "step224": "skipped: it is Friday",
        "profile": "done in 0 s",
    }
    assert results["machine"]["rows"] == results["tests"]["rows"] == [{"name": "before", "ms": 1.0}]
    child = Path("/proc", (tmp_path / "work" / "machine" / "child").read_text())
    deadline = time.monotonic() + 30
    while child.exists() and "(sleep) Z" not in (child / "stat").read_text():  # killed, though init may reap it later
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert "machine: stopped: at its limit of 1 s" in capsys.readouterr().out


def test_a_part_that_is_not_chosen_is_skipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu_check, "run_part", lambda name, *_, **__: {"status": "done", "seconds": 1.0, "rows": []})
    assert gpu_check.main(["--device", "cpu", "--parts", "machine,run", "--output", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "gpu-check.json").read_text())["parts"]
    assert [name for name, result in results.items() if result["status"] == "done"] == ["machine", "run"]
    assert gpu_check.state(results["tests"]) == "skipped: not in --parts"
    for refused in (["--parts", "machin"], ["--minutes", "0"], ["--minutes", "nan"], ["compute.foo=1"]):
        with pytest.raises(SystemExit):
            gpu_check.parse(refused)


def test_the_limits_of_the_parts_leave_the_rest_to_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    shares = [gpu_check.limit(name, 8, deadline=480.0) for name in gpu_check.PARTS]
    assert sum(shares[:-1]) < 0.85 * 480 and shares[-1] == 475
    assert gpu_check.limit("run", 8, deadline=100.0) == 95


def test_the_share_of_time_without_a_kernel() -> None:
    [row] = gpu_parts._gaps([(0.0, 10.0), (5.0, 12.0), (20.0, 30.0), (21.0, 22.0)])
    assert row["ms"] == 0.03 and row["idle %"] == pytest.approx(100 * 8 / 30) and row["calls"] == 4


@pytest.mark.parametrize(
    ("part", "pass_of_an_image", "images"),
    [("step32", 0.1015e9, 3 * 64 + 8 * 40), ("step224", 3.64e9, 3 * 64 + 8 * 90)],
)
def test_the_operations_of_a_step(part: str, pass_of_an_image: float, images: int) -> None:
    shape = next(iter(gpu_parts.SHAPES[part].values()))
    config = load(f"configs/{shape.config}", ["cluster.workers=0"])
    counted = gpu_parts.step_operations(config, random_images(10, shape.size, 1))
    assert counted == pytest.approx(10 * images * pass_of_an_image, rel=0.01)


def test_the_plain_loop_has_the_gradient_of_the_engine() -> None:
    keys = ["ipc=2", "method.real_batch=8", "network.width=4", "network.depth=2", "trajectory.start=fresh"]
    keys += ["method.augmentation.always=[]", "method.augmentation.one_of=[]", "method.images.momentum=0.5"]
    config, data = load("configs/cifar10_idc.yaml", keys), random_images(2, 16, per_class=8)
    # every step sees all real images, whatever their order
    engine = assembled(config, data, Placement(torch.device("cpu"), torch.float64))
    plain = plain_idc(config, data, engine)
    plain.match()
    engine.match()
    buffer = plain.optimiser.state[plain.pixels]["momentum_buffer"]
    gradient = buffer.unflatten(0, (2, 2)) / torch.tensor([0.5, 1.0]).view(2, 1, 1, 1, 1)  # the first is one step older
    torch.testing.assert_close(engine.shard.momentum["pixels"], gradient)
    engine.shard.source.close()


def test_the_run_takes_the_data_set_that_is_there(tmp_path: Path) -> None:
    def found(folder: Path | None) -> tuple[str, Path | None]:
        task = Task("run", device=torch.device("cpu"), seconds=1, json=tmp_path / "x", work=tmp_path, data=folder)
        title, _, root = gpu_parts._data_set(task)
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
    for known in gpu_parts.KNOWN.values():
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
