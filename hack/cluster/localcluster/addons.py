"""What every cluster has besides control plane and nodes: DNS, volumes, and the objects that go with them."""

from .api import healthy
from .binaries import Binaries
from .commands import run
from .control_plane import wait
from .node import Machine, Node, render
from .settings import BUSYBOX_IMAGE, Folders

VOLUMES = "volumes"


def apply(machine: Machine) -> None:
    """Applies the objects that nodes and processes rely on."""
    manifest = machine.folders.state / "addons.yaml"
    render("addons.yaml", manifest, _values(machine))
    kubectl(machine.binaries, machine.folders, "apply", "--filename", str(manifest))


def start(machine: Machine, first: Node) -> None:
    """Starts CoreDNS on the first node and the volume provisioner beside the control plane."""
    first.spawn("coredns", [str(machine.binaries.bin / "coredns"), "-conf", f"{first.folder}/etc/Corefile"])
    if not machine.processes.alive(VOLUMES):
        _start_volumes(machine)


def wait_ready(machine: Machine, first: Node) -> None:
    """Returns once DNS answers."""
    url = f"http://{machine.addresses.node_ip(1)}:8181/ready"
    wait(machine.processes, f"{first.name}-coredns", lambda: healthy(url), seconds=60)


def _values(machine: Machine) -> dict[str, str]:
    addresses = machine.addresses
    return {"dns_ip": addresses.dns_ip, "node1_ip": addresses.node_ip(1), "busybox_image": BUSYBOX_IMAGE}


def kubectl(binaries: Binaries, folders: Folders, *words: str) -> str:
    """Runs kubectl as administrator and returns what it prints."""
    return run([binaries.bin / "kubectl", "--kubeconfig", folders.kubeconfig, *words])


def _start_volumes(machine: Machine) -> None:
    """The provisioner that kind uses; the built-in hostPath one makes folders that a non-root pod cannot write."""
    folders = machine.folders
    folders.volumes.mkdir(exist_ok=True)
    helper, config = folders.state / "volume-helper.yaml", folders.state / "volumes.json"
    render("volume-helper.yaml", helper, _values(machine))
    paths = f'[{{"node": "DEFAULT_PATH_FOR_NON_LISTED_NODES", "paths": ["{folders.volumes}"]}}]'
    config.write_text(f'{{"nodePathMap": {paths}}}\n')
    machine.processes.spawn(
        VOLUMES,
        [
            machine.binaries.bin / "local-path-provisioner",
            "start",
            f"--config={config}",
            f"--kubeconfig={folders.kubeconfig}",
            "--namespace=local-path-storage",
            f"--helper-image={BUSYBOX_IMAGE}",
            f"--helper-pod-file={helper}",
            "--provisioner-name=rancher.io/local-path",
            "--service-account-name=local-path-provisioner",
            "--configmap-name=local-path-config",
        ],
    )
