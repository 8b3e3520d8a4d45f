import json
import subprocess
import sys
from pathlib import Path

from benchmarks import memory
from benchmarks.cases import Settings
from dist_condense.engine.coordinator import LocalCoordinator

ROOT = Path(__file__).parents[1]


def test_the_benchmark_of_a_step_runs_on_tiny_shapes(tmp_path):
    file = tmp_path / "step.json"
    command = [sys.executable, "-m", "benchmarks.step", "--quick", "--sections", "parts,precision", "--json", str(file)]
    output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    result = json.loads(file.read_text())
    value = {(r["section"], r["name"]): r["value"] for r in result["rows"]}
    assert "matching step" in output
    assert all(x > 0 for (section, _), x in value.items() if section == "parts")
    assert value["precision", "float32: relative gradient error"] < 1e-4
    assert value["precision", "bf16 autocast: cosine"] > 0.9


def test_the_benchmark_of_memory_measures_tiny_shapes():
    settings = Settings(method="dcc", classes=3, size=8, width=4, depth=1, real=4, per_class=6, repeat=1)
    step, files = memory.step(settings, LocalCoordinator()), memory.stored(settings, LocalCoordinator())
    assert step["reduced MiB"] == 0 < step["step s"] and step["tensors MiB"] > step["state MiB"] > 0
    assert all(files[f"{name} s"] > 0 for name in ("assemble", "checkpoint", "export", "open"))
