"""Names, folders and addresses of one cluster: everything that two clusters side by side must not share."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .commands import ClusterError

DEFAULT_NAME = "agent-world"
MAX_NODES = 9
HERE = Path(__file__).resolve().parent.parent
REPOSITORY = HERE.parent.parent

PAUSE_IMAGE = "localhost/agent-world/pause:1"
BUSYBOX_IMAGE = "localhost/agent-world/busybox:1"
BASE_IMAGE = "localhost/agent-world/base:bookworm"

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")


@dataclass(frozen=True)
class Folders:
    """Where one cluster keeps what it writes; `cache` is shared by all clusters of the user."""

    cache: Path
    name: str

    @property
    def states(self) -> Path:
        """One folder for each cluster that is known here."""
        return self.cache / "state"

    @property
    def state(self) -> Path:
        """All that this cluster writes, gone after `down --purge`."""
        return self.states / self.name

    @property
    def kubeconfig(self) -> Path:
        """The administrator's credentials."""
        return self.state / "kubeconfig"

    @property
    def pki(self) -> Path:
        """Keys and certificates of the control plane."""
        return self.state / "pki"

    @property
    def logs(self) -> Path:
        """One file for each component."""
        return self.state / "log"

    @property
    def pids(self) -> Path:
        """One file for each process that was started: its id and its start time."""
        return self.state / "pids"

    @property
    def volumes(self) -> Path:
        """The data of PersistentVolumes."""
        return self.state / "volumes"

    @property
    def loaded(self) -> Path:
        """The archives that `load` brought in, so that a node which is added later gets them too."""
        return self.state / "loaded"

    @property
    def images(self) -> Path:
        """Packed images, shared by all clusters."""
        return self.cache / "images"

    def node(self, number: int) -> Path:
        """What one node writes: its /var, its configuration."""
        return self.state / f"node{number}"


@dataclass(frozen=True)
class Addresses:
    """Ports, bridge and subnets that belong to a slot; no two slots share any."""

    slot: int

    @property
    def ports(self) -> Mapping[str, int]:
        """Loopback ports of the control plane, below the range that the kernel hands out by itself."""
        names = ("api", "etcd", "etcd-peer", "controller-manager", "scheduler")
        return {name: 26440 + 10 * self.slot + offset for offset, name in enumerate(names)}

    @property
    def bridge(self) -> str:
        """The bridge that joins the nodes with the host."""
        return f"aw{self.slot}br"

    def veth(self, node: int) -> str:
        """The host's end of the cable to a node."""
        return f"aw{self.slot}n{node}"

    @property
    def host_ip(self) -> str:
        """The host's address on the bridge."""
        return f"10.200.{self.slot}.1"

    @property
    def node_network(self) -> str:
        """Addresses of host and nodes."""
        return f"10.200.{self.slot}.0/24"

    def node_ip(self, node: int) -> str:
        """The address of a node on the bridge."""
        return f"10.200.{self.slot}.{1 + node}"

    @property
    def pod_network(self) -> str:
        """Addresses of all pods."""
        return f"10.{210 + self.slot}.0.0/16"

    def pods_of(self, node: int) -> str:
        """Addresses of the pods of one node."""
        return f"10.{210 + self.slot}.{node}.0/24"

    @property
    def service_network(self) -> str:
        """Cluster addresses of Services."""
        return f"10.{230 + self.slot}.0.0/16"

    @property
    def kubernetes_ip(self) -> str:
        """The API server as pods see it."""
        return f"10.{230 + self.slot}.0.1"

    @property
    def dns_ip(self) -> str:
        """CoreDNS as pods see it."""
        return f"10.{230 + self.slot}.0.10"

    @property
    def server(self) -> str:
        """The API server as the host sees it."""
        return f"https://127.0.0.1:{self.ports['api']}"

    @property
    def server_for_nodes(self) -> str:
        """The API server as nodes see it, through the forwarder."""
        return f"https://{self.host_ip}:{self.ports['api']}"


def folders(name: str) -> Folders:
    """Returns the folders of the cluster of that name; ClusterError when the name cannot be used."""
    if not _NAME.fullmatch(name):
        raise ClusterError(f"a cluster's name has 1-32 lower-case letters, digits and dashes, so {name!r} does not do")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute()
    return Folders(cache / "agent-world" / "cluster", name)
