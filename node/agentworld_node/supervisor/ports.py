"""Ports of the loopback address: which are free, and which a node should have."""

from __future__ import annotations

import secrets
import socket
from pathlib import Path

from agentworld_core.errors import NotAvailable

LOOPBACK = "127.0.0.1"
LOWEST = 15_000
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_TRIES = 1_000


def free_port() -> int:
    """Returns a TCP port of the loopback address that nobody has now, and that stays the node's when it is restarted.

    It lies below the ports that the system gives to outgoing connections: one of those may have been given away by the
    time the node listens.
    """
    highest = _first_outgoing() - 1
    for _ in range(_TRIES):
        port = LOWEST + secrets.randbelow(max(1, highest - LOWEST))
        if is_free(port):
            return port
    raise NotAvailable("there is no free port", field="port", remedy=f"free some of {LOWEST} to {highest}")


def is_free(port: int) -> bool:
    """True when a server could listen on the port now."""
    with socket.socket() as probe:
        # As servers do: connections that are still closing do not hold the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def _first_outgoing() -> int:
    try:
        lowest = int(_RANGE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        lowest = 32_768
    # Where the system uses nearly all ports for outgoing connections, there is nothing below them to choose from.
    return lowest if lowest > LOWEST + _TRIES else 32_768
