"""What only a GPU can show: the same step there as on the CPU, twice the same bits, and no wait for the host."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from dist_condense import networks
from dist_condense.engine.coordinator import LocalCoordinator, Placement
from dist_condense.engine.shard import ClassShard
from dist_condense.worker import assemble
from tests.engine import cases

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def shard_after(case: str, device: str, steps: int, folder: Path) -> ClassShard:
    run = cases.load(case, f"output={folder}", "network.activation=swish")  # smooth: no ReLU flips on the last bit
    placement = Placement(torch.device(device), torch.float64)
    journal = assemble(run, LocalCoordinator(reproducible=True), placement)
    journal.trajectory.begin(0)
    for t in range(steps):
        journal.shard.match(journal.trajectory.network, 0, t, t)
        journal.trajectory.advance(0, t)
    return journal.shard


@pytest.mark.parametrize("case", ["dc", "dsa", "dcc", "dm", "idc"])
def test_gpu_equals_cpu_in_float64(case: str, tmp_path: Path) -> None:
    there, here = (shard_after(case, device, 2, tmp_path) for device in ("cuda", "cpu"))
    for c, pixels in here.pixels.items():
        torch.testing.assert_close(there.pixels[c].cpu(), pixels, rtol=1e-6, atol=1e-8)


def test_a_step_does_not_wait_for_the_host(tmp_path: Path) -> None:
    run = cases.load("idc", f"output={tmp_path}", "trajectory.start=fresh")
    journal = assemble(run, LocalCoordinator(reproducible=False), Placement(torch.device("cuda")))
    theta = journal.trajectory.network
    journal.shard.match(theta, 0, 0, 0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            journal.shard.match(theta, 0, 1, 1)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", networks.names())
def test_networks_run_there(name: str) -> None:
    network = networks.build(name, channels=3, size=64, classes=5, seed=1).cuda().eval()
    assert network(torch.randn(2, 3, 64, 64, device="cuda")).shape == (2, 5)
