"""Process groups of Ray Train's workers on the network that Ray itself uses."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from contextlib import suppress
from typing import Any

import ray
from ray.train.torch import TorchConfig

ADDRESS_OF_INTERFACE = 0x8915
"""Linux's ioctl request SIOCGIFADDR, which returns the address of an interface."""

ADVICE = (
    "Workers on several hosts must reach each other: set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME, wherever Ray is "
    "started, to the network interface between them"
)


class OnRaysNetwork(TorchConfig):
    """TorchConfig in which gloo uses the network interface with the address that the node has in Ray.

    By default, gloo uses the address of the host's own name, which is 127.0.0.1 or 127.0.1.1 on many hosts and cannot
    be reached from other hosts. GLOO_SOCKET_IFNAME takes precedence if it is set.
    """

    @property
    def backend_cls(self) -> type[Any]:
        return _Backend


class _Backend(TorchConfig().backend_cls):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(_set_interface)
        super().on_start(worker_group, backend_config)


def _set_interface() -> None:
    if name := interface(ray.util.get_node_ip_address()):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


def interface(address: str) -> str | None:
    """Return the name of this machine's network interface that has the given IPv4 address, or None."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # this interface has no address
                request = fcntl.ioctl(any_socket, ADDRESS_OF_INTERFACE, struct.pack("256s", name.encode()))
                if socket.inet_ntoa(request[20:24]) == address:
                    return name
    return None
