"""Parts of a plug-in on Ray: its worker group and its trials import the module, and the set is that of one process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dist_condense.evaluation.rows import read_csv
from tests import plugged
from tests.cluster.ray_head import environment, started
from tests.engine import cases

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.daemon("Ray worker groups")]

ROOT = Path(__file__).parents[2]


def finished(workers: int, folder: Path, elsewhere: Path) -> Path:
    """Run the command with a plug-in in the folder ``elsewhere``, and return the folder of the run."""
    given = (*plugged.ALL_PARTS, *plugged.EVALUATION, f"cluster.workers={workers}", f"output={folder}")
    command = [sys.executable, "-P", "-m", "dist_condense.run", "--plugin", "mypkg", "configs/digits.yaml", *given]
    env = environment(PYTHONPATH=f"{ROOT}:{elsewhere}")
    started.append(subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True))
    _, log = started[-1].communicate(timeout=300)
    assert started[-1].returncode == 0, log
    return folder


def test_two_workers_with_a_plugin_equal_one_process(tmp_path: Path) -> None:
    elsewhere = plugged.write(tmp_path / "elsewhere")
    alone, together = (finished(n, tmp_path / str(n) / "run", elsewhere) for n in (0, 2))
    assert torch.equal(cases.result(alone), cases.result(together))
    rows = [sorted(read_csv(folder / "evaluation.csv"), key=str) for folder in (alone, together)]
    assert len(rows[0]) == 4 and rows[0] == rows[1]
