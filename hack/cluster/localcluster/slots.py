"""Gives each cluster a slot, and with it ports, bridge and subnets that nobody else on this machine uses."""

import fcntl
import ipaddress
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .commands import ClusterError, run
from .progress import say
from .settings import Addresses, Folders

SLOTS = 16


@contextmanager
def locked(path: Path, *, waiting_for: str) -> Iterator[None]:
    """Holds a lock file, so that two runs of this tool do not change the same thing at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("a") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"  … waiting for {waiting_for}")
                fcntl.flock(handle, fcntl.LOCK_EX)
            # whoever held it may have removed the file; then it protects nothing any more
            if path.exists() and os.path.samestat(os.fstat(handle.fileno()), path.stat()):
                yield
                return


def recorded(folders: Folders) -> Addresses | None:
    """The slot that a cluster already has."""
    path = folders.state / "slot"
    return Addresses(int(path.read_text())) if path.exists() else None


def claim(folders: Folders) -> Addresses:
    """Returns the cluster's slot, and on first use records the lowest one that is free."""
    if (mine := recorded(folders)) is not None:
        return mine
    with locked(folders.states / ".lock", waiting_for="another cluster to choose its ports"):
        taken = {int(path.read_text()) for path in folders.states.glob("*/slot")}
        routes = _routes()
        for slot in range(SLOTS):
            if slot not in taken and is_free(Addresses(slot), routes):
                folders.state.mkdir(parents=True, exist_ok=True)
                (folders.state / "slot").write_text(f"{slot}\n")
                return Addresses(slot)
    raise ClusterError(f"all {SLOTS} slots are taken; see {folders.states} and `down --purge` what is not needed")


def is_free(addresses: Addresses, routes: list[ipaddress.IPv4Network]) -> bool:
    """Tells whether no port, device or route of a slot is in use on this machine."""
    mine = [
        ipaddress.IPv4Network(text)
        for text in (addresses.node_network, addresses.pod_network, addresses.service_network)
    ]
    return (
        not Path("/sys/class/net", addresses.bridge).exists()
        and not any(network.overlaps(route) for network in mine for route in routes)
        and not busy_ports(addresses)
    )


def busy_ports(addresses: Addresses) -> list[int]:
    """The slot's ports that some program listens on."""

    def busy(port: int) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    return [port for port in addresses.ports.values() if busy(port)]


def _routes() -> list[ipaddress.IPv4Network]:
    found = [entry["dst"] for entry in json.loads(run(["ip", "-json", "-4", "route"])) if entry["dst"] != "default"]
    return [ipaddress.IPv4Network(text, strict=False) for text in found]
