import json
import subprocess
import sys
from pathlib import Path

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
