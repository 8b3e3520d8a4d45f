"""Small runs of every kind of method on the digits, and ways to execute them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import save
from torch import Tensor

from dist_condense.engine import slices
from dist_condense.engine.coordinator import Coordinator, LocalCoordinator, ProcessGroupCoordinator
from dist_condense.engine.ownership import assign
from dist_condense.job import checkpoint, preflight, worker
from dist_condense.job.checkpoint import Checkpoint
from dist_condense.job.journal import Journal
from dist_condense.result import metrics_file
from dist_condense.settings import config, resolve
from dist_condense.settings.config import RunConfig
from dist_condense.settings.run_folder import RunFolder
from dist_condense.system.storage import Folder, Storage

Make = Callable[[], Coordinator]
VERSION_1 = "dist_condense checkpoint 1"
"""Version of checkpoints."""
CORES = 3
"""Cores of the single machine of a group: as many as the largest group, so that each count divides them differently."""

TINY = [
    "network.width=8",
    "network.depth=2",
    "method.real_batch=24",
    "trajectory.networks=2",
    "trajectory.matching_steps=3",
    "cluster.device=cpu",
    "ipc=2",
    "tracking.log_every=2",
]
ON_S = ["training=synthetic", "training.epochs=2", "training.batch=12"]
BY_CLASS = 'ipc={"3": 1, "7": 4, "*": 2}'
CASES: dict[str, list[str]] = {
    "dc": ["method=dc", *ON_S],
    "dsa": ["method=dsa", *ON_S],
    "dcc": ["method=dcc", *ON_S, "method.grouping.warmup_networks=1", "method.grouping.warmup_steps=1"],
    "dm": ["method=dm", "training=frozen", "trajectory.networks=6", "trajectory.matching_steps=1"],
    "idc": [
        "method=idc",
        "training=real",
        "training.images=1300",  # 7 of the 8 batches of a pass, so that a segment crosses its end
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
    "representative": [
        "method=idc",
        "training=real",
        "training.images=200",
        "training.batch=200",
        "method.images.lr=20",
        "method.start=representative",
        "method.real_draw=representative",
        "method.representatives.interval=2",
        "method.representatives.images=60",
        "trajectory.start=early",
        "trajectory.pretrain_epochs=1",
        "trajectory.pool_size=2",
        "compute.microbatch=7",
    ],
    "representative_pooled": [
        "method=dcc",
        *ON_S,
        "method.label_lr=0.1",
        "method.real_draw=representative",
        "method.representatives.interval=4",  # a minibatch of the first network is kept for the second
    ],
    "batch_norm": ["method=dcc", *ON_S, "network.norm=batch"],
    "soft_labels": ["method=dsa", *ON_S, "method.label_lr=0.1"],
    "by_class": ["method=dcc", *ON_S, "method.label_lr=0.1", BY_CLASS],
    "idc_by_class": ["method=idc", *ON_S, "method.images.lr=20", "method.synthetic_limit=10", BY_CLASS],
    "two_classes": ["method=dcc", *ON_S, "dataset.classes=['3','8']"],
    "random": ["method=random"],
    "herding_by_class": ["method=herding", "method.selection.epochs=1", "method.selection.batch=200", BY_CLASS],
    "herding": ["method=herding", "method.selection.epochs=3", "method.selection.batch=200"],
}
REDUCED = ("dcc", "idc")
"""Cases in which workers communicate."""


def load(name: str, *more: str) -> RunConfig:
    """Load the config of a case."""
    return config.load("configs/digits.yaml", [*TINY, *CASES[name], *more])


def execute(run: RunConfig, coordinator: Coordinator) -> None:
    """Condense in this process, as on a first start; ``run.output`` contains the checkpoint."""
    dataset, _ = preflight.check(run)
    Path(run.output).mkdir(parents=True, exist_ok=True)
    workers = coordinator.size if isinstance(coordinator, ProcessGroupCoordinator) else 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resolve, "machines", lambda: [(CORES, 0, 0)])
        run = replace(run, cluster=replace(run.cluster, workers=workers))
        settled, _ = resolve.resolved(run, dataset, {})
    worker.work(settled, coordinator, torch.device("cpu"))


def result(folder: Path) -> Tensor:
    """Return :func:`learnt` of the newest checkpoint."""
    newest = checkpoint.newest(Folder(folder / "checkpoints"))
    assert newest is not None
    return learnt(classes(newest))


def classes(stored: Checkpoint) -> dict[str, Tensor]:
    """Return the state of all classes in a checkpoint, by ``NAME.LABEL``."""
    files = [entry for entry in stored.entries if entry.labels]
    return {name: x for tensors in stored.read(files).values() for name, x in tensors.items()}


def measures(folder: Path) -> list[tuple[int, dict[str, float]]]:
    """Return the step and the measures of each entry of a run's metrics.jsonl."""
    entries = metrics_file.read(RunFolder(folder).metrics)
    return [(entry["step"], metrics_file.measures(entry)) for entry in entries]


def learnt(state: Mapping[str, Tensor]) -> Tensor:
    """Return pixels, and labels where these are learnt, of all classes in a state: ``[classes, values]``.

    Where classes have different numbers of images, it is ``[values]``.
    """
    names = [name for name in ("pixels", "labels") if f"{name}.0" in state]
    classes = range(sum(name.startswith("pixels") for name in state))
    values = [torch.cat([state[f"{name}.{c}"].flatten() for name in names]) for c in classes]
    return torch.stack(values) if len({*map(len, values)}) == 1 else torch.cat(values)


def alone(name: str, folder: Path, *more: str) -> Tensor:
    """Return the set of a single process."""
    execute(load(name, f"output={folder}", *more), LocalCoordinator())
    return result(folder)


def as_version_1(store: Storage, workers: int) -> None:
    """Write the checkpoints in a store in the format of version 1: a file of classes for each of ``workers``."""
    for name in checkpoint.names(store):
        opened = checkpoint.opened(store, name)
        state, entries = classes(opened), [opened.common]
        owned = assign([1.0] * sum(len(entry.labels) for entry in opened.entries), workers)
        for rank, labels in enumerate(owned):
            file = f"classes_{rank}.safetensors"
            data = save({key: x for key, x in state.items() if int(key.rsplit(".", 1)[1]) in labels})
            store.write(f"{name}/{file}", data)
            entries.append(checkpoint.entry_of(file, data, labels))
        for label in range(len(opened.entries) - 1):
            store.remove(f"{name}/{checkpoint.class_file(label)}")
        checkpoint.commit(store, opened.state, entries, VERSION_1)


class Enough(BaseException):
    """Exception that ends a run and is not caught."""


def first_steps(name: str, steps: int, folder: Path, *more: str) -> Tensor:
    """Return the set of a single process after the first ``steps`` matching steps of a longer run."""
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


Jobs = dict[str, tuple[str, Make, *tuple[str, ...]]]
"""Case, coordinator and its own overrides, by name of the output."""


def together(workers: int, jobs: Jobs, folder: Path, *more: str) -> dict[str, Tensor | str]:
    """Return the sets of a gloo group, or the text of the error for a job that fails."""
    return in_groups({workers: jobs}, {workers: folder}, *more)[workers]


def in_groups(jobs: dict[int, Jobs], folders: dict[int, Path], *more: str) -> dict[int, dict[str, Tensor | str]]:
    """Return :func:`together` by number of workers, one group after the other: starting processes is the main cost."""
    with tempfile.TemporaryDirectory() as rendezvous:
        mp.spawn(_enter, (f"file://{rendezvous}/group", jobs, folders, more), nprocs=max(jobs))
    return {
        workers: {name: torch.load(folders[workers] / f"{name}.result") for name in own}
        for workers, own in jobs.items()
    }


def _enter(rank: int, address: str, jobs: dict[int, Jobs], folders: dict[int, Path], more: tuple[str, ...]) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    for workers, own in jobs.items():
        if rank < workers:
            _in_group(rank, workers, f"{address}{workers}", own, folders[workers], more)


def _in_group(rank: int, workers: int, address: str, jobs: Jobs, folder: Path, more: tuple[str, ...]) -> None:
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=workers)
    for name, (case, make, *own) in jobs.items():
        slices.cheaper_everywhere = BY_TIME  # what the job before has made of it, on its workers alone
        got: Any
        try:
            run = load(case, f"output={folder / name}", *more, *own)
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


BY_TIME = slices.cheaper_everywhere


def shared() -> Coordinator:
    """Keep the slices of training batches shared out, regardless of the timing."""
    slices.cheaper_everywhere = lambda timings, number: False
    return ProcessGroupCoordinator()


def everywhere() -> Coordinator:
    """Compute all slices on every worker after the timed updates, regardless of the timing."""
    slices.cheaper_everywhere = lambda timings, number: True
    return ProcessGroupCoordinator()


class Forgetful(ProcessGroupCoordinator):
    """Omits the reduction of fixed-point sums."""

    def reduce(self, tensor: Tensor, operation: Any) -> None:
        if tensor.dtype != torch.int64:
            super().reduce(tensor, operation)


class Averaging(ProcessGroupCoordinator):
    """Averages over workers instead of summing."""

    def reduce(self, tensor: Tensor, operation: Any) -> None:
        super().reduce(tensor, operation)
        if tensor.dtype == torch.int64:
            tensor.div_(self.size, rounding_mode="floor")
