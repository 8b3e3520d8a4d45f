"""Arguments for Ray and messages from Ray, without starting it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from ray._private import services
from ray._private import utils as ray_utils
from ray.exceptions import ActorUnavailableError
from ray.train import PreemptionInfo
from ray.train.v2._internal.constants import get_env_vars_to_propagate
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError, WorkerHealthCheckFailedError
from ray.train.v2._internal.execution import context
from ray.train.v2._internal.execution.preemption import PreemptionContext
from ray.train.v2.api.exceptions import ControllerError

from dist_condense.engine.ray import group
from dist_condense.engine.ray.failures import cause
from dist_condense.engine.ray.group import Group, _not_started, preempted
from dist_condense.engine.ray.join import RayCluster
from dist_condense.engine.ray.network import ADVICE, interface
from dist_condense.engine.roll_call import WorkerLost
from dist_condense.job.journal import RunFailed


def test_a_group_is_fixed_or_elastic() -> None:
    assert Group(workers=4, threads=1, gpu=False, reproducible=True).size == 4
    assert Group(workers=4, threads=1, gpu=False, reproducible=True, min_workers=2).size == (2, 4)


def test_a_group_that_cannot_be_placed_is_given_up() -> None:
    """Each attempt takes Ray 60 s; by itself it would retry for ever."""
    assert Group(workers=4, threads=1, gpu=False, reproducible=True, timeout=600).placings == 10
    assert Group(workers=4, threads=1, gpu=False, reproducible=True, timeout=90, max_failures=2).placings == 6


def failed(error: Exception) -> Exception:
    """Return the error as Ray passes it on from another process: its text after earlier lines."""
    return RuntimeError(f"Traceback\n  File\n{type(error).__name__}: {error}")


LOST = failed(WorkerLost("worker 1 on b was lost: no answer"))
ENDED = RuntimeError("The actor is dead because its worker process has died.")


def test_thecause() -> None:
    assert cause({0: LOST}) == "worker 1 on b was lost: no answer"
    assert cause({0: LOST, 2: failed(RunFailed("disk full"))}) == "worker 2: disk full"
    assert cause({0: LOST, 1: ENDED}).startswith("worker 1 was lost: its process ended")
    assert cause({0: WorkerLost("worker 1 was lost"), 1: ValueError("x")}) == "worker 1 was lost"
    assert cause({1: ValueError("x"), 0: KeyError("y")}) == "worker 0: 'y'; worker 1: x"


INFO = "Worker info: Worker(\n metadata=ActorMetadata(\n  hostname='b',\n  node_id='1',\n  node_ip='10.0.0.2',\n)"


def test_ray_says_where_a_worker_was() -> None:
    gone = WorkerHealthCheckFailedError(
        f"A worker health check failed.\n{INFO}", ActorUnavailableError("no answer", None)
    )
    assert cause({1: gone, 0: LOST}).startswith("worker 1 on b (10.0.0.2) was lost: its process ended, or its node did")
    silent = RuntimeError(f"A worker health check has been hanging for 661 seconds.\n{INFO}\nSet the variable ...")
    assert cause({0: silent}).startswith("worker 0 on b (10.0.0.2) was lost: it hangs")


def test_a_group_without_room() -> None:
    assert "cluster.min_workers" in _not_started(WorkerGroupStartupTimeoutError(2))


def test_a_group_that_does_not_connect() -> None:
    connect = RuntimeError("[gloo/transport/tcp/pair.cc:144] connect [127.0.1.1]:5: Connection refused")
    assert ADVICE in _not_started(connect)
    assert "GLOO_SOCKET_IFNAME" not in _not_started(RuntimeError("no room"))


def test_the_interface_of_an_address() -> None:
    assert interface("127.0.0.1") == "lo"
    assert interface("203.0.113.254") is None  # an address of documentation


@dataclass
class Context:
    """The part of a worker's context that :func:`preempted` reads."""

    preemption_context: PreemptionContext = field(default_factory=PreemptionContext)


@pytest.fixture
def in_a_worker() -> Iterator[Context]:
    made = Context()
    context.set_train_context(made)
    yield made
    context.set_train_context(None)


def test_a_worker_is_told_of_preemption(in_a_worker: Context) -> None:
    assert not preempted()
    in_a_worker.preemption_context.preemption_info = PreemptionInfo(None, {"node": [1]})  # as Ray does it
    assert preempted()


def test_nobody_is_preempted_outside_of_ray() -> None:
    assert not preempted()


class Trainer:
    """Stand-in for Ray Train's trainer, which installs a handler for Ctrl-C, ending the workers, in the main thread."""

    def __init__(self, raised: Exception | None = None) -> None:
        self.raised = raised

    def fit(self) -> None:
        assert threading.current_thread() is not threading.main_thread()
        if self.raised is not None:
            raise self.raised


@pytest.mark.parametrize("raised", [None, ControllerError(WorkerGroupStartupTimeoutError(2))])
def test_ctrl_c_stays_the_drivers_to_answer(
    raised: Exception | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group, "_trainer", lambda *given: Trainer(raised))
    monkeypatch.setenv("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", "1")  # launch sets it
    with pytest.raises(RunFailed, match="no room") if raised else nullcontext():
        group.launch(
            lambda *given: None,
            None,
            Group(workers=2, threads=1, gpu=False, reproducible=True),
            tmp_path,
            tmp_path / "restarts.log",
        )


@pytest.fixture
def unconnected(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Patch Ray so that none is connected or started."""
    for name in (
        "RAY_USAGE_STATS_ENABLED",
        "RAY_TRAIN_V2_ENABLED",
        "RAY_AIR_NEW_OUTPUT",
        "TUNE_DISABLE_SIGINT_HANDLER",
    ):
        monkeypatch.setenv(name, "1")  # connect sets what is missing
    monkeypatch.setattr(group.terminal, "clock", lambda: "14:03:59")
    monkeypatch.setattr(group.start, "folder", lambda: "/short")
    monkeypatch.setattr(group.start, "token", lambda: None)
    monkeypatch.setattr(group.start, "tighten_token", lambda: None)
    monkeypatch.setattr(group.start, "unguarded", lambda: "")
    monkeypatch.setattr(group.ray, "is_initialized", lambda: False)
    return monkeypatch


def test_starting_ray_is_told_and_leaves_sigterm_alone(
    unconnected: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    given: dict[str, object] = {}

    def init(**options: object) -> None:
        given.update(options, at=services.resolve_ip_for_localhost("127.0.0.1"), cwd=Path.cwd())
        ray_utils.set_sigterm_handler(lambda number, frame: None)  # as Ray does

    unconnected.setattr(group.join, "find_cluster", lambda: None)
    unconnected.setattr(group.ray, "init", init)
    unconnected.chdir(tmp_path)
    before, resolve = signal.getsignal(signal.SIGTERM), services.resolve_ip_for_localhost
    group.connect()
    assert signal.getsignal(signal.SIGTERM) is before
    assert given["_temp_dir"] == "/short" and given["runtime_env"] == group.PROCESS
    assert given["_node_ip_address"] == given["at"] == "127.0.0.1" and services.resolve_ip_for_localhost is resolve
    assert given["cwd"] == group.CHECKOUT and Path.cwd() == tmp_path
    assert capsys.readouterr().err == "14:03:59 starting Ray on this machine\n"


@pytest.mark.parametrize("installed", [False, True])
def test_the_folder_of_somebody_else_is_not_on_the_workers_path(
    installed: bool, unconnected: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Ray adds its working folder, also for a cluster that is joined; site-packages must not come first."""
    called: list[Path] = []
    unconnected.setattr(group.join, "find_cluster", lambda: RayCluster("10.0.0.2:6379", "", ""))
    unconnected.setattr(RayCluster, "check_alive", lambda self: None)
    unconnected.setattr(group.ray, "init", lambda **options: called.append(Path.cwd()))
    unconnected.setattr(group, "CHECKOUT", tmp_path / "site" if installed else group.CHECKOUT)
    unconnected.chdir(tmp_path)
    group.connect()
    assert called == [Path("/") if installed else group.CHECKOUT]


def test_ray_train_writes_no_key_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copied variable would be in every worker's runtime_env, which everyone can read (Tune: tests/evaluation)."""
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "MLFLOW_TRACKING_PASSWORD", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, "planted")
    assert "planted" not in get_env_vars_to_propagate().values()


def test_a_cluster_that_is_joined_is_told_and_named_when_it_fails(
    unconnected: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def init(**options: object) -> None:
        assert not {"_temp_dir", "_node_ip_address"} & set(options)
        assert services.find_bootstrap_address(None) == "10.0.0.2:6379"  # whatever the file says by now
        raise RuntimeError("Traceback\nno raylet")

    cluster = RayCluster("10.0.0.2:6379", "RAY_ADDRESS=head:6379", "unset it")
    unconnected.setattr(RayCluster, "check_alive", lambda self: None)
    unconnected.setattr(group.join, "find_cluster", lambda: cluster)
    unconnected.setattr(group.ray, "init", init)
    with pytest.raises(RunFailed) as refused:
        group.connect()
    name = "the Ray cluster at 10.0.0.2:6379 (RAY_ADDRESS=head:6379)"
    assert str(refused.value) == f"{name} could not be joined: no raylet; unset it"
    assert capsys.readouterr().err == f"14:03:59 joining {name}\n"
