"""By which network the processes of several machines meet."""

import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from litlab.distributed.processes import Rank
from litlab.errors import UserError

INTERFACE = "GLOO_SOCKET_IFNAME"


SIOCGIFADDR = 0x8915
"""Asks Linux for the address of an interface; <linux/sockios.h>."""


def require_known_host(name: str) -> None:
    """Raise UserError unless the name of the first machine leads to an address here."""
    try:
        socket.getaddrinfo(name, None)
    except OSError as error:
        hint = "set MASTER_ADDR to an address of it, and MASTER_PORT to a free port there"
        raise UserError(f"the first machine's name, {name}, is not known here: {hint}") from error


@contextmanager
def network_towards(address: str, where: Rank) -> Iterator[None]:
    """Let gloo talk by the network that leads to this address: by itself it takes the one of this machine's name."""
    name = None if INTERFACE in os.environ else _interface(address, where)
    if name:
        os.environ[INTERFACE] = name
    try:
        yield
    finally:
        if name:
            del os.environ[INTERFACE]


def _interface(address: str, where: Rank) -> str | None:
    """The name of the network interface that leads to this address; None if there is no telling."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plug, suppress(OSError):
        plug.connect((address, 9))  # sends nothing
        own = plug.getsockname()[0]
        if own.startswith("127.") and where.local_world_size < where.world_size:
            return None  # this machine's own name for itself, which leads no other one here
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # it has no address
                answer = fcntl.ioctl(plug, SIOCGIFADDR, struct.pack("256s", name.encode()))
                if socket.inet_ntoa(answer[20:24]) == own:
                    return name
    return None
