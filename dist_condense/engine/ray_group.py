"""A worker group on Ray Train v2. Ray places, starts and restarts the workers; it decides nothing else."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayActorError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError

from dist_condense.engine.coordinator import Coordinator, ProcessGroupCoordinator
from dist_condense.engine.journal import RunFailed

Work = Callable[[Any, Coordinator, torch.device], None]
"""What each worker executes: (config, coordinator, device). A module-level function, so that it can travel."""


@dataclass(frozen=True)
class Group:
    """Size and resources of a worker group.

    :param threads: CPU cores reserved for each worker, and its threads.
    :param failures: how often a lost group is started again; it continues from the newest checkpoint.
    """

    workers: int
    threads: int
    gpu: bool
    reproducible: bool
    failures: int = 0


def connect() -> None:
    """Join the cluster of a submitted job or of RAY_ADDRESS, else start Ray on this machine."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # Tune: no boxes between our own lines
    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level=logging.ERROR)


def resources() -> tuple[int, int]:
    """(CPU cores, GPUs) of the whole cluster."""
    total = ray.cluster_resources()
    return int(total.get("CPU", 0)), int(total.get("GPU", 0))


def launch(work: Work, config: Any, group: Group, folder: Path) -> None:
    """Run ``work`` on every worker to its end.

    :param folder: for Ray's own records; one that every node sees.
    :raises RunFailed: a worker failed or was lost for good; the message says which rank and why.
    """
    trainer = TorchTrainer(
        _enter,
        train_loop_config={"work": work, "config": config, "reproducible": group.reproducible},
        torch_config=TorchConfig(backend="nccl" if group.gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=group.workers,
            use_gpu=group.gpu,
            resources_per_worker={"CPU": group.threads, **({"GPU": 1} if group.gpu else {})},
        ),
        run_config=RunConfig(
            name="ray", storage_path=str(folder), failure_config=FailureConfig(max_failures=group.failures)
        ),
    )
    try:
        trainer.fit()
    except WorkerGroupError as error:
        raise RunFailed(_cause(error.worker_failures)) from error
    except TrainingFailedError as error:  # the group could not be placed or started
        raise RunFailed(f"Ray could not run the worker group: {_innermost(error)}") from error


def _enter(payload: dict[str, Any]) -> None:
    coordinator = ProcessGroupCoordinator(payload["reproducible"])
    payload["work"](payload["config"], coordinator, get_device())


def _cause(failures: dict[int, Exception]) -> str:
    """Our own word on what happened if a worker has one, else who was lost, else every worker's error."""
    texts = {rank: _innermost(error) for rank, error in sorted(failures.items())}
    for rank, text in texts.items():
        if RunFailed.__name__ in text:
            return f"worker {rank}: {text.rsplit(f'{RunFailed.__name__}: ', 1)[-1]}"
    lost = [rank for rank, error in sorted(failures.items()) if _was_lost(error)]
    if lost:
        return "; ".join(f"worker {rank} was lost: its process ended ({texts[rank][:300]})" for rank in lost)
    return "; ".join(f"worker {rank}: {text}" for rank, text in texts.items())


def _was_lost(error: BaseException) -> bool:
    """Whether the process of the worker is gone, rather than its code having raised."""
    return isinstance(error, RayActorError) or "actor is dead" in str(error) or "ActorDiedError" in str(error)


def _innermost(error: Exception) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
