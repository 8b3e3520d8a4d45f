"""Metrics of a running run on Ray, as Prometheus receives them from Ray's endpoints."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from dist_condense.commands import cli
from dist_condense.engine.ray.metrics import COUNTERS, GAUGES, MEASURES
from dist_condense.settings.run_folder import RunFolder
from tests.cluster.ray_head import environment
from tests.cluster.test_ray_runs import finish
from tests.conftest import ROOT
from tests.deploy import test_dashboard
from tests.engine import cases

METRICS = RunFolder.metrics.name

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.daemon("Ray's metrics endpoints")]

RANKS = ("0", "1")
FIELDS = {f"ray_{name}": field for field, (name, _) in (GAUGES | MEASURES).items()}
FIELDS |= {f"ray_{name}_total": field for field, (name, _) in COUNTERS.items()}
ON_A_GPU = {"ray_node_gpus_utilization", "ray_node_gram_used"}


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """A folder of Ray's sessions; short, because a socket's path has at most 107 characters."""
    folder = Path(tempfile.mkdtemp(prefix="ray_", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def run(ray_folder: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A run without an end, on two workers."""
    endless = ["trajectory.networks=10000", "tracking.log_every=1", "evaluation.epochs=0"]
    given = [*cases.TINY, *cases.CASES["dcc"], "cluster.workers=2", f"output={tmp_path / 'a_run'}", *endless]
    command = [sys.executable, "-m", "dist_condense.run", "configs/digits.yaml"]
    command += {pair.split("=", 1)[0]: pair for pair in given}.values()
    env = environment(RAY_TMPDIR=str(ray_folder), RAY_metrics_report_interval_ms="1000")
    with subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def scraped(ray_folder: Path) -> list[Sample]:
    """Return all samples of the endpoints in Ray's file; none until every endpoint answers."""
    samples: list[Sample] = []
    with suppress(OSError, ValueError, StopIteration):
        for group in json.loads(next(ray_folder.glob("dc_*/ray/prom_metrics_*.json")).read_text()):
            for target in group["targets"]:
                with urllib.request.urlopen(f"http://{target}/metrics", timeout=10) as answer:
                    families = text_string_to_metric_families(answer.read().decode())
                    samples += [sample for family in families for sample in family.samples]
    return samples


def missing(samples: list[Sample]) -> set[str]:
    """Return the metrics of the dashboard without a sample."""
    asked = [x for x in test_dashboard.read(test_dashboard.DASHBOARD) if x[0] not in ON_A_GPU]
    return {name for name, labels in asked if not any(s.name == name and labels <= s.labels.keys() for s in samples)}


def exported(samples: list[Sample]) -> dict[str, dict[str, float]]:
    """Return the exported values by rank and field or measure of Measured."""
    values: dict[str, dict[str, float]] = {rank: {} for rank in RANKS}
    for sample in samples:
        if sample.name in FIELDS:
            assert sample.labels["run"] == "a_run"
            values[sample.labels["rank"]][FIELDS[sample.name]] = sample.value
    return values


def written(folder: Path, rank: str, step: float | None) -> dict[str, float]:
    """Return the same values from metrics.jsonl and the worker's log, up to a step."""
    entry = next((line for line in whole_lines(folder / METRICS) if line["step"] == step), None)
    lines = [line for line in whole_lines(folder / "logs" / f"worker_{rank}.jsonl") if "loss" in line]
    if entry is None or step not in [line["step"] for line in lines]:
        return {}
    lines = [line for line in lines if line["step"] <= step]
    own_clock = {"steps_per_second": entry["steps_per_second"] if rank == "0" else lines[-1]["steps_per_second"]}
    counted = {field: sum(line[field] for line in lines) for field in COUNTERS}
    return {"step": step, "planned": 30000, **{name: entry[name] for name in MEASURES}, **own_clock, **counted}


def whole_lines(file: Path) -> list[dict[str, Any]]:
    text = file.read_text() if file.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def test_prometheus_gets_what_metrics_jsonl_says(run: subprocess.Popen[str], ray_folder: Path, tmp_path: Path) -> None:
    """Ray collects at any time, so a collection within a step is repeated until one falls between two steps."""
    deadline, samples, differ = time.monotonic() + 300, [], list(RANKS)
    while run.poll() is None and (differ or missing(samples)) and time.monotonic() < deadline:
        time.sleep(0.3)
        samples = scraped(ray_folder)
        measured = exported(samples)
        expected = {rank: written(tmp_path / "a_run", rank, measured[rank].get("step")) for rank in RANKS}
        differ = [
            rank for rank in RANKS if not measured[rank] or measured[rank] != pytest.approx(expected[rank], rel=1e-12)
        ]
    assert run.poll() is None, finish(run)
    assert missing(samples) == set()
    assert not differ, (measured, expected)
    assert all(measured[rank]["reduced"] > 0 and measured[rank]["waited"] > 0 for rank in RANKS)
    run.send_signal(signal.SIGTERM)
    finish(run, cli.TERMINATED)
