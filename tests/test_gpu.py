"""Properties that only a GPU can show: the step of the CPU, captured steps like eager ones, no wait for the host, equal
runs with deterministic kernels, and constant memory.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dist_condense import networks
from dist_condense.core import augmentation, sampling
from dist_condense.core.augmentation import Draw, neutral, set_crop
from dist_condense.data import MemorySource, Reading, open_dataset
from dist_condense.data.reading.read_ahead import ReadAhead
from dist_condense.engine.coordinator import LocalCoordinator, Placement
from dist_condense.engine.shard import ClassShard
from dist_condense.job.worker import assemble
from dist_condense.settings.numerics import numerics
from dist_condense.system.processor import deterministic_kernels, gpu_kernels
from dist_condense.system.transfer import Transfer
from tests.engine import cases

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


Case = tuple[str, *tuple[str, ...]]
"""Name of a case and more keys."""
ALIKE: list[Case] = [
    *((name,) for name in ("dc", "dsa", "dcc", "dm", "idc", "idc_pooled_by_kmeans")),
    ("idc", "compute.microbatch=3"),
]


def shard_after(case: str, device: str, steps: int, folder: Path, *more: str) -> ClassShard:
    swish = "network.activation=swish"  # smooth: no ReLU flips on the last bit
    run = cases.load(case, f"output={folder}", swish, *more)
    placement = Placement(torch.device(device), torch.float64)
    journal = assemble(run, LocalCoordinator(reproducible=True), placement)
    for t in range(steps):
        journal.procedure.trajectory.reach(0, t)
        journal.procedure.shard.match(journal.procedure.trajectory.network, 0, t, t)
    return journal.procedure.shard


@pytest.mark.parametrize("case", ["dc", "dsa", "dcc", "dm", "idc"])
def test_gpu_equals_cpu_in_float64(case: str, tmp_path: Path) -> None:
    there, here = (shard_after(case, device, 2, tmp_path) for device in ("cuda", "cpu"))
    for c, pixels in here.pixels.items():
        torch.testing.assert_close(there.pixels[c].cpu(), pixels, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("graphs", [3, 10])
@pytest.mark.parametrize("case", ALIKE, ids=" ".join)
def test_captured_steps_equal_eager_ones(case: Case, graphs: int, tmp_path: Path) -> None:
    """Ten classes are captured in several graphs or in one, while the images of the next step are read."""
    (name, *keys), fresh = case, "trajectory.start=fresh"
    captured, eager = (
        shard_after(name, "cuda", 3, tmp_path, fresh, *keys, f"compute.cuda_graphs={n}") for n in (graphs, 0)
    )
    for c, pixels in eager.pixels.items():
        torch.testing.assert_close(captured.pixels[c], pixels, rtol=1e-6, atol=1e-8)


@contextmanager
def no_wait_for_the_host() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("case", [("idc",), ("idc", "compute.microbatch=3"), ("idc_pooled_by_kmeans",)], ids=" ".join)
@pytest.mark.parametrize(("tier", "graphs"), [("ram", 0), ("gpu", 0), ("gpu", 3)])
def test_a_step_does_not_wait_for_the_host(tmp_path: Path, tier: str, graphs: int, case: Case) -> None:
    name, *more = case
    keys = f"data.tier={tier}", f"compute.cuda_graphs={graphs}"
    run = cases.load(name, f"output={tmp_path}", "trajectory.start=fresh", *keys, *more)
    journal = assemble(run, LocalCoordinator(reproducible=False), Placement(torch.device("cuda")))
    theta = journal.procedure.trajectory.network
    journal.procedure.shard.match(theta, 0, 0, 0)
    with no_wait_for_the_host():
        journal.procedure.shard.match(theta, 0, 1, 1)


def test_training_on_the_set_does_not_wait_for_the_host(tmp_path: Path) -> None:
    run = cases.load("dsa", f"output={tmp_path}")
    journal = assemble(run, LocalCoordinator(reproducible=False), Placement(torch.device("cuda")))
    trajectory = journal.procedure.trajectory
    trajectory.reach(0, 0)
    trajectory.reach(0, 1)
    with no_wait_for_the_host():
        trajectory.reach(0, 2)


@pytest.mark.parametrize("case", ["dsa", "idc"])
def test_captured_updates_of_theta_equal_eager_ones(case: str, tmp_path: Path) -> None:
    def theta(graphs: int) -> list[torch.Tensor]:
        run = cases.load(case, f"output={tmp_path}", "trajectory.start=fresh", f"compute.cuda_graphs={graphs}")
        journal = assemble(run, LocalCoordinator(), Placement(torch.device("cuda"), torch.float64))
        trajectory = journal.procedure.trajectory
        for t in range(3):
            trajectory.reach(0, t)
        return list(trajectory.state_dict().values())

    for replayed, eager in zip(theta(1), theta(0), strict=True):
        torch.testing.assert_close(replayed, eager, rtol=1e-9, atol=1e-12)


def steps(case: str, folder: Path, *keys: str) -> Iterator[list[Tensor]]:
    """Yield pixels and theta after each matching step and the training that follows it, in float32."""
    run = cases.load(case, f"output={folder}", "trajectory.start=fresh", "compute.reproducible=false", *keys)
    with numerics(run.compute):
        procedure = assemble(run, LocalCoordinator(reproducible=False), Placement(torch.device("cuda"))).procedure
        shard, trajectory = procedure.shard, procedure.trajectory
        for t in range(run.trajectory.matching_steps):
            trajectory.reach(0, t)
            shard.match(trajectory.network, 0, t, t)
            yield [*shard.pixels.values(), *trajectory.state_dict().values()]


@pytest.mark.parametrize("graphs", [0, 3])
@pytest.mark.parametrize("case", [*ALIKE, ("soft_labels",)], ids=" ".join)
def test_two_runs_are_equal_with_deterministic_kernels(case: Case, graphs: int, tmp_path: Path) -> None:
    name, *more = case
    keys = "compute.deterministic=true", f"compute.cuda_graphs={graphs}", "trajectory.matching_steps=4", *more
    one, other = ([[x.clone() for x in state] for state in steps(name, tmp_path, *keys)] for _ in range(2))
    for t, states in enumerate(zip(one, other, strict=True)):
        assert all(torch.equal(x, y) for x, y in zip(*states, strict=True)), f"after step {t}"


@pytest.mark.parametrize("case", ["dsa", "idc"])
def test_deterministic_steps_equal_others(case: str, tmp_path: Path) -> None:
    with deterministic_kernels():
        fixed = shard_after(case, "cuda", 2, tmp_path)
    for c, pixels in shard_after(case, "cuda", 2, tmp_path).pixels.items():
        torch.testing.assert_close(fixed.pixels[c], pixels, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("warped", [augmentation.warp, lambda images, draw: sampling.warped(images, draw.warp)])
def test_products_in_tf32_do_not_move_pixels(warped: Callable[[Tensor, Draw], Tensor]) -> None:
    images, shift = torch.rand(2, 3, 224, 224, device="cuda"), torch.tensor([[5, -7]])
    draw = set_crop(neutral(1), shift, (224, 224)).to(torch.device("cuda"), torch.float32)
    with gpu_kernels(tf32=True, benchmark=False, deterministic=False):
        moved = warped(images, draw)
    torch.testing.assert_close(moved[..., :-5, 7:], images[..., 5:, :-7], rtol=0, atol=1e-3)


@pytest.mark.parametrize("graphs", [0, 3])
def test_memory_does_not_grow_with_the_steps(graphs: int, tmp_path: Path) -> None:
    keys, peaks = (f"compute.cuda_graphs={graphs}", "trajectory.matching_steps=8"), []
    for _ in steps("idc", tmp_path, *keys):
        torch.cuda.synchronize()
        peaks.append(torch.cuda.max_memory_allocated())
        torch.cuda.reset_peak_memory_stats()
    assert max(peaks[3:]) <= 1.1 * peaks[2]


def test_tensors_that_are_sent_together_arrive_whole() -> None:
    stored = torch.randint(256, (64, 3, 32, 32), dtype=torch.uint8)
    given = [stored, torch.rand((), dtype=torch.float64), torch.arange(64), stored.cuda()]
    parcels = [Transfer(torch.device("cuda")).send(given) for _ in range(20)]
    for parcel in parcels:
        received = parcel.received()
        assert all(x.is_cuda and torch.equal(x.cpu(), y.cpu()) for x, y in zip(received, given, strict=True))


@pytest.mark.parametrize("name", networks.names())
def test_networks_run_there(name: str) -> None:
    network = networks.build(name, channels=3, size=64, classes=5, seed=1).cuda().eval()
    assert network(torch.randn(2, 3, 64, 64, device="cuda")).shape == (2, 5)


def test_images_read_ahead_arrive_whole() -> None:
    stored = torch.randint(256, (64, 3, 224, 224), dtype=torch.uint8)
    ahead = ReadAhead(MemorySource({0: stored}), torch.device("cuda"))
    requests = [torch.randperm(64)[:32] for _ in range(20)]
    tickets = [ahead.announce(0, indices) for indices in requests]
    for indices, ticket in zip(requests, tickets, strict=True):
        images = ahead.redeem(ticket)
        assert images.is_cuda
        assert torch.equal((images * 1).cpu(), stored[indices])  # used on the current stream first


def test_the_tier_gpu_gives_the_images_that_memory_gives() -> None:
    digits = open_dataset("digits", None, size=32)
    there = digits.train([3], Reading("gpu", device=torch.device("cuda")))
    indices = torch.tensor([5, 0, 5])
    assert there.get(3, indices).is_cuda
    assert torch.equal(there.get(3, indices).cpu(), digits.train([3]).get(3, indices))


@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_images_on_the_gpu_are_read_ahead_as_they_are(name: str) -> None:
    digits, device = open_dataset("digits", None, size=32), torch.device(name)
    indices = torch.tensor([5, 0, 5])
    with ReadAhead(digits.train([3], Reading("gpu", device=device)), device) as ahead:
        images = ahead.redeem(ahead.announce(3, indices))
        assert images.is_cuda
        assert torch.equal(images.cpu(), digits.train([3]).get(3, indices))
