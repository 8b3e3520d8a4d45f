"""A shard that disappears while a run reads it: reported with file and class, and repaired by restoring it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dist_condense import load_set, run
from dist_condense.commands import cli
from dist_condense.data.shards import shards
from dist_condense.job import checkpoint
from dist_condense.job.journal import Journal
from dist_condense.settings.run_folder import RunFolder
from dist_condense.system.storage import Folder
from tests.data.shards import shard_cases
from tests.engine import cases

METRICS = RunFolder.metrics.name

STEPS, DAMAGED_AFTER, CLASS = 6, 3, 1
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "disappears": (Path.unlink, "it cannot be read any more"),
    "is cut": (lambda path: os.truncate(path, 1024), "it ends before image"),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write three classes of four images as class shards."""
    folder = tmp_path_factory.mktemp("shards")
    shard_cases.prepared(shard_cases.write_folder(folder / "images"), folder / "shards", size=16)
    return folder / "shards"


def command(case: str, folder: Path, root: Path) -> int:
    images = ("dataset.name=image_folder", f"dataset.root={root}", "data.tier=disk", "dataset.size=16", "ipc=1")
    real = ("method.real_batch=3", "training.images=8", "training.batch=4", "trajectory.pretrain_epochs=1")
    more = ("tracking.log_every=1", "tracking.checkpoint_steps=1", "tracking.uri=http://127.0.0.1:9")
    given = (*cases.TINY, *cases.CASES[case], *images, *real, *more)
    own = ("cluster.workers=0", "evaluation.epochs=0", f"output={folder}")
    overrides = {pair.split("=", 1)[0]: pair for pair in (*given, *own)}
    return run.main(["configs/digits.yaml", *overrides.values()])


def pixels(folder: Path) -> Tensor:
    return load_set(folder).pixels()


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("case", ["dc", "idc"])
def test_a_shard_that_goes_away_and_comes_back(
    case: str,
    damage: str,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert command(case, tmp_path / "whole", root) == 0, capfd.readouterr().err
    monkeypatch.setattr(shards, "OPEN_FILES", 1)  # one that is open stays readable after its name is gone
    shard, (break_it, reason) = root / "train" / f"{CLASS:04d}-000.tar", DAMAGES[damage]
    content, after_step = shard.read_bytes(), Journal.after_step

    def breaking(self: Journal, done: int) -> None:
        after_step(self, done)
        if done == DAMAGED_AFTER:
            break_it(shard)

    try:
        with monkeypatch.context() as patch:
            patch.setattr(Journal, "after_step", breaking)
            assert command(case, tmp_path / "broken", root) == cli.FAILED
    finally:
        shard.write_bytes(content)
    output = capfd.readouterr().err
    (line,) = [line for line in output.splitlines() if line.startswith("failed: ")]
    assert f"class {CLASS} ({shard_cases.CLASSES[CLASS]}): {shard}: {reason}" in line and line.count(".tar") <= 2
    kept = checkpoint.newest(Folder(tmp_path / "broken" / "checkpoints"))
    assert kept is not None and DAMAGED_AFTER <= kept.steps < STEPS
    assert f"the set of matching step {kept.steps} is kept" in output
    assert torch.equal(pixels(tmp_path / "broken"), torch.cat([cases.classes(kept)[f"pixels.{c}"] for c in range(3)]))
    assert command(case, tmp_path / "broken", root) == 0
    assert f"resuming after matching step {kept.steps} of {STEPS}" in capfd.readouterr().err
    assert torch.equal(pixels(tmp_path / "broken"), pixels(tmp_path / "whole"))
    lines = (tmp_path / "broken" / METRICS).read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, STEPS + 1))
