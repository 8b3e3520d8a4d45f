"""The cluster that Ray would join, and clusters that do not answer, without starting Ray."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import pytest
from ray.core.generated.gcs_service_pb2 import CheckAliveReply
from ray.core.generated.gcs_service_pb2_grpc import (
    NodeInfoGcsServiceServicer,
    add_NodeInfoGcsServiceServicer_to_server,
)

from dist_condense.engine.ray.join import RayCluster, find_cluster
from dist_condense.job.journal import RunFailed

UNSET = "unset RAY_ADDRESS to start Ray on this machine, or start that cluster"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return Ray's folder, empty."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    return tmp_path / "ray"


@pytest.mark.parametrize("address", [None, "", "local"])
def test_ray_is_started_here(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    assert find_cluster() is None


@pytest.mark.parametrize("address", ["10.0.0.2:6379", "head.invalid:6379", "ray://10.0.0.2:10001"])
def test_the_variable_comes_first(address: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "ray_current_cluster").write_text("10.0.0.3:6379")
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert find_cluster() == RayCluster(address, f"RAY_ADDRESS={address}", UNSET)


def test_the_file_of_ray_start(folder: Path) -> None:
    file = folder / "ray_current_cluster"
    file.write_text("10.0.0.3:6379\n")
    cluster = find_cluster()
    assert cluster is not None and (cluster.address, cluster.source) == ("10.0.0.3:6379", str(file))
    assert cluster.remedy.startswith(f"delete {file}, left by an ended `ray start`, to start Ray on this machine, or")


@pytest.mark.parametrize("planted", ["link", "file"])
def test_a_cluster_that_another_user_names_is_not_joined(
    planted: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, his = folder / "ray_current_cluster", folder / "his"
    his.write_text("10.0.0.66:6379")
    if planted == "link":
        file.symlink_to(his)
    else:
        his.rename(file)
        monkeypatch.setattr(os, "geteuid", lambda: 4711)
        with suppress(PermissionError):  # root's own would do
            os.chown(file, 65534, -1)
    assert find_cluster() is None
    assert capsys.readouterr().err == f"{file} is not yours: the cluster that it names is not joined\n"


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("nonsense", "the address of a cluster is host:port"),
        ("http://127.0.0.1:8265", "that of the job API is for launch/submit.sh alone"),
    ],
)
def test_what_is_no_address_is_refused(address: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(RunFailed) as refused:
        find_cluster()
    assert str(refused.value).startswith(f"RAY_ADDRESS={address}: ") and why in str(refused.value)
    assert str(refused.value).endswith(UNSET)


def test_an_empty_file_is_named(folder: Path) -> None:
    (folder / "ray_current_cluster").touch()
    with pytest.raises(RunFailed, match=f"^{folder}/ray_current_cluster: the address .*; delete {folder}/ray_cur"):
        find_cluster()


# --- whether it answers -------------------------------------------------------------------------------------------


@contextmanager
def silent() -> Iterator[int]:
    """Serve a port that accepts connections and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


@contextmanager
def dead() -> Iterator[int]:
    """Bind a port without listening, as of a cluster that has ended."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


class Alive(NodeInfoGcsServiceServicer):
    """The service of a cluster's head that the check calls."""

    def CheckAlive(self, request: object, context: object) -> CheckAliveReply:
        return CheckAliveReply()


@contextmanager
def serving(*services: object) -> Iterator[int]:
    server = grpc.server(ThreadPoolExecutor(1))
    for service in services:
        add_NodeInfoGcsServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port
    server.stop(None).wait()


def strange() -> object:
    return serving()


def alive() -> object:
    return serving(Alive())


@pytest.mark.parametrize(
    ("server", "why"),
    [(silent, "did not answer within 1 s"), (dead, "did not answer within 1 s"), (strange, "another program answers")],
)
def test_a_cluster_that_is_gone_is_named(server: Callable, why: str) -> None:
    with server() as port, pytest.raises(RunFailed) as refused:
        RayCluster(f"127.0.0.1:{port}", "RAY_ADDRESS=x", "unset it").check_alive(1)
    assert str(refused.value).startswith(f"the Ray cluster at 127.0.0.1:{port} (RAY_ADDRESS=x) ")
    assert why in str(refused.value) and str(refused.value).endswith("; unset it")


@pytest.mark.parametrize(("server", "prefix"), [(alive, ""), (strange, "ray://")])
def test_a_cluster_that_answers(server: Callable, prefix: str) -> None:
    with server() as port:
        RayCluster(f"{prefix}127.0.0.1:{port}", "RAY_ADDRESS=x", "unset it").check_alive(10)
