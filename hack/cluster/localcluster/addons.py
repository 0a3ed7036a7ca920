"""What every cluster has besides control plane and nodes: DNS, volumes, and the objects that go with them."""

from .binaries import Binaries
from .commands import run
from .control_plane import wait
from .node import Machine, Node, render
from .settings import BUSYBOX_IMAGE, Folders

VOLUMES = "volumes"


def start(machine: Machine, first: Node) -> None:
    """Applies the objects and starts CoreDNS on the first node and the volume provisioner beside the control plane."""
    folders, addresses = machine.folders, machine.addresses
    values = {"dns_ip": addresses.dns_ip, "node1_ip": addresses.node_ip(1), "busybox_image": BUSYBOX_IMAGE}
    manifest = folders.state / "addons.yaml"
    render("addons.yaml", manifest, values)
    kubectl(machine.binaries, folders, "apply", "--filename", str(manifest))
    first.spawn("coredns", [str(machine.binaries.bin / "coredns"), "-conf", f"{first.folder}/etc/Corefile"])
    if not machine.processes.alive(VOLUMES):
        _start_volumes(machine, values)


def wait_ready(machine: Machine, first: Node) -> None:
    """Returns once DNS answers."""

    def answers() -> bool:
        question = "exec 3<>/dev/tcp/127.0.0.1/8181 && printf 'GET /ready HTTP/1.0\\r\\n\\r\\n' >&3 && head -1 <&3"
        return " 200 " in run([*first.enter(), "bash", "-c", question + " || true"])

    wait(machine.processes, f"{first.name}-coredns", answers, seconds=60)


def kubectl(binaries: Binaries, folders: Folders, *words: str) -> str:
    """Runs kubectl as administrator and returns what it prints."""
    return run([binaries.bin / "kubectl", "--kubeconfig", folders.kubeconfig, *words])


def _start_volumes(machine: Machine, values: dict[str, str]) -> None:
    """The provisioner that kind uses; the built-in hostPath one makes folders that a non-root pod cannot write."""
    folders = machine.folders
    folders.volumes.mkdir(exist_ok=True)
    helper, config = folders.state / "volume-helper.yaml", folders.state / "volumes.json"
    render("volume-helper.yaml", helper, values)
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
