"""A worker group on Ray Train v2. Ray places, starts and restarts the workers; it decides nothing else."""

from __future__ import annotations

import logging
import math
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray._private import services
from ray._private import utils as ray_utils
from ray.exceptions import RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError

from dist_condense.engine.coordinator import Coordinator, ProcessGroupCoordinator
from dist_condense.engine.errors import RunFailed
from dist_condense.engine.observer import Observer
from dist_condense.engine.ray import join, start
from dist_condense.engine.ray.failures import Restarts, cause, innermost
from dist_condense.engine.ray.metrics import RayMetrics
from dist_condense.engine.ray.network import ADVICE, OnRaysNetwork
from dist_condense.engine.roll_call import TIMEOUT, RollCall
from dist_condense.system import plugins, terminal, waiting

Work = Callable[[Any, Coordinator, torch.device, Observer], None]
"""Function of (config, coordinator, device, observer) that each worker executes; defined in a module, to be pickled."""

PROCESS = {
    "env_vars": {
        "MALLOC_ARENA_MAX": "1",
        "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "5",
        **waiting.environment(),
    }
}
"""Environment of the processes that Ray starts, which share the cores of a node.

Ray runs our code in a thread. glibc maps every block over 64 MiB of a thread's own arena anew, even with
``keep_freed_memory``, and these page faults took a third of a matching step; hence a single arena. A failed group waits
for a hanging worker to leave, by default for 30 s.
"""

LATER = 60.0
"""Additional seconds that Ray and NCCL wait after the roll call, because they end a worker without giving a reason."""

PLACING = 60.0
"""Duration in seconds of each of Ray's attempts to place a group."""

LOOKING = 20.0
"""Seconds between two checks for free resources if a group continues with fewer workers; Ray counts nodes as often."""

LOOPBACK = "127.0.0.1"
"""Address of a Ray cluster that is started here, which only this machine needs to reach."""

UNUSED = ("DatasetsCallback",)
"""Callbacks of Ray Train, each with an actor that takes a second to start, for data sets of Ray Data."""
UNUSED_HERE = ("PlacementGroupCleanerCallback",)
"""Like :data:`UNUSED`, to clean up after a killed controller; a cluster that was started here ends with its driver."""

WATCHER = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
"""Environment variable of Ray Train's controller, 0 or 1."""

NO_SPARE = {"prestart_worker_first_driver": False}
"""Ray's own setting: no processes are started in advance, which none of our actors could use, because they differ in
their environment."""

CHECKOUT = Path(__file__).parents[3]
"""Folder that contains the package."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Size and resources of a worker group.

    :param threads: number of CPU cores reserved for each worker, which is also its number of threads.
    :param max_failures: maximum number of restarts of a failed group, each from the newest checkpoint.
    :param timeout: seconds that workers wait for each other.
    :param min_workers: minimum number of workers with which to continue; None: ``workers``.
    """

    workers: int
    threads: int
    gpu: bool
    reproducible: bool
    max_failures: int = 0
    timeout: float = TIMEOUT
    min_workers: int | None = None

    @property
    def size(self) -> int | tuple[int, int]:
        """Number of workers in Ray Train's form: a fixed number, or (minimum, maximum)."""
        return self.workers if self.min_workers is None else (self.min_workers, self.workers)

    @property
    def placings(self) -> int:
        """Maximum number of attempts to place the group, over all its starts.

        Each start may retry for about ``timeout`` seconds; by default, Ray would retry forever.
        """
        return (self.max_failures + 1) * math.ceil(self.timeout / PLACING)


def connect() -> None:
    """Join the cluster of a submitted job, of RAY_ADDRESS or of `ray start`, else start Ray on this machine.

    Prints which cluster is used, and leaves the process's signal handlers unchanged.

    :raises RunFailed: within about a minute, if no cluster can be joined or started.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # Tune: no boxes between our own lines
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # the driver answers Ctrl-C
    if ray.is_initialized():
        return
    cluster, options = join.find_cluster(), dict[str, Any]()
    if cluster is None:
        options = {"_temp_dir": start.folder(), "_node_ip_address": LOOPBACK, "_system_config": NO_SPARE}
        start.token()
        terminal.event(f"starting Ray on this machine{start.unguarded()}")
    else:
        start.tighten_token()
        terminal.event(f"joining {cluster}")
        cluster.check_alive()
    try:
        with _sigterm_unchanged(), _bootstrap(cluster), chdir(_safe_folder()):
            ray.init(log_to_driver=False, logging_level=logging.ERROR, runtime_env=PROCESS, **options)
    except Exception as error:  # Ray raises plain ones, even if an overloaded machine starts its processes too slowly
        raise RunFailed(_not_connected(cluster, error)) from error


@contextmanager
def _sigterm_unchanged() -> Iterator[None]:
    """Keep Ray from installing its SIGTERM handler.

    The handler raises SystemExit wherever the signal arrives, even in a callback, where it ends in a traceback.
    """
    before, ray_utils.set_sigterm_handler = ray_utils.set_sigterm_handler, lambda handler: None
    try:
        yield
    finally:
        ray_utils.set_sigterm_handler = before


@contextmanager
def _bootstrap(cluster: join.RayCluster | None) -> Iterator[None]:
    """Make Ray join the given cluster or, for None, start a node that listens on the loopback interface alone.

    Otherwise, Ray would read the file of `ray start` once more, from a folder in which every user can replace it; and a
    node that Ray starts would use an address that other machines can reach, and listen on all interfaces.
    """
    before = services.find_bootstrap_address, services.resolve_ip_for_localhost
    services.find_bootstrap_address = lambda _: cluster and cluster.address
    services.resolve_ip_for_localhost = lambda host: host if cluster is None else before[1](host)
    try:
        yield
    finally:
        services.find_bootstrap_address, services.resolve_ip_for_localhost = before


def _safe_folder() -> Path:
    """Return a safe working folder in which to call Ray.

    Ray puts the working folder first on the import path of all workers, before the standard library; but the folder of
    a run's data or of another user may contain a ``random.py``. The safe folder is the checkout that contains the
    package. For an installed package it is the root of the file system, because the folder of installed packages must
    not come first, either.
    """
    return CHECKOUT if (CHECKOUT / "pyproject.toml").is_file() else Path(CHECKOUT.anchor)


def _not_connected(cluster: join.RayCluster | None, error: Exception) -> str:
    if cluster is not None:
        return f"{cluster} could not be joined: {innermost(error)}; {cluster.remedy}"
    return f"Ray could not be started: {innermost(error)} Try again, or run without Ray by cluster.workers=0"


def nodes() -> list[tuple[int, int, int]]:
    """Return (CPU cores, GPUs, bytes of memory for workers) of each node that is alive; 0 where Ray reports nothing."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(int(node.get("CPU", 0)), int(node.get("GPU", 0)), int(node.get("memory", 0))) for node in alive]


def launch(work: Work, config: Any, group: Group, folder: Path, restarts: Path) -> None:
    """Run ``work`` on every worker of a group until it is complete.

    :param folder: folder for Ray's own records, on storage that every node can access; its name labels the metrics.
    :param restarts: file to which a line is appended for each failure of the group.
    :raises RunFailed: the group could not be started, or a worker failed or was lost for good; the message states the
        reason and the worker's rank.
    """
    payload = Payload(
        work=work,
        config=config,
        run=folder.name,
        reproducible=group.reproducible,
        timeout=group.timeout,
        plugins=[plugin.module for plugin in plugins.loaded()],
    )
    os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = str(group.timeout + LATER)  # Ray reads it only here
    try:
        with _unwatched():
            _start_coordinator()
            _in_thread(lambda: _trainer(payload, group, folder, restarts).fit())
    except WorkerGroupError as error:
        raise RunFailed(cause(error.worker_failures)) from error
    except TrainingFailedError as error:  # the group could not be placed or started
        raise RunFailed(_not_started(error)) from error
    except RayError as error:  # one of Ray's own processes, which no group restarts
        reason = innermost(error)[:300]
        raise RunFailed(f"Ray itself failed ({reason}); its logs are in its session's folder; try again") from error


def _in_thread(call: Callable[[], object]) -> None:
    """Run ``call`` in another thread and wait for it, because Ray Train would take over Ctrl-C in the main thread.

    The main thread can then answer a signal at once, and may exit, because the other thread is a daemon.
    """
    raised: list[BaseException] = []

    def called() -> None:
        try:
            call()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=called, name="ray train", daemon=True)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


@dataclass(frozen=True, kw_only=True)
class Payload:
    """Work of a worker, with the values that it needs."""

    work: Work
    config: Any
    run: str
    """Name of the run in metrics."""
    reproducible: bool
    timeout: float
    plugins: Sequence[str]
    """Modules of the plug-ins that the driver has loaded."""


class _Trainer(TorchTrainer):
    """TorchTrainer without the processes that a worker group does not need."""

    def _create_default_callbacks(self) -> list[Any]:
        unused = (*UNUSED, *UNUSED_HERE) if _started_here() else UNUSED
        return [each for each in super()._create_default_callbacks() if type(each).__name__ not in unused]


def _started_here() -> bool:
    """Return whether this process started Ray, rather than joining a cluster."""
    node = ray._private.worker._global_node
    return node is not None and bool(node.is_head())


@contextmanager
def _unwatched() -> Iterator[None]:
    """Start no watcher of preemption, an actor, if Ray was started here, because only nodes can be preempted."""
    is_set = not _started_here() or WATCHER in os.environ
    if not is_set:
        os.environ[WATCHER] = "0"
    try:
        yield
    finally:
        if not is_set:
            del os.environ[WATCHER]


def _start_coordinator() -> None:
    """Start the actor that Ray Train's controller would start, and wait for, after its own start."""
    with suppress(ImportError, AttributeError):  # a private function; without it, the controller starts the actor later
        from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import (
            get_or_create_autoscaling_coordinator,
        )

        get_or_create_autoscaling_coordinator()


def _trainer(payload: Payload, group: Group, folder: Path, restarts: Path) -> TorchTrainer:
    return _Trainer(
        _enter,
        # as a reference, because Ray Train's controller would read it, too, and import the modules of the work
        train_loop_config={"payload": ray.put(payload)},
        torch_config=OnRaysNetwork(
            backend="nccl" if group.gpu else "gloo",
            timeout_s=math.ceil(group.timeout + (LATER if group.gpu else 0)),
        ),
        scaling_config=ScalingConfig(
            num_workers=group.size,
            elastic_resize_monitor_interval_s=LOOKING,
            use_gpu=group.gpu,
            resources_per_worker={"CPU": group.threads, **({"GPU": 1} if group.gpu else {})},
        ),
        run_config=RunConfig(
            name="ray",
            storage_path=str(folder),
            failure_config=FailureConfig(max_failures=group.max_failures, controller_failure_limit=group.placings - 1),
            callbacks=[Restarts(restarts)],
        ),
    )


def preempted() -> bool:
    """Return whether a node of this worker's group will be preempted soon.

    The call costs nothing, because Ray asks for all workers every 5 s, whereas ``ray.train.get_preemption_info`` would
    exchange a message between all workers, through an actor, at every call. Workers may learn of a preemption at
    different moments, so they have to agree on it.
    """
    try:
        from ray.train.v2._internal.execution.context import get_train_context

        context = get_train_context().preemption_context
    except (ImportError, AttributeError, RuntimeError):  # not in a worker, or Ray before 2.60
        return False
    return context.preemption_info is not None


def _enter(given: dict[str, ray.ObjectRef[Payload]]) -> None:
    payload = ray.get(given["payload"])
    host = f"{socket.gethostname()} ({ray.util.get_node_ip_address()})"
    try:
        plugins.load_only(payload.plugins)
    except plugins.PluginError as error:
        raise RunFailed(f"{error} (on {host})") from error
    peers = RollCall.create(payload.timeout, host)
    coordinator = ProcessGroupCoordinator(payload.reproducible, peers=peers, notice=preempted)
    payload.work(payload.config, coordinator, get_device(), RayMetrics(payload.run, coordinator.rank))


def _not_started(error: Exception) -> str:
    text = str(error)
    if "startup timed out" in text:
        return (
            "the cluster has no room for the worker group any more, and had none for cluster.timeout: restore the "
            "node and run the same command again, or continue with fewer workers by cluster.min_workers"
        )
    advice = f". {ADVICE}" if "gloo" in text.lower() or "DistNetworkError" in text else ""
    return f"Ray could not run the worker group: {innermost(error)}{advice}"
