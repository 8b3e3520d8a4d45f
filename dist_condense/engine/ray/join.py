"""Selection of the Ray cluster that a run joins, and a check that the cluster answers.

Ray itself would wait 14 minutes silently.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from ray._common.utils import get_ray_address_file
from ray._private.grpc_utils import init_grpc_channel
from ray._private.services import canonicalize_bootstrap_address
from ray.core.generated.gcs_service_pb2 import CheckAliveRequest
from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub

from dist_condense.engine.errors import RunFailed
from dist_condense.system import terminal

VARIABLE, CLIENT, LOCAL = "RAY_ADDRESS", "ray://", "local"
ANSWERING = 30.0
"""Seconds within which a cluster has to answer; they suffice for a cluster that is just being started."""
SILENT, STRANGE, NO_TOKEN = ("UNAVAILABLE", "DEADLINE_EXCEEDED"), "UNIMPLEMENTED", "UNAUTHENTICATED"
"""gRPC statuses for no answer, a program other than Ray, and another cluster's token; Ray handles all others."""


@dataclass(frozen=True)
class RayCluster:
    """Ray cluster whose address is in an environment variable or a file, whether it is still running or not.

    :param address: host:port, or ray://host:port.
    :param source: the variable or the file with the address.
    :param remedy: advice for the user if the cluster does not answer.
    """

    address: str
    source: str
    remedy: str

    def __str__(self) -> str:
        return f"the Ray cluster at {self.address} ({self.source})"

    def check_alive(self, seconds: float = ANSWERING) -> None:
        """Raise RunFailed unless the cluster answers within ``seconds``."""
        channel = init_grpc_channel(self.address.removeprefix(CLIENT), [("grpc.enable_http_proxy", 0)])
        try:
            NodeInfoGcsServiceStub(channel).CheckAlive(CheckAliveRequest(), timeout=seconds, wait_for_ready=True)
        except Exception as error:
            if problem := self._problem(error, seconds):
                raise RunFailed(f"{self} {problem}; {self.remedy}") from error
        finally:
            channel.close()

    def _problem(self, error: Exception, seconds: float) -> str | None:
        name = getattr(getattr(error, "code", lambda: None)(), "name", "")
        if name in SILENT:
            return f"did not answer within {seconds:.0f} s"
        if name == STRANGE and not self.address.startswith(CLIENT):  # the client's server has other calls
            return "is not a Ray cluster: another program answers at this address"
        if name == NO_TOKEN and "RAY_AUTH_MODE" in os.environ:  # else Ray finds a token by itself
            return "has another token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, to its own"
        return None


def find_cluster() -> RayCluster | None:
    """Return the cluster that ``ray.init()`` would join, or None if it would start Ray on this machine.

    Raises RunFailed if the address is malformed.
    """
    variable = os.environ.get(VARIABLE, "")
    source = f"{VARIABLE}={variable}" if variable else get_ray_address_file(None)
    remedy = (
        f"unset {VARIABLE} to start Ray on this machine, or start that cluster"
        if variable
        else f"delete {source}, left by an ended `ray start`, to start Ray on this machine, or start that cluster"
    )
    if variable.startswith(CLIENT):
        return RayCluster(variable, source, remedy)
    try:
        address = canonicalize_bootstrap_address(variable or _stored_address(source))
    except Exception as error:  # Ray raises plain exceptions of several kinds
        raise RunFailed(f"{source}: {_no_address(variable, error)}; {remedy}") from error
    return None if address is None else RayCluster(address, source, remedy)


def _stored_address(file: str) -> str:
    """Return the address in the file of `ray start`, or :data:`LOCAL` if there is no such file.

    Every user can create the file. The program at its address would receive this user's token, and could make this
    process execute code, because Ray unpickles results.
    Another user's file is therefore reported and not read.
    """
    try:
        with open(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)) as opened:
            if os.fstat(opened.fileno()).st_uid in (0, os.geteuid()):
                return opened.read().strip()
    except FileNotFoundError:
        return LOCAL
    except OSError:  # a link, or unreadable
        pass
    terminal.say(f"{file} is not yours: the cluster that it names is not joined")
    return LOCAL


def _no_address(variable: str, error: Exception) -> str:
    if "://" in variable:
        return "the address of a cluster is host:port, and that of the job API is for launch/submit.sh alone"
    if variable == "auto":
        return "no Ray runs on this machine"
    return f"the address of a cluster is host:port ({error})"
