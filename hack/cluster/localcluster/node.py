"""One node: its own namespaces (mount, network, process, host name, IPC) around containerd, kubelet and kube-proxy.

Inside, /run and /var are the node's own, so that every component keeps its usual paths and nothing is written to the
host's. Process 1 is a shell that reaps; when it ends, the kernel ends everything on the node and takes its mounts and
its network away. That is how `down` works, and a clean way to pull the plug in a test.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from string import Template

from . import cgroups, pki
from .api import Api, healthy
from .binaries import Binaries
from .commands import ClusterError, run, uninterrupted, wait_until
from .control_plane import wait
from .debian import find
from .processes import Processes
from .settings import BUSYBOX_IMAGE, HERE, MAX_NODES, PAUSE_IMAGE, Addresses, Folders

FORWARDER = "forwarder"
DEVICES = Path("/sys/class/net")
_INIT = """
set -e
hostname "$1"
mount --make-rshared /
mount -t tmpfs -o mode=755 run /run
mount --bind "$2/var" /var
mkdir -p /var/lib /var/log /var/tmp /run/lock
touch /run/node-is-up
trap 'exit 0' TERM INT
while :; do sleep 3600 & wait $!; done
"""


@dataclass(frozen=True)
class Machine:
    """What all nodes of a cluster share."""

    folders: Folders
    addresses: Addresses
    binaries: Binaries
    processes: Processes


class Node:
    """One node, by number from 1."""

    def __init__(self, machine: Machine, number: int) -> None:
        self.machine = machine
        self.number = number
        self.name = f"node{number}"
        self.folder = machine.folders.node(number)

    @property
    def components(self) -> tuple[str, ...]:
        """What runs inside, by the names of their logs."""
        return tuple(f"{self.name}-{part}" for part in ("containerd", "kubelet", "kube-proxy"))

    def alive(self) -> bool:
        """Tells whether the node and everything on it runs."""
        return all(self.machine.processes.alive(name) for name in (self.name, *self.components))

    def enter(self) -> list[str]:
        """The words that make a command run on the node."""
        return ["nsenter", "-t", str(self.machine.processes.pid(self.name)), "-m", "-n", "-p", "-u", "-i", "--"]

    def spawn(self, part: str, command: list[str]) -> None:
        """Starts a component on the node unless it runs."""
        name = f"{self.name}-{part}"
        if not self.machine.processes.alive(name):
            self.machine.processes.spawn(name, [*self.enter(), *command], nested=True)

    def make(self) -> None:
        """Makes namespaces, network and containerd, with the images that every node needs; no API server is asked."""
        if not self.machine.processes.alive(self.name):
            self.remove()
            cgroups.create(self.machine.folders, self.number)
            self._start_namespaces()
            self._connect()
        pki.create_node(self.machine.folders, self.machine.addresses, self.number)
        self._configure()
        self.spawn(
            "containerd", [str(self.machine.binaries.bin / "containerd"), "-c", f"{self.folder}/etc/containerd.toml"]
        )
        wait(self.machine.processes, f"{self.name}-containerd", self._containerd_answers, seconds=60)
        # kept by path and time, so that an archive is not imported twice
        needed = sorted(self.machine.binaries.images.glob("*.tar"))
        loaded = [Path(os.readlink(link)) for link in sorted(self.machine.folders.loaded.glob("*"))]
        self.load(needed + [path for path in loaded if path.exists()])

    def join(self) -> None:
        """Starts kubelet and kube-proxy, which need the API server."""
        etc = f"{self.folder}/etc"
        kubelet = [f"--config={etc}/kubelet.yaml", f"--kubeconfig={self.machine.folders.pki}/{self.name}.kubeconfig"]
        kubelet += [f"--hostname-override={self.name}", f"--node-ip={self.machine.addresses.node_ip(self.number)}"]
        self.spawn("kubelet", [str(self.machine.binaries.bin / "kubelet"), *kubelet])
        self.spawn("kube-proxy", [str(self.machine.binaries.bin / "kube-proxy"), f"--config={etc}/kube-proxy.yaml"])

    def wait_ready(self, api: Api) -> None:
        """Returns once the API server has the node as Ready and kube-proxy has brought Services to it."""
        wait(self.machine.processes, f"{self.name}-kubelet", lambda: api.node_ready(self.name), seconds=90)
        url = f"http://{self.machine.addresses.node_ip(self.number)}:10256/healthz"
        wait(self.machine.processes, f"{self.name}-kube-proxy", lambda: healthy(url), seconds=60)

    def load(self, archives: list[Path]) -> None:
        """Imports image archives that are newer than what was imported of them before."""
        marks = self.folder / "imported"
        marks.mkdir(exist_ok=True)
        for archive in archives:
            mark = marks / str(archive).replace("/", "%")
            stamp = str(archive.stat().st_mtime_ns)
            if not mark.exists() or mark.read_text() != stamp:
                run([*self.enter(), self.machine.binaries.bin / "ctr", "-n", "k8s.io", "images", "import", archive])
                mark.write_text(stamp)

    def remove(self) -> None:
        """Ends the node and takes its cable and its control groups away; what it wrote to /var stays."""
        processes = self.machine.processes
        processes.stop([self.name], seconds=0)
        inside = [name for name in processes.names() if name.startswith(f"{self.name}-")]
        processes.stop(inside, seconds=5)
        remove_device(self.machine.addresses.veth(self.number))
        cgroups.remove(self.machine.folders, self.number)

    def _start_namespaces(self) -> None:
        (self.folder / "var").mkdir(parents=True, exist_ok=True)
        processes = self.machine.processes
        spaces = ["--mount", "--net", "--pid", "--uts", "--ipc", "--mount-proc", "--propagation", "private"]
        shell = ["bash", "-c", _INIT, "node", self.name, str(self.folder)]
        processes.spawn(self.name, ["unshare", *spaces, "--fork", "--kill-child", *shell], nested=True)

        def up() -> bool:
            return Path(f"/proc/{processes.pid(self.name)}/root/run/node-is-up").exists()

        wait_until(up, what=f"{self.name} to start", seconds=10)

    def _connect(self) -> None:
        """Plugs the node into the bridge and tells it the way to the pods of the others."""
        addresses, pid = self.machine.addresses, self.machine.processes.pid(self.name)
        cable, ip = addresses.veth(self.number), addresses.node_ip(self.number)
        make_bridge(addresses)
        run(["ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", str(pid)])
        run(["ip", "link", "set", cable, "master", addresses.bridge, "up"])
        others = [other for other in range(1, MAX_NODES + 1) if other != self.number]
        inside = [
            "link set lo up",
            f"addr add {ip}/24 dev eth0",
            "link set eth0 up",
            f"route add default via {addresses.host_ip}",
        ]
        inside += [f"route add {addresses.pods_of(other)} via {addresses.node_ip(other)}" for other in others]
        run(["nsenter", "-t", str(pid), "-n", "ip", "-batch", "-"], text="\n".join(inside) + "\n")
        outside = [f"route replace {addresses.pods_of(self.number)} via {ip}"]
        outside += [f"route replace {addresses.service_network} via {ip}"] if self.number == 1 else []
        run(["ip", "-batch", "-"], text="\n".join(outside) + "\n")
        for key in ("ip_forward", "conf/all/rp_filter", "conf/default/rp_filter"):
            value = "1" if key == "ip_forward" else "0"
            run([*self.enter(), "sh", "-c", f"echo {value} >/proc/sys/net/ipv4/{key}"])
        bridged = "/proc/sys/net/bridge/bridge-nf-call-iptables"  # present when br_netfilter is loaded
        run([*self.enter(), "sh", "-c", f"test ! -e {bridged} || echo 1 >{bridged}"])

    def _configure(self) -> None:
        etc = self.folder / "etc"
        (etc / "cni").mkdir(parents=True, exist_ok=True)
        addresses = self.machine.addresses
        values = {
            "node": self.name,
            "node_ip": addresses.node_ip(self.number),
            "pods_of_node": addresses.pods_of(self.number),
            "pod_network": addresses.pod_network,
            "dns_ip": addresses.dns_ip,
            "cgroup": cgroups.path_of(self.machine.folders, self.number),
            "pki": str(self.machine.folders.pki),
            "conf": str(etc),
            "cni_bin": str(self.machine.binaries.cni),
            "runc": find("runc") or "runc",
            "pause_image": PAUSE_IMAGE,
            "busybox_image": BUSYBOX_IMAGE,
        }
        for name in ("containerd.toml", "kubelet.yaml", "kube-proxy.yaml", "Corefile"):
            render(name, etc / name, values)
        render("cni.conflist", etc / "cni" / "10-pods.conflist", values)
        (etc / "resolv.conf").write_text("nameserver 127.0.0.1\n")

    def _containerd_answers(self) -> bool:
        try:
            run([*self.enter(), self.machine.binaries.bin / "ctr", "version"])
        except ClusterError:
            return False
        return True


def render(template: str, target: Path, values: dict[str, str]) -> None:
    """Fills in one of the files of templates/; leaves one that is right alone: kube-proxy watches its own."""
    text = Template((HERE / "templates" / template).read_text()).substitute(values)
    if not target.exists() or target.read_text() != text:
        target.write_text(text)


def remove_device(name: str) -> None:
    """Takes a network device away, if it is there; a cable also goes by itself, soon after the namespace at its end."""
    if (DEVICES / name).exists():
        try:
            run(["ip", "link", "delete", name])
        except ClusterError:
            if (DEVICES / name).exists():
                raise


def make_bridge(addresses: Addresses) -> None:
    """Makes the bridge with the host's address on it, unless it is there."""
    if not (DEVICES / addresses.bridge).exists():
        lines = [
            f"link add {addresses.bridge} type bridge",
            f"addr add {addresses.host_ip}/24 dev {addresses.bridge}",
            f"link set {addresses.bridge} up",
        ]
        run(["ip", "-batch", "-"], text="\n".join(lines) + "\n")


def start_forwarder(machine: Machine) -> None:
    """Lets nodes reach the API server, which listens on loopback only."""
    make_bridge(machine.addresses)
    if not machine.processes.alive(FORWARDER):
        port, host = machine.addresses.ports["api"], machine.addresses.host_ip
        listen = f"TCP-LISTEN:{port},bind={host},fork,reuseaddr,nodelay"
        machine.processes.spawn(FORWARDER, ["socat", listen, f"TCP:127.0.0.1:{port},nodelay"])


def remove_bridge(machine: Machine) -> None:
    """Stops the forwarder and takes the bridge away, and with it every route of the cluster."""
    machine.processes.stop([FORWARDER], seconds=2)
    remove_device(machine.addresses.bridge)


def known(folders: Folders) -> list[int]:
    """The numbers of the nodes that this cluster has had since it was made."""
    return sorted(int(path.name.removeprefix("node")) for path in folders.state.glob("node[1-9]"))


def together(nodes: list[Node], work: Callable[[Node], None]) -> None:
    """Does the same on all nodes at once; the first error is raised after all have ended."""
    with ThreadPoolExecutor(max_workers=max(1, len(nodes))) as pool:
        with uninterrupted():  # a thread whose start is interrupted would not be waited for
            futures = [pool.submit(work, node) for node in nodes]
        for future in futures:
            future.result()
