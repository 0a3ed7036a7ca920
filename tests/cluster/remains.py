"""Finds what is left of a cluster on this machine, by looking at the machine and not at the tool's records."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from localcluster import slots
from localcluster.processes import everyone, stat_of
from localcluster.settings import Addresses, folders


def read(path: Path) -> str:
    """A file of /proc, or nothing when its process is gone."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


class Remains:
    """Remembers a running cluster, so that after `down` its traces can be looked for."""

    def __init__(self, name: str) -> None:
        self.folders = folders(name)
        found = slots.recorded(self.folders)
        assert found is not None, f"cluster {name} was never up"
        self.addresses: Addresses = found
        self.processes = {pid: stat.start for pid, stat in everyone() if self._belongs(pid)}

    def _belongs(self, pid: int) -> bool:
        """Components name the state folder, pods have the cluster's control group, the rest has a node's namespaces."""
        process = Path("/proc", str(pid))
        words = read(process / "cmdline").split("\0")
        return (
            any(str(self.folders.state) in word for word in words)
            or f"/aw-{self.folders.name}/" in read(process / "cgroup")
            or str(self.folders.state) in read(process / "mountinfo")
            or (words[0] == "socat" and any(self.addresses.host_ip in word for word in words))
        )

    def of_processes(self) -> list[str]:
        still = [pid for pid, start in self.processes.items() if (stat := stat_of(pid)) and stat.start == start]
        new = [pid for pid, _ in everyone() if self._belongs(pid)]
        return [f"{pid} {read(Path('/proc', str(pid), 'cmdline'))[:80]}" for pid in {*still, *new}]

    def of_mounts(self) -> list[str]:
        """In any mount namespace of the machine."""
        tables = {read(Path("/proc", str(pid), "mountinfo")) for pid, _ in everyone()}
        return [line for table in tables for line in table.splitlines() if str(self.folders.state) in line]

    def of_network(self) -> list[str]:
        devices = [path.name for path in Path("/sys/class/net").iterdir()]
        prefixes = (self.addresses.bridge, self.addresses.veth(0)[:-1])
        routes = json.loads(subprocess.check_output(["ip", "-json", "-4", "route"], text=True))
        mine = (
            self.addresses.node_network,
            self.addresses.service_network,
            self.addresses.pod_network.split(".0.0/")[0],
        )
        return [name for name in devices if name.startswith(prefixes)] + [
            entry["dst"] for entry in routes if entry["dst"].startswith(mine)
        ]

    def of_control_groups(self) -> list[str]:
        return [str(path) for path in Path("/sys/fs/cgroup").rglob(f"aw-{self.folders.name}")]

    def all(self) -> dict[str, list[str]]:
        """Everything that is left, by kind; kinds of which nothing is left are not in it."""
        found = {
            "processes": self.of_processes(),
            "mounts": self.of_mounts(),
            "network": self.of_network(),
            "control groups": self.of_control_groups(),
        }
        return {kind: what for kind, what in found.items() if what}
