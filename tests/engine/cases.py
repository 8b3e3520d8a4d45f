"""Small runs of every kind of method on the digits, and the ways to execute them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from dist_condense.engine.coordinator import Coordinator, LocalCoordinator, ProcessGroupCoordinator
from dist_condense.job import checkpoint, preflight, worker
from dist_condense.job.journal import Journal
from dist_condense.settings import config
from dist_condense.settings.config import RunConfig
from dist_condense.system.storage import Folder

Make = Callable[[], Coordinator]

TINY = [
    "network.width=8",
    "network.depth=2",
    "method.real_batch=24",
    "trajectory.networks=2",
    "trajectory.matching_steps=3",
    "compute.slices=3",
    "compute.threads=1",
    "compute.reproducible=true",
    "cluster.device=cpu",
    "ipc=2",
    "tracking.log_every=2",
]
ON_S = ["training=synthetic", "training.epochs=2", "training.batch=12"]
CASES: dict[str, list[str]] = {
    "dc": ["method=dc", *ON_S],
    "dsa": ["method=dsa", *ON_S],
    "dcc": ["method=dcc", *ON_S, "method.grouping.warmup_networks=1", "method.grouping.warmup_steps=1"],
    "dm": ["method=dm", "training=frozen", "trajectory.networks=6", "trajectory.matching_steps=1"],
    "idc": [
        "method=idc",
        "training=real",
        "training.images=1300",  # 7 of the 8 batches of a pass, so that a stretch crosses its end
        "training.batch=200",
        "training.cutmix=0.7",
        "method.images.lr=20",
        "trajectory.start=pretrained",
        "trajectory.pretrain_epochs=1",
        "training.lr=0.05",
    ],
    "idc_pooled_by_kmeans": [
        "method=idc",
        "training=real",
        "training.images=32",
        "training.batch=32",
        "method.images.lr=20",
        "method.parameterisation.decoding=multi",
        "method.grouping.name=kmeans",
        "method.grouping.number=3",
        "trajectory.start=pool",
        "trajectory.pretrain_epochs=1",
        "trajectory.pool_size=2",
        "compute.microbatch=7",
    ],
    "batch_norm": ["method=dcc", *ON_S, "network.norm=batch", "compute.slices=1"],
    "two_classes": ["method=dcc", *ON_S, "dataset.classes=['3','8']"],
}
REDUCED = ("dcc", "idc")
"""Cases in which workers need each other."""


def load(name: str, *more: str) -> RunConfig:
    """The config of a case."""
    return config.load("configs/digits.yaml", [*TINY, *CASES[name], *more])


def execute(run: RunConfig, coordinator: Coordinator) -> None:
    """Condense in this process; ``run.output`` holds the checkpoint."""
    preflight.check(run)
    Path(run.output).mkdir(parents=True, exist_ok=True)
    worker.work(run, coordinator, torch.device("cpu"))


def result(folder: Path) -> Tensor:
    """The final pixels ``[classes, ipc, C, h, h]``."""
    found = checkpoint.newest(Folder(folder / "checkpoints"))
    assert found is not None
    state = found.classes()
    return torch.stack([state[f"pixels.{c}"] for c in range(sum(name.startswith("pixels") for name in state))])


def alone(name: str, folder: Path, *more: str) -> Tensor:
    """The set of one process."""
    execute(load(name, f"output={folder}", *more), LocalCoordinator())
    return result(folder)


class Enough(BaseException):
    """Ends a run, which nobody catches."""


def first_steps(name: str, steps: int, folder: Path, *more: str) -> Tensor:
    """The set of one process after so many matching steps of a run that has more."""
    whole = Journal.after_step

    def after_step(self: Journal, done: int) -> None:
        whole(self, done)
        if done == steps:
            self.writer.wait()
            raise Enough

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "after_step", after_step)
        with pytest.raises(Enough):
            alone(name, folder, *more, f"tracking.checkpoint_steps={steps}")
    return result(folder)


def together(workers: int, jobs: dict[str, tuple[str, Make]], folder: Path, *more: str) -> dict[str, Tensor | str]:
    """The sets of a gloo group; ``jobs`` gives case and coordinator by the name of the output.

    A job that fails gives the error's text instead. One group serves all jobs: starting processes is what costs.
    """
    with tempfile.TemporaryDirectory() as rendezvous:
        mp.spawn(_enter, (workers, f"file://{rendezvous}/group", jobs, folder, more), nprocs=workers)
    return {name: torch.load(folder / f"{name}.result") for name in jobs}


def _enter(
    rank: int, workers: int, address: str, jobs: dict[str, tuple[str, Make]], folder: Path, more: tuple[str, ...]
) -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=workers)
    for name, (case, make) in jobs.items():
        got: Any
        try:
            run = load(case, f"output={folder / name}", *more)
            Path(run.output).mkdir(parents=True, exist_ok=True)
            dist.barrier()
            execute(run, make())
            got = result(folder / name)
        except RuntimeError as error:
            got = str(error)
        dist.barrier()
        if rank == 0:
            torch.save(got, folder / f"{name}.result")
    dist.destroy_process_group()


class Forgetful(ProcessGroupCoordinator):
    """Leaves out the one reduction of fixed-point sums."""

    def reduce(self, tensor: Tensor, operation: Any) -> None:
        if tensor.dtype != torch.int64:
            super().reduce(tensor, operation)


class Averaging(ProcessGroupCoordinator):
    """Averages over workers where sums are asked for."""

    def reduce(self, tensor: Tensor, operation: Any) -> None:
        super().reduce(tensor, operation)
        if tensor.dtype == torch.int64:
            tensor.div_(self.size, rounding_mode="floor")
