"""The shipped configs on prepared shards of real photographs with two Ray workers: each reads its own classes from the
tier that fits the budget, and the set equals that of one process with the folder in memory.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from dist_condense import load_set, run
from dist_condense.commands import cli
from dist_condense.engine.coordinator import Coordinator
from dist_condense.engine.observer import Observer
from dist_condense.job import worker
from dist_condense.settings import assembly
from dist_condense.settings.config import RunConfig
from tests.cluster.ray_head import environment
from tests.conftest import ROOT

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.daemon("Ray worker groups")]

SMALL = (
    "network.width=8",
    "ipc=1",
    "method.real_batch=4",
    "training.images=32",
    "training.batch=32",
    "trajectory.networks=1",
    "trajectory.matching_steps=2",
    "trajectory.start=fresh",
    "compute.slices=2",
    "compute.threads=1",
    "evaluation.epochs=0",
)
CASES = {
    "miniimagenet84": (100, "disk", "ShardStore", "data.memory_budget=0.001"),
    "imagenette224": (10, "encoded", "RamStore", "data.memory_budget=0.3"),
}
"""Classes, and the tier and store that the budget leaves."""


def noting(config: RunConfig, coordinator: Coordinator, device: torch.device, observe: Observer, **more: Any) -> None:
    """Execute a worker, and write a note with the source of its images, in the worker's process."""
    shard_of = assembly.shard_of

    def noted(*given: Any, **named: Any) -> Any:
        shard = shard_of(*given, **named)
        store = shard.source.source.source.store  # below those that read ahead and name classes
        note = {"tier": config.data.tier, "store": type(store).__name__, "classes": list(store.labels)}
        (Path(config.output) / f"note{coordinator.rank}.json").write_text(json.dumps(note))
        return shard

    assembly.shard_of = noted
    worker.work(config, coordinator, device, observe, **more)


def main(given: Sequence[str]) -> int:
    """Execute the command with workers that write notes."""
    worker.work = noting
    return run.main(given)


def test_two_workers_on_prepared_shards(real_data: Path, tmp_path: Path) -> None:
    """Both runs share one process and one Ray."""
    given = []
    for name, (*_, budget) in CASES.items():
        assert cli.main(["prepare", str(real_data / name), str(tmp_path / name)]) == 0
        own = [f"dataset.root={tmp_path / name}", f"output={tmp_path / 'together' / name}", "cluster.workers=2", budget]
        given.append([f"configs/{name}_idc.yaml", *SMALL, *own])
    command = [sys.executable, "-c", f"from {__name__} import main; raise SystemExit(max(map(main, {given})))"]
    done = subprocess.run(command, cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    for name, (classes, tier, store, budget) in CASES.items():
        together, alone = tmp_path / "together" / name, tmp_path / "alone" / name
        assert f"tier {tier}: a node's share is" in done.stderr
        notes = [json.loads((together / f"note{rank}.json").read_text()) for rank in range(2)]
        assert [(note["tier"], note["store"]) for note in notes] == [(tier, store)] * 2
        assert [len(note["classes"]) for note in notes] == [classes // 2] * 2
        assert sorted(notes[0]["classes"] + notes[1]["classes"]) == list(range(classes))
        own = [f"dataset.root={real_data / name}", f"output={alone}", "cluster.workers=0", budget, "data.tier=ram"]
        assert run.main([f"configs/{name}_idc.yaml", *SMALL, *own]) == 0
        sets = [load_set(folder).pixels() for folder in (together, alone)]
        assert torch.equal(*sets) and sets[0].isfinite().all() and len(sets[0]) == classes
